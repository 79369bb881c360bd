"""Checks of the chapter "Sample complexity, measured"."""

import math
from functools import cache
from typing import Any

import numpy as np

from scb_nb.checks.core import NotAnswered, exercise, multiple_choice
from scb_nb.complexity import power_law, trial, until

multiple_choice(
    "complexity-predict",
    "c",
    {
        "a": "Noise is not the matter: the sign is. What has to happen for nine directions of ten to point upwards?",
        "b": "That is the square root, and it belongs to even odds. What does it take to be surer than that?",
        "d": "That is what less than even odds cost, or those of somebody who may turn the sign round.",
    },
)


@exercise("complexity-derive")
def _(answer: Any) -> str | None:
    for known, star in ((400.0, 4_000.0), (100.0, 1e6), (2_000.0, 300.0), (50.0, 50.0)):
        root = math.sqrt(1 + 4 * star / known)
        truth = (1 - 1 / root) / 2
        given = answer(known, star)
        if given is None or given is ...:
            raise NotAnswered
        if np.ndim(given) != 0:
            return "Return one number."
        value = float(given)
        if abs(value - truth) <= 1e-6:
            continue
        near = {
            0.5: "That is where it ends, for long contexts. On the way it depends on n_star / n_1.",
            2 * truth: "Twice too large: in logarithms a square root has the slope one half.",
            1 / root: "Does that vanish for short contexts, where n_star is small, and end at one half?",
            star / known: "That is the beginning, for n_star far below n_1.",
            2 / root: "That is the slope of n itself, against n_star. Take that of log n against log T.",
        }
        for other, words in near.items():
            if abs(value - other) <= 1e-6 * max(1.0, other):
                return words
        return f"For n_1 = {known:g} and n_star = {star:g} it is off: {value:.4g}."
    return None


@cache
def _exponent() -> float:
    """Return the fitted exponent of 1 / c in the samples of transfer until the support is named."""
    samples = [
        until([trial("transfer", 300, correlation=c, most=12_800, seed=seed) for seed in range(12)], "named")
        for c in (1.0, 0.5, 0.25)
    ]
    return power_law([1, 2, 4], samples).exponent


@exercise("complexity-experiment")
def _(answer: Any) -> str | None:
    if np.ndim(answer) != 0 or isinstance(answer, str | bool):
        return "Answer with one number, the exponent."
    value, truth = float(answer), _exponent()
    if abs(value - truth) <= 0.05:  # a look more or less may depend on the machine
        return None
    if abs(value + truth) <= 0.05:
        return "Against 1 / c, which grows as the samples do, and not against c."
    if abs(value - truth / 2) <= 0.05:
        return "Half of it. The sizes are 1 / c, that is 1, 2 and 4."
    return f"{value:.3g} is off. Fit the medians over the twelve tasks against 1 / c = 1, 2, 4."
