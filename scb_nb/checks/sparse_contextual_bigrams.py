"""Checks of chapter 2, and the samples of its experiment."""

from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.stream import Batch
from scb_nb.task import SCBTask

multiple_choice(
    "scb-predict",
    "b",
    {
        "a": "P has not changed, but what it is applied to has: what is the average of many independent tokens?",
        "c": "There is more to read, but each token counts less: what is the average of many independent tokens?",
    },
)


@exercise("scb-derive")
def _(answer: Any) -> str | None:
    for seed in range(3):
        task = SCBTask.random(4, 9, 3, mu_ratio=2, seed=seed)
        samples = task.sample(5, seed, device="cpu")
        for context, query, target in zip(*(tensor.numpy() for tensor in samples), strict=True):
            joint = task.Q[:, query] * task.P[target, context]
            hint = close(answer(task.P, task.Q, context, query, target), joint / joint.sum(), "The distribution")
            if hint:
                return hint + " Which two probabilities multiply, and what normalises them?"
    return None


def _unknown_task() -> SCBTask:
    return SCBTask.random(4, 12, 2, mu_ratio=2, K_P=0.4, seed=20)


def unknown_samples() -> Batch:
    """Return the 20,000 samples of the exercise that asks for the positions which a query reads."""
    return _unknown_task().sample(20_000, seed=0, device="cpu")


@exercise("scb-experiment")
def _(answer: Any) -> str | None:
    truth = set(np.flatnonzero(_unknown_task().Q[:, 2]).tolist())
    given = {int(position) for position in answer}
    if len(given) != 2:
        return f"Give exactly two positions, not {len(given)}."
    if given == truth:
        return None
    if given == {position + 1 for position in truth}:
        return "Right positions, but count them from 0."
    found = len(given & truth)
    return f"{found} of the 2 positions that query c reads are among yours. Did you keep to samples with this query?"
