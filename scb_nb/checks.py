"""What tells a reader of the book right or wrong, exercise by exercise.

An exercise is a function that takes the reader's answer and returns None if it is right, or else a hint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scb_nb.objective import population_loss
from scb_nb.stream import Batch
from scb_nb.task import SCBTask
from scb_nb.theory import on_plane, trajectory

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


multiple_choice(
    "bigram-predict",
    "b",
    {
        "a": "Shuffling keeps how frequent each character is. Does it keep what follows a q?",
        "c": "What follows no longer depends on what went before. But are all characters equally frequent?",
    },
)


@exercise("bigram-derive")
def _(answer: Any) -> str | None:
    tasks = [SCBTask.random(5, 1, 1, mu_ratio=4, seed=seed) for seed in range(3)]
    # A pair that never occurs, and a chain that alternates for ever.
    tasks += [SCBTask(P=np.array([[0, p], [1, 1 - p]]), Q=np.ones((1, 2))) for p in (0.5, 1.0)]
    for task in tasks:
        given, mu = answer(task.P), task.mu
        entropies = -(task.P * np.log(np.where(task.P > 0, task.P, 1))).sum(axis=0)
        hint = close(given, mu @ entropies, "The entropy rate")
        if hint is None:
            continue
        if np.isnan(given).any():
            return "It is not a number where P has a zero. A pair that never occurs adds nothing: take 0 log 0 as 0."
        mistakes = [
            (-mu @ entropies, "Mind the sign: the logarithm of a probability is negative, an entropy is not."),
            (mu @ entropies / np.log(2), "That is in bits. Nats take the natural logarithm."),
            (entropies.mean(), "That counts all columns alike. How often is the chain at each token?"),
            (entropies.sum(), "That adds the columns' entropies up. How often is the chain at each token?"),
            (-mu @ np.log(mu), "That is the entropy of a token drawn from mu; here the token before it is known."),
        ]
        for value, reason in mistakes:
            if close(given, value, "") is None:
                return reason
        return hint + " It is a weighted mean of the entropies of the columns of P."
    return None


def practice_texts() -> tuple[np.ndarray, np.ndarray]:
    """Return a short text to learn from and a longer one to judge by, as tokens: 0 to 25 for a to z, 26 for the space.

    They are two topics of Python's own manual, so they differ a little between versions of Python.
    """
    from pydoc_data.topics import topics  # here, since a stripped-down Python may lack it and the rest can do without

    alphabet = "abcdefghijklmnopqrstuvwxyz "

    def tokens(text: str) -> np.ndarray:
        words = "".join(character if character in alphabet else " " for character in text.lower()).split()
        return np.array([alphabet.index(character) for character in " ".join(words)])

    return tokens(topics["import"])[:1_000], tokens(topics["debugger"])


@exercise("bigram-experiment")
def _(answer: Any) -> str | None:
    given = float(answer)
    if not 0 < given < np.inf:
        return "A pseudo-count is a positive number: without it a pair that was never seen costs infinitely much."
    learn, judge = practice_texts()
    counts = np.zeros((27, 27))
    np.add.at(counts, (learn[1:], learn[:-1]), 1)

    def cross_entropy(pseudo_count: float) -> float:
        P = (counts + pseudo_count) / (counts + pseudo_count).sum(axis=0)
        return float(-np.log(P[judge[1:], judge[:-1]]).mean())

    candidates = np.logspace(-3, 2, 201)
    losses = [cross_entropy(candidate) for candidate in candidates]
    excess = cross_entropy(given) - min(losses)
    if excess <= 0.003:
        return None
    if given < candidates[np.argmin(losses)]:
        return f"{excess:.3f} nats above the best: too small, pairs that were never seen come as too great a surprise."
    return f"{excess:.3f} nats above the best: too large, the counts drown in it."
