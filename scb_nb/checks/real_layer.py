"""Checks of the chapter "A real layer"."""

from functools import cache
from typing import Any

import numpy as np
import torch

from scb_nb.checks.core import close, exercise, multiple_choice
from scb_nb.layer import TransformerLayer, train
from scb_nb.reading import readings
from scb_nb.task import SCBTask

multiple_choice(
    "real-layer-predict",
    "a",
    {
        "b": "So it is for three tokens. For two, write the log-odds of the answer for each of the four contexts.",
        "c": "Fewer tokens, fewer contexts to get wrong. Write the log-odds of the answer for each of the four.",
        "d": "The weights only make it q p + (1 - q)(1 - p) instead of p. What are its log-odds if tokens are swapped?",
    },
)


@exercise("real-layer-derive")
def _(answer: Any) -> str | None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        scores, outputs, gradient = rng.normal(size=7), rng.normal(size=(7, 3)), rng.normal(size=3)
        weights = np.exp(scores) / np.exp(scores).sum()
        pulls = outputs @ gradient
        truth = weights * (pulls - weights @ pulls)
        given = answer(weights.copy(), outputs.copy(), gradient.copy())
        hint = close(given, truth, "The gradient")
        if hint is None:
            continue
        if np.shape(given) == truth.shape:
            near = {
                "The weights sum to one, so raising one score lowers all the others.": weights * pulls,
                "A score acts through its weight: a small weight moves little.": pulls - weights @ pulls,
                "What is subtracted is what the head puts out now, not the plain mean.": weights
                * (pulls - pulls.mean()),
                "The sign is the other way round.": -truth,
            }
            for words, value in near.items():
                if np.allclose(given, value):
                    return words
        return hint
    return None


@cache
def _half(scale_tokens: float, scale_positions: float) -> int:
    """Return the samples until half is found, with the embeddings at the start multiplied."""
    task = SCBTask.random(3, 32, 2, K_P=0.3, q_floor=0.5, seed=1)
    layer = TransformerLayer(3, 32, norm=False, mlp=False, seed=1, device="cpu")
    with torch.no_grad():
        layer.token.weight.mul_(scale_tokens)
        layer.position.weight.mul_(scale_positions)
    read = readings(task, 1_000)
    history = train(
        layer,
        task.stream(2, device="cpu"),
        steps=1_500,
        batch_size=32,
        step_size=3e-3,
        observers=[read],
        stop=lambda row: row["alpha_V"] > 0 and row["alpha_V"] * row["alpha_A"] >= 0.5,
    )
    return int(history["samples"][-1])


@exercise("real-layer-experiment")
def _(answer: Any) -> str | None:
    if np.ndim(answer) != 0:
        return "Answer with one number: the samples of the layer as it is, divided by those of the changed one."
    given, scratch = float(answer), _half(1, 1)
    if not 0 < given < np.inf:
        return "A ratio of two numbers of samples is positive."
    truth = scratch / _half(4, 4)
    # A record more or less may depend on the machine.
    if abs(given / truth - 1) <= 0.2:
        return None
    if abs(given * truth - 1) <= 0.2:
        return "That is the other way round: divide the samples of the layer as it is by those of the changed one."
    for name, scales in {"tokens": (4, 1), "positions": (1, 4)}.items():
        if abs(given / (scratch / _half(*scales)) - 1) <= 0.1:
            return f"It seems that only the embedding of the {name} was changed."
    return "Build the layer anew for each run: `train` changes it in place."
