"""Checks of chapter 4."""

from functools import cache
from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.task import SCBTask

multiple_choice(
    "population-predict",
    "c",
    {
        "a": "To turn round, alpha_V would have to cross zero. Which sign has d alpha_A, and where does that pull it?",
        "b": "The branch is right. But along it, can alpha_V come from negative values to 1? What happens at zero?",
        "d": "(-0.5, 0) is no point of rest. Which sign has d alpha_A there?",
    },
)


@exercise("population-derive")
def _(answer: Any) -> str | None:
    for theta, K_P, K_Q, eta_V, eta_A in [
        (0.0, 0.1, 0.4, 1.0, 1.0),
        (1.0, 0.3, 0.3, 1.0, 1.0),
        (0.6, 0.2, 0.5, 1.0, 1.0),
        (0.6, 0.2, 0.5, 0.4, 1.7),
    ]:
        kappa = eta_V * K_Q / (eta_A * K_P)
        truth = np.sqrt((theta**2 + np.sqrt(theta**4 + 4 * kappa)) / 2)
        given = answer(theta, K_P, K_Q, eta_V, eta_A)
        hint = close(given, truth, "alpha_V at the landing")
        if hint is None:
            continue
        if close(given, truth**2, "") is None:
            return "That is its square."
        if close(given, 1 / truth, "") is None:
            return "That is alpha_A at the landing."
        if theta == 0:
            return hint + " Begin with theta = 0 and equal steps, where it is (K_Q / K_P)^(1/4)."
        if close(given, kappa**0.25, "") is None:
            return hint + " Yours does not feel the head start. What is the conserved quantity at the start?"
        if eta_V != eta_A:
            return hint + " With equal step sizes it is right. What is conserved when they differ?"
        return hint + " The conserved quantity has the same value at the start and on the hyperbola."
    return None


def _second_minus_first_drop(counts: tuple[int, ...], scale: float) -> int:
    """Train factored attention as the exercise says, in the plane of V; return the steps between drops 1 and 2."""
    seq_len, rate, vocab_size = 100, 0.2, len(counts)
    Q = np.zeros((seq_len, vocab_size))
    for k, count in enumerate(counts):
        Q[sum(counts[:k]) : sum(counts[: k + 1]), k] = 1 / count
    task = SCBTask(SCBTask.random(vocab_size, 1, 1, K_P=0.3, seed=0).P, Q)
    D, mu, K_P = Q - 1 / seq_len, task.mu, task.K_P
    squares = np.linalg.svd(D * np.sqrt(mu), compute_uv=False) ** 2
    rng = np.random.default_rng(0)
    F = rng.normal(size=(seq_len, 3)) * scale / np.sqrt(seq_len)
    H = rng.normal(size=(vocab_size, 3)) * scale / np.sqrt(vocab_size)
    F -= F.mean(axis=0)
    alpha_V = 0.0
    reached: list[int] = []
    for step in range(5_000):
        product = F @ H.T
        excess = ((D - alpha_V * product) ** 2).sum(axis=0) @ mu + (1 - alpha_V) ** 2 / seq_len
        if excess < squares[len(reached)] / 2 + squares[len(reached) + 1 :].sum():
            reached.append(step)
            if len(reached) == 2:
                return reached[1] - reached[0]
        pull = K_P * alpha_V * (D - alpha_V * product)
        overlap, square = (D * product).sum(axis=0) @ mu, (product**2).sum(axis=0) @ mu
        alpha_V += rate * (overlap - alpha_V * square + (1 - alpha_V) / seq_len)
        F, H = F + rate * (pull * mu) @ H, H + rate * pull.T @ F
    raise AssertionError("the loss did not drop twice")


@cache
def _growth(counts: tuple[int, ...]) -> int:
    return _second_minus_first_drop(counts, 1e-4) - _second_minus_first_drop(counts, 1e-3)


@exercise("population-experiment")
def _(answer: Any) -> str | None:
    given = np.asarray(answer, dtype=float)
    if given.shape != (2,):
        return "Answer with two numbers: the growth of the gap for [1, 4, 16], then for [1, 1, 1]."
    unequal, equal = _growth((1, 4, 16)), _growth((1, 1, 1))
    if abs(given[0] - unequal) <= 0.15 * unequal and abs(given[1] - equal) <= 0.1 * unequal:
        return None
    if abs(given[1] - unequal) <= 0.15 * unequal and abs(given[0] - equal) <= 0.1 * unequal:
        return "The other way round: [1, 4, 16] first."
    if abs(given[0] - _second_minus_first_drop((1, 4, 16), 1e-4)) <= 0.05 * unequal:
        return "The first number is the gap itself. Asked is by how much it grows when the start shrinks tenfold."
    wrong = "first" if abs(given[0] - unequal) > 0.15 * unequal else "second"
    return f"The {wrong} number is off. Are the step sizes 0.2, T = 100, and the starts 1e-3 and 1e-4 in size?"
