"""Checks of the chapter "How far from the limit?"."""

from functools import cache
from typing import Any

import numpy as np
import torch

from scb_nb import geometry, screening
from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.objective import batch_gradients
from scb_nb.state import State
from scb_nb.task import SCBTask

multiple_choice(
    "limit-predict",
    "c",
    {
        "a": "That is what it would cost to hear a signal of 1/T. The screen listens to each position by itself.",
        "b": "That is the first sight of a gradient. The screen does not have to learn a direction.",
        "d": "More positions make larger false statistics. By how much does the critical value rise?",
    },
)


@exercise("limit-derive")
def _(answer: Any) -> str | None:
    rng = np.random.default_rng(0)
    for seed in range(4):
        task = SCBTask.random(3 + seed % 2, 5, 2, mu_ratio=1 + 3 * (seed // 2), K_P=0.2, seed=seed)
        P, mu, n = task.P, task.mu, int(rng.integers(100, 5_000))
        squares = (P - mu[:, None]) ** 2
        weights = rng.uniform(size=len(mu)) * (rng.uniform(size=len(mu)) < 0.7)
        weights[0] += 0.1
        contingency = (mu * squares / mu[:, None]).sum()
        truth = n * (mu @ weights) ** 2 * contingency
        given = answer(P.copy(), mu.copy(), weights.copy(), n)
        hint = close(given, truth, "The noncentrality", tolerance=1e-6 * truth)
        if hint is None:
            continue
        if np.ndim(given) != 0:
            return "Return one number, for the table of all samples."
        near = {
            n * (mu @ weights**2) * contingency: "That adds up separate tables. Average the weight, then square.",
            n * (mu @ weights) * contingency: "The difference from independence is squared, and the weight with it.",
            n * weights.mean() ** 2 * contingency: "Not all queries are equally frequent: query k comes with mu_k.",
            n * (mu @ weights) ** 2 * (mu * squares).sum(): "Each square is divided by what its cell expects.",
            n * (mu @ weights) ** 2 * squares.sum(): "The tokens at the position are not equally frequent either.",
            (mu @ weights) ** 2 * contingency: "That is for one sample.",
        }
        for value, words in near.items():
            if abs(float(given) - value) <= 1e-6 * value:
                return words
        return hint
    return None


@cache
def _looks() -> tuple[int, int, int]:
    """Return in how many of the tasks an entry stands out upwards; either way; either way at the lower value."""
    counts = np.zeros(3, dtype=int)
    for seed in range(100, 124):
        task = SCBTask.random(3, 1_000, 2, K_P=0.3, q_floor=0.5, seed=seed)
        batch, mu = task.sample(700, seed, device="cpu"), torch.tensor(task.mu)
        start = State.uniform(mu, task.seq_len)
        D = -geometry.centre_V(batch_gradients(start.V, start.A, batch).V / mu, mu)
        pull = -batch_gradients(start.V + D / geometry.norm(D, mu), start.A, batch).A / mu
        height = (pull - pull.median(0).values) / screening.noise_level(pull, mu)
        one, two = (screening.critical_value(tails * height.numel(), 0.01) for tails in (1, 2))
        counts += [bool(each.any()) for each in (height > one, height.abs() > two, height.abs() > one)]
    return int(counts[0]), int(counts[1]), int(counts[2])


@exercise("limit-experiment")
def _(answer: Any) -> str | None:
    if np.shape(answer) != (2,):
        return "Answer with two numbers: upwards, and either way."
    given = np.asarray(answer, dtype=float)
    if not all(0 <= each <= 24 and each == round(each) for each in given):
        return "Both are numbers of tasks, from 0 to 24."
    upwards, either, _ = _looks()
    # A sample more or less at the edge may depend on the machine.
    if abs(given[0] - upwards) > 1:
        return "The first number is off. Direction and pulls are to come from the same 700 samples of each task."
    if abs(given[1] - either) <= 1:
        return None
    if given[1] < given[0]:
        return "Either way includes upwards, so the second number cannot be smaller."
    if abs(given[1] - (either - upwards)) <= 1:
        return "That is how many stand out downwards only. Count those that stand out either way."
    if given[1] == given[0]:
        return "Nothing new? Look at the absolute value of the heights."
    return "The first number is right, the second is off. Two tails are 2 T N chances for a false alarm."
