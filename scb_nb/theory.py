"""Training seen from above: two numbers that summarise V and A, and the flow that they follow.

Preconditioned and projected, gradient descent on the population loss from V = mu 1^T, A = 1 1^T / T never leaves the
plane V = mu 1^T + alpha_V (P - mu 1^T), A = 1 1^T / T + alpha_A (Q - 1 1^T / T); derived in chapter 3.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scb_nb import geometry, validate
from scb_nb.model import check_parameters
from scb_nb.validate import FloatArray

if TYPE_CHECKING:
    from scb_nb.task import SCBTask


class Alignment(NamedTuple):
    """Where V and A stand: coordinates in the plane, distances from it (in ||.||_mu), and distances from P and Q.

    A coordinate is NaN where it is undefined: ``alpha_V`` if K_P = 0, ``alpha_A`` if K_Q = 0.
    """

    alpha_V: float
    alpha_A: float
    residual_V: float
    residual_A: float
    error_V: float
    error_A: float


def align(V: torch.Tensor, A: torch.Tensor, task: "SCBTask") -> Alignment:
    """Measure V (N, N) and A (T, N) against a task.

    alpha_V = <V - mu 1^T, P - mu 1^T>_mu / K_P and alpha_A = <A - 1 1^T / T, Q - 1 1^T / T>_mu / K_Q: (0, 0) knows
    nothing, (1, 1) is optimal if the residuals, what the two coordinates leave unexplained, are 0. Computed in float64.

    Raises
    ------
    TypeError, ValueError
        If V and A are not tensors of the task's shapes.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
    >>> P, Q, mu = task.tensors(like=torch.zeros((), dtype=torch.float64))
    >>> found = align(P, (Q + 1 / 8) / 2, task)  # half of the way in A
    >>> round(found.alpha_V, 6), round(found.alpha_A, 6), found.residual_A < 1e-12
    (1.0, 0.5, True)
    """
    check_parameters(V, A)
    V, A = V.detach().double(), A.detach().double()
    P, Q, mu = task.tensors(like=V)
    if A.shape != Q.shape:
        raise ValueError(f"A must have the shape of the task's Q, {task.Q.shape}, got {tuple(A.shape)}")
    alpha_V, residual_V = _coordinate(V - mu[:, None], P - mu[:, None], mu)
    alpha_A, residual_A = _coordinate(A - 1 / len(Q), Q - 1 / len(Q), mu)
    errors = (float(geometry.norm(V - P, mu)), float(geometry.norm(A - Q, mu)))
    return Alignment(alpha_V, alpha_A, residual_V, residual_A, *errors)


def _coordinate(point: torch.Tensor, axis: torch.Tensor, mu: torch.Tensor) -> tuple[float, float]:
    """Return the coordinate of ``point`` along ``axis`` and its distance from it."""
    length = float(geometry.norm(axis, mu))
    if length < 1e-12:
        return float("nan"), float(geometry.norm(point, mu))
    alpha = geometry.inner(point, axis, mu) / length**2
    return float(alpha), float(geometry.norm(point - alpha * axis, mu))


def on_plane(alpha_V: float, alpha_A: float, task: "SCBTask") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the V (N, N) and A (T, N) with these coordinates and no residual, in float64 on the CPU.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
    >>> V, A = on_plane(0.5, 0.25, task)
    >>> round(align(V, A, task).alpha_V, 6), round(align(V, A, task).alpha_A, 6)
    (0.5, 0.25)
    """
    P, Q, mu = task.tensors(like=torch.empty((), dtype=torch.float64))
    uniform = torch.full_like(Q, 1 / task.seq_len)
    start = mu[:, None].expand_as(P)
    return start + alpha_V * (P - start), uniform + alpha_A * (Q - uniform)


