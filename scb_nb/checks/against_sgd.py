"""Checks of chapter 7."""

import functools
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from scb_nb.checks.core import NotAnswered, close, exercise, multiple_choice
from scb_nb.rivals import PlainDescent
from scb_nb.state import State
from scb_nb.task import SCBTask
from scb_nb.theory import align
from scb_nb.training import fit

multiple_choice(
    "against-sgd-predict",
    "b",
    {
        "a": "The positions that are not read count too: in each of them SGD leaves an error.",
        "c": "The square of the floor grows in proportion to T.",
        "d": "A rule that looks at entries one by one would pay so little. SGD pays with the length of the noise.",
    },
)


@exercise("against-sgd-derive")
def _(answer: Any) -> str | None:
    for m, h, u in ((3, 1.0, 1.5), (1, 1.0, 1.0), (5, 0.5, 2.0), (40, 0.1, 7.5), (200, 2.0, 0.5)):
        count = np.arange(1, m + 1)
        given, truth = answer(m, h, u), 1 / (h * (count + u))
        hint = close(given, truth, "The list of rates", tolerance=1e-6 / h)
        if hint is None:
            continue
        rates = np.asarray(given, dtype=float)
        if rates.shape != truth.shape:
            return hint
        if close(rates, 1 / (h * count), "", 1e-6 / h) is None:
            return "With these nothing remains of the start, which costs too much noise. How much should remain?"
        if close(rates, 1 / (count + u), "", 1e-6) is None:
            return "The rates fall as they should. What does the curvature do to them?"
        if close(rates, 1 / (h * (count - 1 + u)), "", 1e-6 / h) is None:
            return "Very close: count from one. What remains of the start is u / (m + u)."
        if m > 1 and np.ptp(rates) < 1e-12:
            return "A constant rate weighs the noise of late batches more than that of early ones."
        error = 1.0
        for rate in rates:
            error = (1 - rate * h) ** 2 * error + (rate * h) ** 2 * u
        return (
            f"With {m} steps, h = {h} and u = {u} they leave {error:.4g} of the squared error at the start. "
            f"The bound is {u / (m + u):.4g}."
        )
    return None


@functools.cache
def _last_of_sgd(seed: int) -> tuple[SCBTask, State]:
    task = SCBTask.random(3, 100, 2, K_P=0.3, q_floor=0.5, seed=seed)
    stage = PlainDescent(optimizer="sgd", steps=500, batch_size=32, step_size=1.0, step_size_A=0.1)
    return task, fit(task.stream(seed, device="cpu", share_mu=True), [stage], record_every=1_000).state


@exercise("against-sgd-experiment")
def _(answer: Any) -> str | None:
    for seed in (6, 7):
        task, state = _last_of_sgd(seed)
        source = task.stream(100 + seed, device="cpu", share_mu=True)
        given = answer(deepcopy(state), source)
        if given is None or given is ...:
            raise NotAnswered
        if not isinstance(given, tuple | list) or len(given) != 2:
            return "Return V and A, in this order."
        V, A = (torch.as_tensor(each, dtype=torch.float64) for each in given)
        if V.shape != (3, 3) or A.shape != (100, 3):
            return f"V should have shape (3, 3) and A (100, 3), yours have {tuple(V.shape)} and {tuple(A.shape)}."
        if source.position > 8_192:
            return f"It took {source.position:,} samples."
        found = align(V, A, task)
        if found.error_A <= 0.05 and found.error_V <= 0.05:
            continue
        told = f"The errors are {found.error_V:.2f} in V and {found.error_A:.2f} in A. "
        if found.error_A > 0.05:
            if (A != 0).double().mean() > 0.5:
                return told + "A still reads every position, each with a small error. What could be dropped?"
            return told + "Look at A: which positions does it read, and what do its columns sum to?"
        if abs(float((V @ torch.tensor(task.mu)).sum()) - 1) > 0.03:
            return told + "What do the columns of V sum to? Stage 2 keeps the sums that it finds."
        return told + "V still fits the A that it was trained with. There are samples left to fit it to the new one."
    return None
