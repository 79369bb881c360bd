"""Checks of chapter 6."""

from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.screening import critical_value
from scb_nb.task import SCBTask

multiple_choice(
    "stage-two-predict",
    "c",
    {
        "a": "That would be so for a threshold of fixed height. Here the height is what makes the sum one.",
        "b": "Why the square root? Write down what the strong entries lose, and where it goes.",
        "d": "Then the strong entries would lose something that nobody gets. What is the sum of the column?",
    },
)


def _soft(values: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(values) * np.maximum(np.abs(values) - threshold, 0)


def _minimiser(a: np.ndarray, threshold: float) -> np.ndarray:
    """Return the minimiser of 1/2 ||z - a||^2 + threshold ||z||_1 over z with sum one, by bisection of the shift."""
    low, high = a.min() - threshold - 1, a.max() + threshold
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _soft(a - middle, threshold).sum() > 1 else (low, middle)
    return _soft(a - low, threshold)


@exercise("stage-two-derive")
def _(answer: Any) -> str | None:
    rng = np.random.default_rng(0)
    for size, threshold in ((1, 0.3), (3, 0.0), (8, 0.05), (8, 0.4), (30, 0.1), (30, 2.0)):
        a = rng.normal(size=size)
        truth = _minimiser(a, threshold)
        given = answer(a.copy(), threshold)
        hint = close(given, truth, "The minimiser", tolerance=1e-6)
        if hint is None:
            continue
        given = np.asarray(given, dtype=float)
        if given.shape == truth.shape:
            soft = _soft(a, threshold)
            kept = soft != 0
            if close(given, soft, "", 1e-6) is None:
                return "That is the soft threshold without the constraint: its sum is not one."
            if kept.any() and close(given, np.where(kept, soft + (1 - soft.sum()) / kept.sum(), 0), "", 1e-6) is None:
                return "That is threshold and give back, which is not the minimiser: shift first, then threshold."
            if abs(given.sum() - 1) > 1e-6:
                return f"Its sum is {given.sum():.3g}, not one."
            if close(given, _minimiser(a, 1e3), "", 1e-6) is None:
                return "That is the projection onto the probability vectors. Here entries may be negative."
        return hint
    return None


def _weak_task(weight: float) -> SCBTask:
    Q = np.zeros((200, 4))
    for k in range(4):
        Q[[k, 100 + k], k] = 1 - weight, weight
    return SCBTask(SCBTask.random(4, 1, 1, K_P=0.2, seed=0).P, Q)


@exercise("stage-two-experiment")
def _(answer: Any) -> str | None:
    if np.ndim(answer) != 0:
        return "Answer with one number."
    task, samples = _weak_task(0.05), 20_000
    Sigma = np.diag(task.mu) - np.outer(task.mu, task.mu)
    M = task.P @ Sigma @ task.P.T
    omega = np.sqrt(np.trace(M @ Sigma) - (task.Q[:, 0] ** 2).sum() * np.trace(M @ M))
    noise = omega / np.sqrt(samples * task.mu[0])
    units = critical_value(task.Q.size, 0.01)
    truth, given = units * noise / task.K_P, float(answer)
    # One gradient tells the level of its noise to a few per cent.
    if abs(given - truth) <= 0.12 * truth:
        return None
    if abs(given - noise / task.K_P) <= 0.12 * noise / task.K_P:
        return "At that weight it stands one unit of noise high. The critical value is higher."
    if abs(given - units * noise) <= 0.12 * units * noise:
        return "That is how high the entry of the gradient must be. The signal is K_P times the weight."
    bound = units / np.sqrt(samples * task.K_P)
    if abs(given - bound) <= 0.03 * bound:
        return "That is the bound of the text, which is not sharp here. Measure the noise of a gradient instead."
    if not 0 < given < 1:
        return "A weight lies between 0 and 1."
    return f"That is too {'small' if given < truth else 'large'}: compare K_P times the weight with z times the noise."
