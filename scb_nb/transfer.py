"""Transfer: pairs of tasks that share mu, and training that starts from what the first has taught V.

Derived in the chapter "Transfer". :class:`scb_nb.probes.Probes` is the stage that listens from there.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

from scb_nb import geometry, validate
from scb_nb.state import State
from scb_nb.task import SCBTask

DRAWS = 100_000  # so often related_task tries; it stops at the first P' without a negative entry


def correlation(P: ArrayLike, other: ArrayLike, mu: ArrayLike) -> float:
    """Return the correlation of two transition matrices (N, N) beyond mu 1^T: their cosine in the mu-weighted norm.

    It is between -1 and 1, and NaN if one of them is mu 1^T. Estimates of P, such as V, will do as well.

    Raises
    ------
    TypeError, ValueError
        If an argument is not an array of real numbers, or not of its shape.

    Examples
    --------
    >>> round(correlation([[0.9, 0.1], [0.1, 0.9]], [[0.2, 0.8], [0.8, 0.2]], mu=[0.5, 0.5]), 6)
    -1.0
    """
    weights = validate.real_array("mu", mu)
    if weights.ndim != 1:
        raise ValueError(f"mu must have shape (N,), got {weights.shape}")
    beyond = []
    for name, value in (("P", P), ("other", other)):
        matrix = validate.real_array(name, value)
        if matrix.shape != (len(weights), len(weights)):
            raise ValueError(f"{name} must have shape {(len(weights), len(weights))}, as mu has, got {matrix.shape}")
        beyond.append(torch.tensor(matrix - weights[:, None]))
    first, second, by = *beyond, torch.tensor(weights)
    return float(geometry.inner(first, second, by) / (geometry.norm(first, by) * geometry.norm(second, by)))


def warm_start(V: torch.Tensor, mu: torch.Tensor, seq_len: int, theta: float = 1.0) -> State:
    """Return the state with V = theta V_pre + (1 - theta) mu 1^T and uniform attention, for ``fit(..., start=...)``.

    :class:`scb_nb.probes.Probes` and small steps start from this V. :class:`scb_nb.stages.LargeSteps`, the first of the
    default stages, does not: it always begins at mu 1^T.

    Parameters
    ----------
    V : tensor of shape (N, N)
        V_pre, the value matrix of another task with this mu.
    mu : tensor of shape (N,)
        Like V in dtype and device.
    seq_len : int
        T of the new task.
    theta : float
        In [-1, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type, shape or range.

    Examples
    --------
    >>> warm_start(torch.eye(2), torch.tensor([0.5, 0.5]), seq_len=4, theta=0.5).V
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    if not isinstance(V, torch.Tensor) or not isinstance(mu, torch.Tensor):
        raise TypeError(f"V and mu must be tensors, got {type(V).__name__} and {type(mu).__name__}")
    if mu.ndim != 1 or V.shape != (len(mu), len(mu)):
        raise ValueError(f"V must be (N, N) and mu (N,), got shapes {tuple(V.shape)} and {tuple(mu.shape)}")
    if (V.dtype, V.device) != (mu.dtype, mu.device):
        raise ValueError(f"mu must be {V.dtype} on {V.device}, as V is, got {mu.dtype} on {mu.device}")
    state = State.uniform(mu, validate.integer("seq_len", seq_len, 1))
    state.V = state.V + validate.real("theta", theta, -1, 1) * (V - state.V)
    return state


def related_task(
    task: SCBTask, correlation: float, *, seed: int, keep_Q: bool = False, q_floor: float = 0.3
) -> SCBTask:
    """Draw a task with the same mu, K_P, sizes and sparsity, whose P has a given correlation with that of ``task``.

    P' = mu 1^T + c D + sqrt(1 - c^2) R, with D = P - mu 1^T and R a random matrix of the length of D that is orthogonal
    to it and has 1^T R = 0 and R mu = 0. R is drawn again until no entry of P' is negative.

    Parameters
    ----------
    task : SCBTask
    correlation : float
        c, in [-1, 1].
    seed : int
        Same seed, same task.
    keep_Q : bool
        Keep Q, instead of drawing a new one.
    q_floor : float
        As in :meth:`scb_nb.SCBTask.random`, for a new Q.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or no such P' is found: the stronger the signal and the more tokens,
        the fewer there are.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, K_P=0.2, seed=0)
    >>> other = related_task(task, 0.5, seed=1)
    >>> round(correlation(task.P, other.P, task.mu), 6), round(other.K_P, 6)
    (0.5, 0.2)
    """
    if not isinstance(task, SCBTask):
        raise TypeError(f"task must be an SCBTask, got {type(task).__name__}")
    correlation = validate.real("correlation", correlation, -1, 1)
    validate.real("task.K_P", task.K_P, 1e-9)
    if task.vocab_size == 2 and abs(correlation) != 1:
        raise ValueError(f"correlation must be -1 or 1 where there are two tokens, got {correlation:g}")
    rng = np.random.default_rng(validate.integer("seed", seed))
    Q = task.Q
    if not validate.flag("keep_Q", keep_Q):
        sizes = task.vocab_size, task.seq_len, task.sparsity
        Q = SCBTask.random(*sizes, q_floor=q_floor, seed=int(rng.integers(2**31))).Q
    mu = torch.tensor(task.mu)
    D = torch.tensor(task.P) - mu[:, None]
    length = geometry.norm(D, mu)
    for _ in range(DRAWS):
        R = geometry.centre_V(torch.tensor(rng.standard_normal(D.shape)), mu)
        R -= geometry.inner(R, D, mu) / length.square() * D
        R *= length / geometry.norm(R, mu).clamp_min(1e-30)
        P = mu[:, None] + correlation * D + (1 - correlation**2) ** 0.5 * R
        if (P >= 0).all():
            return SCBTask(P.numpy(), Q)
    raise ValueError(
        f"no transition matrix with correlation {correlation} was found in {DRAWS} draws; "
        f"a smaller K_P than {task.K_P:.3g} leaves more room"
    )
