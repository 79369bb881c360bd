"""Training seen from above: two numbers that summarise V and A, and the flow that they follow.

Preconditioned and projected, gradient descent on the population loss from V = mu 1^T, A = 1 1^T / T never leaves the
plane V = mu 1^T + alpha_V (P - mu 1^T), A = 1 1^T / T + alpha_A (Q - 1 1^T / T); derived in chapter 3.
"""

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
    """Return the V (N, N) and A (T, N) with these coordinates and no residual, in float64 on the CPU."""
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
