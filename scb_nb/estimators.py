"""Estimators that are no gradient methods: a screen of moments, and expectation maximisation (EM).

They take one batch and look at it as often as they like. The book measures training against them: how many samples does
the task itself ask for? Derived in the chapter "How far from the limit?".
"""

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike

from scb_nb import validate
from scb_nb.stream import BLOCK_TOKENS, Batch


class Estimate(NamedTuple):
    """Estimates of P (N, N) and Q (T, N), float64; the mean log-likelihood in nats, and the iterations that it took."""

    P: torch.Tensor
    Q: torch.Tensor
    log_likelihood: float
    iterations: int


def chi_squared(batch: Batch) -> torch.Tensor:
    """Return how strongly the answer depends on each position, by query: Pearson's statistic, shape (T, N), float64.

    Entry (t, k) is taken from the table of (answer, token at t) among the samples whose query is k. If the query does
    not read the position, the two are independent, and the statistic is close to chi-squared with (N - 1)^2 degrees of
    freedom. Time and memory are of order B T and T N^3.

    Examples
    --------
    >>> batch = Batch([[0, 0], [1, 0], [0, 1], [1, 1]], query=[0] * 4, target=[1, 0, 1, 0], vocab_size=2)
    >>> chi_squared(batch)[:, 0].tolist()  # position 0 decides, position 1 has no say
    [4.0, 0.0]
    """
    _check(batch)
    N, T = batch.vocab_size, batch.tokens.shape[1]
    # By query, answer, and (position, token).
    counts = torch.zeros(N, N, T * N, dtype=torch.float64, device=batch.tokens.device)
    cell = torch.arange(T, device=batch.tokens.device) * N
    rows = max(1, BLOCK_TOKENS // T)
    for start in range(0, len(batch), rows):
        tokens, query, target = batch[start : start + rows]
        place = (query * N + target)[:, None] * (T * N) + cell + tokens  # (rows, T)
        counts.view(-1).index_add_(0, place.flatten(), counts.new_ones(1).expand(place.numel()))
    table = counts.view(N, N, T, N).permute(2, 0, 1, 3)  # (T, query, answer, token)
    expected = table.sum(3, keepdim=True) * table.sum(2, keepdim=True) / table.sum((2, 3), keepdim=True)
    return torch.where(expected > 0, (table - expected).square() / expected, 0.0).sum((2, 3))


def moment_screen(batch: Batch, false_alarms: float = 0.01) -> torch.Tensor:
    """Return the positions that answers visibly depend on, by query: boolean, shape (T, N).

    ``false_alarms``, in (0, 1), bounds the chance that a position that is not read is named, over all positions and
    queries (Bonferroni), as far as the statistic is chi-squared.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=100, sparsity=2, K_P=0.5, seed=0)
    >>> found = moment_screen(task.sample(3_000, seed=1, device="cpu"))
    >>> bool((found.numpy() == task.support).all())
    True
    """
    validate.fraction("false_alarms", false_alarms)
    statistic = chi_squared(batch)
    freedom = (batch.vocab_size - 1) ** 2
    if freedom == 0:  # one token: nothing can be told apart
        return torch.zeros_like(statistic, dtype=torch.bool)
    tail = torch.special.gammaincc(torch.full_like(statistic, freedom / 2), statistic / 2)
    return tail < false_alarms / statistic.numel()


def expectation_maximisation(
    batch: Batch, P: ArrayLike, Q: ArrayLike, *, iterations: int = 1_000, tolerance: float = 1e-7
) -> Estimate:
    """Climb the likelihood of P and Q on a batch, from a start.

    Each iteration shares every answer among the positions, r_t in proportion to Q[t, k] P[y, x_t], and counts.

    Parameters
    ----------
    batch : Batch
    P, Q : array
        The start: column-stochastic, shapes (N, N) and (T, N). What is zero stays zero, so zeros in Q restrict the
        positions; time and memory are of order B times the largest number of positions that a query may read.
    iterations : int
        At most so many, at least 1.
    tolerance : float
        Stop when the mean log-likelihood rises by less, in nats; at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type, shape or range, or the start says that some answer cannot occur.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, K_P=0.5, seed=0)
    >>> batch = task.sample(3_000, seed=1, device="cpu")
    >>> estimate = expectation_maximisation(batch, task.P, task.Q)  # from the truth
    >>> bool((estimate.Q.numpy() > 0).sum() == task.support.sum()), bool(abs(estimate.P.numpy() - task.P).max() < 0.05)
    (True, True)
    """
    _check(batch)
    N, T = batch.vocab_size, batch.tokens.shape[1]
    validate.integer("iterations", iterations, 1)
    validate.real("tolerance", tolerance, 0)
    P = torch.tensor(validate.probability_columns("P", P, (N, N)), device=batch.tokens.device)
    Q = torch.tensor(validate.probability_columns("Q", Q, (T, N)), device=batch.tokens.device)
    allowed = Q > 0
    positions = torch.argsort((~allowed).to(torch.int8), dim=0, stable=True)[: int(allowed.sum(0).max())]  # (S, N)
    weights = Q.gather(0, positions)  # (S, N)
    query, target = batch.query, batch.target
    tokens = batch.tokens.gather(1, positions.T[query])  # (B, S)
    answered = target[:, None].expand_as(tokens)  # (B, S)
    before, iteration = -float("inf"), 0
    while True:
        shares = weights.T[query] * P[answered, tokens]  # (B, S)
        likelihood = shares.sum(1)  # (B,)
        if not likelihood.all():
            raise ValueError("P and Q must allow every answer of the batch, but some have probability zero")
        now = float(likelihood.log().mean())
        if now - before < tolerance or iteration == iterations:
            return Estimate(P, torch.zeros_like(Q).scatter_(0, positions, weights), now, iteration)
        before, iteration = now, iteration + 1
        shares /= likelihood[:, None]
        weights = _columns(torch.zeros_like(weights.T).index_add_(0, query, shares).T, weights)
        P = _columns(torch.zeros_like(P).index_put_((answered, tokens), shares, accumulate=True), P)


def screened_estimate(batch: Batch, false_alarms: float = 0.01) -> Estimate:
    """Screen the moments, then run EM on the positions that survive, from uniform weights.

    A query without such a position gets uniform attention, and its samples do not count. If that is every query,
    P is estimated by the frequencies of the answers.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=100, sparsity=2, K_P=0.5, seed=0)
    >>> estimate = screened_estimate(task.sample(3_000, seed=1, device="cpu"))
    >>> found = align(estimate.P, estimate.Q, task)
    >>> round(found.alpha_V, 1), round(found.alpha_A, 1)
    (1.0, 1.0)
    """
    found = moment_screen(batch, false_alarms)  # (T, N)
    N = batch.vocab_size
    frequencies = torch.bincount(batch.target, minlength=N).double() / len(batch)
    uniform = torch.full(found.shape, 1 / len(found), dtype=torch.float64, device=found.device)
    answers = frequencies[:, None].repeat(1, N)  # (N, N)
    seen = found.any(0)  # (N,)
    told = seen[batch.query]  # (B,)
    if not told.any():
        return Estimate(answers, uniform, float((frequencies.log().nan_to_num(neginf=0) * frequencies).sum()), 0)
    part = Batch(batch.tokens[told], batch.query[told], batch.target[told], N)
    # A query that is not seen needs some column to start from; it has no samples, so it does not move.
    first = torch.zeros_like(uniform)
    first[0] = 1
    start = torch.where(seen, found / found.sum(0).clamp_min(1), first)
    estimate = expectation_maximisation(part, answers.numpy(force=True), start.numpy(force=True))
    return estimate._replace(Q=torch.where(seen, estimate.Q, uniform))


def _check(batch: Batch) -> None:
    if not isinstance(batch, Batch):
        raise TypeError(f"batch must be an scb_nb.Batch, got {type(batch).__name__}")
    if len(batch) == 0:
        raise ValueError("batch must hold at least one sample, got none")


def _columns(counts: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """Return counts as distributions by column; a column without counts stays as it is in ``otherwise``."""
    totals = counts.sum(0)
    return torch.where(totals > 0, counts / totals, otherwise)
