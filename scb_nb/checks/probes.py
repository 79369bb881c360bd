"""Checks of the chapter "Is stage 1 necessary?"."""

import math
from functools import cache
from typing import Any

import numpy as np
import torch

from scb_nb import screening
from scb_nb.checks.core import NotAnswered, exercise, multiple_choice
from scb_nb.objective import batch_gradients
from scb_nb.probes import random_probes
from scb_nb.state import State
from scb_nb.task import SCBTask

multiple_choice(
    "probes-predict",
    "c",
    {
        "a": "That is what a typical correlation would make it, roughly: (N - 1)^2 with the square. Is it the mean?",
        "b": "One over the mean of c^2 is not the mean of 1 / c^2. How often is c^2 close to zero?",
        "d": "Signs do not matter, but sizes do: the samples needed go like 1 / c^2.",
    },
)


def _critical(H: int) -> float:
    """Something that behaves like a critical value."""
    return H + 5.0 * math.sqrt(2 * H) + 17.0


@exercise("probes-derive")
def _(answer: Any) -> str | None:
    for d in (4, 16, 81):
        for H in sorted({1, 2, 3, d // 2 + 1, d - 1, d}):
            factor = (_critical(H) - H) / (_critical(d) - d)
            truth = 1.0 if d == H else math.inf if H <= 2 else factor * (d - 2) / (H - 2)
            given = answer(H, d, _critical)
            if given is None or given is ...:
                raise NotAnswered
            if np.ndim(given) != 0:
                return "Return one number."
            value = float(given)
            if value == truth or abs(value - truth) <= 1e-8 * truth < math.inf:
                continue
            if d == H:
                return f"With all probes, H = d = {d}, nothing is left to chance: the price is 1, not {value:.3g}."
            if truth == math.inf:
                return f"For H = {H} of {d} probes the mean of 1 / b does not exist. Yours is {value:.3g}."
            near = {
                factor
                * d
                / H: "That divides by the mean share. The mean of 1 / b is larger than one over the mean of b.",
                (d - 2) / (H - 2): "That is the mean of 1 / b. The critical value changes with H as well.",
                _critical(H)
                / _critical(d)
                * (d - 2)
                / (H - 2): "Take H off the critical value: noise alone sums to H.",
                factor * (H - 2) / (d - 2): "That is the wrong way up: fewer probes keep less.",
            }
            for other, words in near.items():
                if abs(value - other) <= 1e-8 * other:
                    return words
            return f"For H = {H} of {d} probes the price is off: {value:.4g}."
    return None


@cache
def _counts() -> tuple[int, int]:
    """Return in how many of the tasks something stands out along three probes, and along all nine."""
    mu = torch.full((4,), 0.25, dtype=torch.float64)
    found = [0, 0]
    for seed in range(300, 324):
        task = SCBTask.random(4, 500, 2, K_P=0.3, q_floor=0.5, seed=seed)
        batch = task.sample(600, seed, device="cpu")
        start = State.uniform(mu, 500)
        queries = torch.bincount(batch.query, minlength=4)
        for place, count in enumerate((3, 9)):
            total = torch.zeros(500, 4, dtype=torch.float64)
            for D in random_probes(mu, count, seed):
                pull = -batch_gradients(start.V + D, start.A, batch).A / queries
                total += ((pull - pull.median(0).values) / screening.noise_level(pull, queries)) ** 2
            tail = torch.special.gammaincc(torch.full_like(total, count / 2), total / 2)
            found[place] += bool((tail < 0.01 / total.numel()).any())
    return found[0], found[1]


@exercise("probes-experiment")
def _(answer: Any) -> str | None:
    if np.shape(answer) != (2,):
        return "Answer with two numbers: along three probes, and along all nine."
    given = np.asarray(answer, dtype=float)
    if not all(0 <= each <= 24 and each == round(each) for each in given):
        return "Both are numbers of tasks, from 0 to 24."
    # A task more or less at the edge may depend on the machine.
    right = np.abs(given - _counts()) <= 1
    if right.all():
        return None
    if (np.abs(given[::-1] - _counts()) <= 1).all():
        return "The other way round: first along three, then along nine."
    if right[1]:
        return "The first number is off. Three probes have the critical value of three degrees of freedom."
    if right[0]:
        return "The second number is off. Nine probes have the critical value of nine degrees of freedom."
    return "Both are off. Draw the probes of each task with its own seed, square the heights, and add."
