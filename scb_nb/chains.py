"""Markov chains on tokens: the stationary distribution of a given one, and random ones with a given distribution.

A chain is a column-stochastic matrix P (N, N); its stationary distribution mu (N,) has P mu = mu (chapter 1).
"""

import numpy as np
from numpy.typing import ArrayLike

from scb_nb import validate
from scb_nb.validate import FloatArray


def stationary_distribution(P: ArrayLike) -> FloatArray:
    """Return the probability vector mu (N,) with P mu = mu, for a column-stochastic, irreducible P (N, N).

    Raises
    ------
    ValueError
        If P is reducible: then mu is not unique or not positive. Also if an entry of mu is too small for double
        precision.

    Examples
    --------
    >>> stationary_distribution([[0.5, 0.25], [0.5, 0.75]]).round(4)
    array([0.3333, 0.6667])
    """
    P = np.asarray(P, dtype=np.float64)
    size = len(P)
    reachable = (P > 0) | np.eye(size, dtype=bool)
    for _ in range(size.bit_length()):  # paths of up to 1, 2, 4, ... steps
        reachable = reachable.astype(np.float32) @ reachable.astype(np.float32) > 0
    if not reachable.all():
        end, start = np.argwhere(~reachable)[0]
        raise ValueError(f"P must be irreducible, but token {end} can never be reached from token {start}")
    # Elimination without subtraction (Grassmann, Taksar and Heyman, 1985): the smallest entries are as precise as the
    # largest.
    flow = P.copy()
    mu = np.ones(size)
    with np.errstate(divide="ignore", invalid="ignore"):
        for last in range(size - 1, 0, -1):  # watch the chain only while it is at a token before ``last``
            flow[last, :last] /= flow[:last, last].sum()
            flow[:last, :last] += np.outer(flow[:last, last], flow[last, :last])
        for token in range(1, size):
            mu[token] = flow[token, :token] @ mu[:token]
        mu /= mu.sum()
    if not (mu > 0).all():
        raise ValueError("P must be irreducible in double precision, but some tokens are too rare for it")
    return mu


def random_mu(vocab_size: int, mu_ratio: float, rng: np.random.Generator) -> FloatArray:
    """Log-uniform weights, stretched so that the largest is exactly ``mu_ratio`` times the smallest."""
    level = rng.random(vocab_size)
    level = (level - level.min()) / max(float(np.ptp(level)), 1e-300)
    weights = mu_ratio**level
    return weights / weights.sum()


def random_P(mu: FloatArray, K_P: float | None, rng: np.random.Generator) -> FloatArray:
    """Draw P with stationary distribution ``mu`` and, where it is given, the signal ``K_P``.

    Mixing a draw with mu 1^T scales its signal down to what is asked for. Where the draw has too little to begin with,
    smaller concentrations give sharper ones; past these, mixing with the identity, which has all there can be, makes up
    the rest.
    """
    independent = np.outer(mu, np.ones(len(mu)))
    limit = 1 - float(mu @ mu)
    if K_P is None:
        return _random_coupling(mu, 0.3, rng) / mu
    K_P = validate.real("K_P", K_P, 0, 0.98 * limit)  # at the limit itself P is the identity, reducible
    for concentration in (0.3, 0.1, 0.03):
        signal = _random_coupling(mu, concentration, rng) / mu - independent
        strength = float((signal**2).sum(axis=0) @ mu)
        if strength >= K_P:
            return independent + np.sqrt(K_P / max(strength, 1e-300)) * signal
    identity = np.eye(len(mu)) - independent
    cross = float((signal * identity).sum(axis=0) @ mu)
    # || (1 - w) signal + w identity ||_mu^2 = K_P, a quadratic in the weight w.
    roots = np.roots([strength + limit - 2 * cross, 2 * (cross - strength), strength - K_P])
    weight = min(1.0, float(roots.real.max()))
    return independent + (1 - weight) * signal + weight * identity


def _random_coupling(mu: FloatArray, concentration: float, rng: np.random.Generator) -> FloatArray:
    """Draw a joint distribution (N, N) of two tokens, both with marginal ``mu``; a small ``concentration`` is spiky."""
    while True:
        joint = rng.gamma(concentration, size=(len(mu), len(mu))) + 1e-6
        for _ in range(5_000):  # Sinkhorn's iteration; a draw on which it is slow is dropped
            joint *= (mu / joint.sum(axis=1))[:, None]
            columns = joint.sum(axis=0)
            joint *= mu / columns
            if np.abs(columns / mu - 1).max() < 1e-13:
                return joint
