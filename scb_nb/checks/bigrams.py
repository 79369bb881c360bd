"""Checks of chapter 1, and the texts of its experiment."""

from typing import Any

import numpy as np

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.task import SCBTask

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
