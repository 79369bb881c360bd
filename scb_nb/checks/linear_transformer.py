"""Checks of chapter 3."""

from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.objective import population_loss
from scb_nb.task import SCBTask
from scb_nb.theory import on_plane, trajectory

multiple_choice(
    "transformer-predict",
    "b",
    {
        "a": "The part for V is r w^T, averaged: does anything make that vanish on a batch?",
        "c": "One of them is r w^T, averaged, and does not vanish. Compute V^T r for the other.",
        "d": "Compute V^T r at V = mu 1^T: how does it differ between tokens?",
    },
)


@exercise("transformer-derive")
def _(answer: Any) -> str | None:
    for seed in range(4):
        task = SCBTask.random(3, 10, 2, mu_ratio=3, seed=seed)
        alpha_V, alpha_A = np.random.default_rng(seed).normal(size=2)
        truth = float(population_loss(*on_plane(alpha_V, alpha_A, task), task))
        given = answer(alpha_V, alpha_A, task.K_P, task.K_Q, task.seq_len, float(task.mu @ task.mu))
        hint = close(given, truth, "The loss")
        if hint:
            at_optimum = answer(1, 1, task.K_P, task.K_Q, task.seq_len, float(task.mu @ task.mu))
            right = close(at_optimum, task.bayes_risk, "") is None
            return hint + (" At (1, 1) it is right." if right else " At (1, 1) it should be the Bayes risk.")
    return None


@exercise("transformer-experiment")
def _(answer: Any) -> str | None:
    counts = []
    for seq_len in (10_000, 100_000):
        task = SCBTask.random(4, seq_len, 2, mu_ratio=2, K_P=0.3, seed=53)
        path = trajectory(task, 3_000, step_size_V=0.05, step_size_A=0.05)
        counts.append(int(np.argmax(path.prod(axis=1) >= 0.5)))
    extra = counts[1] - counts[0]
    if np.ndim(answer) != 0:
        return "Answer with one number."
    if abs(float(answer) - extra) <= 0.1 * extra:
        return None
    if abs(float(answer) - counts[1]) <= 0.1 * counts[1]:
        return "That is how long the longest context takes; asked is the difference to one ten times shorter."
    return "Compare T = 10,000 with T = 100,000, with both step sizes at 0.05."
