"""Checks of chapter 5."""

from functools import cache
from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.stages import SmallSteps
from scb_nb.task import SCBTask
from scb_nb.training import fit

multiple_choice(
    "stage-one-predict",
    "b",
    {
        "a": "That is what listening costs once V is good. But does V become good at no price?",
        "c": "That is the price of a V with a given correlation. Does V have to be as good as that?",
        "d": "The signal is four times smaller. But is the noise of a sample still the same?",
    },
)


@exercise("stage-one-derive")
def _(answer: Any) -> str | None:
    for n, star in ((10.0, 1_000.0), (1_000.0, 1_000.0), (1e6, 1_000.0), (300.0, 7.0)):
        truth = np.sqrt(star**2 + n * star) - star
        given = answer(n, star)
        hint = close(given, truth, "The number of samples for V", tolerance=1e-6 * truth)
        if hint is None:
            continue
        mistakes = [
            (n / 2, "Half is right only for few samples. With many, does V need as many as that?"),
            (np.sqrt(n * star), "That is the limit for many samples. For few it would be more than there are."),
            (n - truth, "That is what is left for A."),
            (star, "At n_star signal and noise are equally long, but nothing is at its best there."),
        ]
        for value, reason in mistakes:
            if close(given, value, "", tolerance=1e-6 * value) is None:
                return reason
        return hint + " Maximise n_V (n - n_V) / (n_V + n_star) over n_V."
    return None


@cache
def _small_steps(batch_size: int) -> tuple[float, int]:
    """Return the median of the samples, and how many of the eight tasks end with the exact support."""
    samples, exact = [], 0
    for seed in range(8):
        task = SCBTask.random(3, 300, 2, K_P=0.3, q_floor=0.5, seed=seed)
        stage = SmallSteps(steps=300, batch_size=batch_size, step_size=0.1)
        run = fit(task.stream(seed, device="cpu", share_mu=True), (stage,), record_every=500, progress=False)
        samples.append(run.samples)
        exact += run.finished and bool((run.support.cpu().numpy() == task.support).all())
    return float(np.median(samples)), exact


@exercise("stage-one-experiment")
def _(answer: Any) -> str | None:
    if np.ndim(answer) != 0 or float(answer) != int(answer) or int(answer) < 1:
        return "Answer with one whole number of samples, at least 1."
    batch_size = int(answer)
    if batch_size > 1_000:
        return "That is far more than small steps need here: 5,000 samples would be over before anything has grown."
    samples, exact = _small_steps(batch_size)
    if exact < 7:
        return f"Only {exact} of 8 supports are exact: too few samples per unit of time. Which way must B go?"
    if samples > 5_000:
        return f"{exact} of 8 supports are exact, but after a median of {samples:,.0f} samples: that is too careful."
    return None
