"""How an answer is checked: the register of exercises, and what their checks share.

An exercise is a function that takes the reader's answer and returns None if it is right, or else a hint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Exercise = Callable[[Any], str | None]
EXERCISES: dict[str, Exercise] = {}


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what to say about it; true in a condition if it is."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.message


NOT_YET = Verdict(False, "· Not answered yet: put your answer in place of ...")


class NotAnswered(Exception):
    """The reader's function still returns ... or None."""


def check(exercise: str, answer: Any) -> Verdict:
    """Say whether ``answer`` solves the exercise of that name; an answer left at None or ... counts as not yet given.

    Raises
    ------
    ValueError
        If there is no exercise of that name.

    Examples
    --------
    >>> check("transformer-predict", ...)
    · Not answered yet: put your answer in place of ...
    >>> check("transformer-predict", "b")
    ✓ Right.
    """
    if exercise not in EXERCISES:
        raise ValueError(f"exercise must be one of {sorted(EXERCISES)}, got {exercise!r}")
    if answer is None or answer is ...:
        return NOT_YET
    try:
        hint = EXERCISES[exercise](answer)
    except NotAnswered:
        return NOT_YET
    except Exception as error:  # the answer is somebody's code in the making: whatever it raises is told, not thrown
        return Verdict(False, f"✗ Your answer could not be checked: {type(error).__name__}: {error}")
    return Verdict(True, "✓ Right.") if hint is None else Verdict(False, f"✗ Not yet. {hint}")


def exercise(name: str) -> Callable[[Exercise], Exercise]:
    """Register the decorated function as the check of the exercise ``name``."""

    def register(function: Exercise) -> Exercise:
        EXERCISES[name] = function
        return function

    return register


def multiple_choice(name: str, right: str, hints: dict[str, str]) -> None:
    """Register a check that takes a letter: ``right``, or one of those that have a hint."""

    @exercise(name)
    def _(answer: Any) -> str | None:
        letter = str(answer).strip(" ().").lower()
        if letter == right:
            return None
        return hints.get(letter, f"Answer with one of the letters {', '.join(sorted([right, *hints]))}.")


def close(answer: Any, truth: Any, what: str, tolerance: float = 1e-8) -> str | None:
    """Check numbers: shape first, then the largest difference; raise NotAnswered where there are none yet."""
    if answer is None or answer is ...:
        raise NotAnswered
    answer, truth = np.asarray(answer, dtype=float), np.asarray(truth, dtype=float)
    if answer.shape != truth.shape:
        return f"{what} should have shape {truth.shape}, yours has {answer.shape}."
    gap = float(np.abs(answer - truth).max())
    return None if gap <= tolerance else f"{what} is off by {gap:.3g}."