def flow(
    alpha_V: np.ndarray | float, alpha_A: np.ndarray | float, K_P: float, K_Q: float, seq_len: int
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return the velocities of both coordinates under preconditioned gradient flow; arrays broadcast.

    Derived in chapter 3:
    d alpha_V = K_Q alpha_A (1 - alpha_V alpha_A) + (1 - alpha_V) / T,  d alpha_A = K_P alpha_V (1 - alpha_V alpha_A).

    Examples
    --------
    >>> flow(0.0, 0.0, K_P=0.5, K_Q=0.25, seq_len=10)  # from ignorance, V moves first
    (0.1, 0.0)
    >>> flow(1.0, 1.0, K_P=0.5, K_Q=0.25, seq_len=10)  # at the truth, nothing does
    (0.0, 0.0)
    """
    unexplained = 1 - alpha_V * alpha_A
    return K_Q * alpha_A * unexplained + (1 - alpha_V) / seq_len, K_P * alpha_V * unexplained


def trajectory(
    task: "SCBTask",
    steps: int,
    *,
    step_size_V: float,
    step_size_A: float,
    start: tuple[float, float] = (0.0, 0.0),
) -> FloatArray:
    """Return (alpha_V, alpha_A) after 0, 1, ..., ``steps`` exact gradient steps, shape (steps + 1, 2).

    These are the coordinates of full-matrix training on the population loss, to rounding. Step sizes are at least 0.

    Raises
    ------
    ValueError
        If the iteration diverges, naming the step and the step sizes.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, K_P=0.5, seed=0)
    >>> path = trajectory(task, 1_000, step_size_V=0.5, step_size_A=0.5)
    >>> path[[0, 1, -1]].round(4).tolist()  # V moves first; in the end both are there
    [[0.0, 0.0], [0.0625, 0.0], [1.0, 1.0]]
    """
    steps = validate.integer("steps", steps)
    rates = np.array(
        [validate.real(name, value, 0) for name, value in (("step_size_V", step_size_V), ("step_size_A", step_size_A))]
    )
    K_P, K_Q = task.K_P, task.K_Q
    path = np.empty((steps + 1, 2))
    if len(start) != 2:
        raise ValueError(f"start must be two numbers, alpha_V and alpha_A, got {start!r}")
    path[0] = [validate.real("start", value, -1e6, 1e6) for value in start]
    for step in range(steps):
        alpha_V, alpha_A = path[step]
        path[step + 1] = path[step] + rates * flow(alpha_V, alpha_A, K_P, K_Q, task.seq_len)
        if not np.abs(path[step + 1]).max() < 1e6:
            raise ValueError(
                f"diverged at step {step + 1}: "
                f"step_size_V = {step_size_V:g} and step_size_A = {step_size_A:g} are too large"
            )
    return path


def follow_flow(
    K_P: float,
    K_Q: float,
    seq_len: float,
    until: float,
    *,
    rate_V: float = 1.0,
    rate_A: float = 1.0,
    start: tuple[float, float] = (0.0, 0.0),
    tolerance: float = 1e-6,
) -> tuple[FloatArray, FloatArray]:
    """Return times (n,) from 0 to ``until``, and (alpha_V, alpha_A) at these times, shape (n, 2).

    In continuous time: d alpha_V = rate_V * v_V and d alpha_A = rate_A * v_A, with the velocities v of :func:`flow`.
    The steps are small where the flow is fast and large where it creeps, so a time of many ``seq_len`` costs little.

    Parameters
    ----------
    K_P, K_Q : float
        Strengths of the signals, at least 0.
    seq_len : float
        T, above 0; on a support, the number of positions that each query may read (chapter 4).
    until : float
        The last time, above 0.
    rate_V, rate_A : float
        Step sizes, in effect; at least 0.
    start : tuple
        Two numbers, (alpha_V, alpha_A) at time 0, each between -100 and 100.
    tolerance : float
        The largest error of one step in a coordinate, relative to its size or, if larger, to ``1 / seq_len``; between
        1e-10 and 0.1.

    Notes
    -----
    A Rosenbrock method of order 2 (ode23s of Shampine and Reichelt, 1997). Beyond the escape the flow has two time
    scales, 1 and T. A method without the Jacobian would have to take steps of order 1 all the way.

    Examples
    --------
    >>> times, path = follow_flow(K_P=0.1, K_Q=0.4, seq_len=1_000, until=1e6)
    >>> float(times[-1]), path[-1].round(3).tolist(), len(times) < 1_000
    (1000000.0, [1.0, 1.0], True)
    """
    for name, value in (("K_P", K_P), ("K_Q", K_Q), ("rate_V", rate_V), ("rate_A", rate_A)):
        validate.real(name, value, 0)
    validate.real("seq_len", seq_len, 1e-9)
    until = validate.real("until", until, 1e-9)
    tolerance = validate.real("tolerance", tolerance, 1e-10, 0.1)
    if len(start) != 2:
        raise ValueError(f"start must be two numbers, alpha_V and alpha_A, got {start!r}")
    x, y = (float(validate.real("start", value, -100, 100)) for value in start)

    def velocity(x: float, y: float) -> tuple[float, float]:
        unexplained = 1 - x * y
        return rate_V * (K_Q * y * unexplained + (1 - x) / seq_len), rate_A * K_P * x * unexplained

    d, e = 1 / (2 + math.sqrt(2)), 6 + math.sqrt(2)
    times, path, now = [0.0], [(x, y)], velocity(x, y)
    time, step = 0.0, min(until, 1e-3)
    while time < until:
        step = min(step, until - time)
        # W = 1 - step * d * (Jacobian of the velocity) = [[W_xx, W_xy], [W_yx, W_yy]].
        W_xx = 1 + step * d * rate_V * (K_Q * y * y + 1 / seq_len)
        W_xy = -step * d * rate_V * K_Q * (1 - 2 * x * y)
        W_yx = -step * d * rate_A * K_P * (1 - 2 * x * y)
        W_yy = 1 + step * d * rate_A * K_P * x * x
        determinant = W_xx * W_yy - W_xy * W_yx
        if determinant <= 0:  # longer than the growth allows
            step /= 2
            continue
        k1 = _solve(W_xx, W_xy, W_yx, W_yy, *now)
        middle = velocity(x + step / 2 * k1[0], y + step / 2 * k1[1])
        k2 = _solve(W_xx, W_xy, W_yx, W_yy, middle[0] - k1[0], middle[1] - k1[1])
        k2 = k2[0] + k1[0], k2[1] + k1[1]
        there = x + step * k2[0], y + step * k2[1]
        end = velocity(*there)
        k3 = _solve(
            *(W_xx, W_xy, W_yx, W_yy),
            *(end[i] - e * (k2[i] - middle[i]) - 2 * (k1[i] - now[i]) for i in (0, 1)),
        )
        error = max(
            abs(step / 6 * (k1[i] - 2 * k2[i] + k3[i])) / max(abs(path[-1][i]), abs(there[i]), 1 / seq_len)
            for i in (0, 1)
        )
        if error <= tolerance:
            time = until if step == until - time else time + step
            (x, y), now = there, end
            times.append(time)
            path.append(there)
        step *= min(4.0, max(0.2, 0.8 * (tolerance / max(error, 1e-30)) ** (1 / 3)))
    return np.array(times), np.array(path)


def _solve(a: float, b: float, c: float, d: float, u: float, v: float) -> tuple[float, float]:
    """Return the solution of [[a, b], [c, d]] @ (x, y) = (u, v)."""
    determinant = a * d - b * c
    return (d * u - b * v) / determinant, (a * v - c * u) / determinant


class Milestones(NamedTuple):
    """When a path of the flow is where, as times (NaN if never), and the point where it lands (chapter 4).

    ``half``: the product alpha_V alpha_A first reaches 1/2. ``landed``: it is first within 0.01 of 1. ``near``: both
    coordinates are first within 0.05 of 1. ``landing_V`` and ``landing_A``: the coordinates at ``landed``.
    """

    half: float
    landed: float
    landing_V: float
    landing_A: float
    near: float


def milestones(times: FloatArray, path: FloatArray) -> Milestones:
    """Find the milestones of a path, as :func:`follow_flow` returns it: times (n,), points (n, 2).

    Examples
    --------
    >>> found = milestones(*follow_flow(K_P=0.1, K_Q=0.4, seq_len=1_000, until=1e5))
    >>> round(found.landing_V, 2), round(found.landing_A, 2)  # far from (1, 1), but the product is 0.99
    (1.41, 0.7)
    >>> found.half < found.landed < found.near
    True
    """
    product = path.prod(axis=1)
    landed = first_time(times, 0.01 - np.abs(1 - product))
    landing_V, landing_A = (float(np.interp(landed, times, column)) for column in path.T)
    near = first_time(times, 0.05 - np.abs(1 - path).max(axis=1))
    return Milestones(first_time(times, product - 0.5), landed, landing_V, landing_A, near)


def first_time(times: FloatArray, values: FloatArray) -> float:
    """Return when ``values`` are first at least 0, interpolated between ``times``; NaN if never.

    Examples
    --------
    >>> first_time(np.array([0.0, 1.0, 2.0]), np.array([-3.0, -1.0, 1.0]))
    1.5
    """
    reached = np.flatnonzero(values >= 0)
    if len(reached) == 0:
        return float("nan")
    after = int(reached[0])
    if after == 0:
        return float(times[0])
    share = values[after - 1] / (values[after - 1] - values[after])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))
