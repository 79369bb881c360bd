"""Checks of the chapter "Transfer"."""

from functools import cache
from typing import Any

import numpy as np
import torch

from scb_nb.checks.core import NotAnswered, close, exercise, multiple_choice
from scb_nb.stream import Batch
from scb_nb.task import SCBTask
from scb_nb.transfer import related_task

multiple_choice(
    "transfer-predict",
    "b",
    {
        "a": "A correlation of 0.3 asks for 1 / 0.3^2 times what 1 asks for. Is there one that asks for less?",
        "c": "0.5 is good, and the length of V - mu 1^T makes no difference. One of the others has a larger square.",
        "d": "Nothing is heard along a direction that is orthogonal to P, however long it is.",
    },
)


@exercise("transfer-derive")
def _(answer: Any) -> str | None:
    for c, star in ((0.5, 900.0), (0.2, 33_000.0), (0.9, 5_000.0), (-0.4, 2_500.0)):
        given, truth = answer(c, star), star * c**2 / (1 - c**2)
        hint = close(given, truth, "The number of samples", tolerance=1e-6 * truth)
        if hint is None:
            continue
        if np.ndim(given) != 0:
            return "Return one number."
        near = {
            star * c**2: "That is right for small correlations only: keep the noise in the length of the direction.",
            star * (1 - c**2) / c**2: "Upside down: a better V is worth more samples.",
            star * abs(c) / (1 - abs(c)): "Is it the correlation or its square that compares signal with noise?",
            star * c / (1 - c): "Is it the correlation or its square that compares signal with noise?",
            c**2 / (1 - c**2): "That is in units of n_star.",
        }
        for value, words in near.items():
            if abs(float(given) - value) <= 1e-6 * abs(value):
                return words
        return hint
    return None


def pretrained_pair(seed: int, correlation: float) -> tuple[torch.Tensor, SCBTask]:
    """Return V as another task has taught it, and a task whose P has this correlation with it."""
    first = SCBTask.random(3, 1_000, 2, K_P=0.2, q_floor=0.5, seed=seed)
    task = related_task(first, correlation, seed=seed, q_floor=0.5)
    mu = first.mu[:, None]
    length = 0.3 + 0.5 * np.random.default_rng(seed).random()  # training that stopped early
    return torch.tensor(mu + length * (first.P - mu)), task


@cache
def _cases() -> list[tuple[torch.Tensor, Batch, torch.Tensor, int]]:
    """Return V, 3,000 samples, mu, and the sign of the correlation, for nine pairs."""
    cases = []
    for place, correlation in enumerate((0.5, -0.5, 0.0) * 3):
        V, task = pretrained_pair(700 + place, correlation)
        batch = task.sample(3_000, 800 + place, device="cpu")
        cases.append((V, batch, torch.tensor(task.mu), int(np.sign(correlation))))
    return cases


@exercise("transfer-experiment")
def _(answer: Any) -> str | None:
    given = []
    for V, batch, mu, _ in _cases():
        found = answer(V.clone(), batch, mu.clone())
        if found is None or found is ...:
            raise NotAnswered
        if found not in (-1, 0, 1):
            return f"Return -1, 0 or 1 for each V, not {found!r}."
        given.append(int(found))
    truth = [sign for *_, sign in _cases()]
    if given == truth:
        return None
    right = sum(mine == true for mine, true in zip(given, truth, strict=True))
    if 0 not in given:
        return f"{right} of 9 are right. Some of these V are of no use. What do you do if nothing stands out?"
    if not any(given):
        return f"{right} of 9 are right. Nothing stands out anywhere? Then you ask for too much."
    if not any(mine == -1 for mine in given):
        return f"{right} of 9 are right. No V is upside down? Look for what stands out downwards, too."
    if given == [-true for true in truth]:
        return "All signs are the wrong way round. Minus the gradient is where descent would go."
    if sum(mine != 0 for mine, true in zip(given, truth, strict=True) if true == 0):
        return f"{right} of 9 are right. Noise alone made you take a V that is of no use. How many entries are there?"
    return f"{right} of 9 are right. Which entries of the gradient of A know the sign, and which are noise?"
