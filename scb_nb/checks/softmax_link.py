"""Checks of the chapter on the softmax link."""

import functools
from typing import Any

import numpy as np

from scb_nb.checks.core import NotAnswered, close, exercise, multiple_choice
from scb_nb.links import LinkDescent
from scb_nb.task import SCBTask
from scb_nb.training import fit
from scb_nb.validate import FloatArray

multiple_choice(
    "softmax-link-predict",
    "c",
    {
        "a": "So it is for the linear link. Softmax slows positions down that have little attention.",
        "b": "So it is for exponentiated gradient. Softmax has one Jacobian more.",
        "d": "The first move is that much smaller, but the growth is faster than exponential. Rescale the time.",
    },
)


def _induced_move(a: FloatArray, g: FloatArray, rate: float) -> FloatArray:
    J = np.diag(a) - np.outer(a, a)
    return -rate * J @ J @ g


@exercise("softmax-link-derive")
def _(answer: Any) -> str | None:
    rng = np.random.default_rng(0)
    for size, spread in ((2, 1.0), (5, 10.0), (12, 0.5)):
        a, g, rate = rng.dirichlet(np.full(size, spread)), rng.normal(size=size), 0.3
        given, truth = answer(a.copy(), g.copy(), rate), _induced_move(a, g, rate)
        hint = close(given, truth, "The move", tolerance=1e-9)
        if hint is None:
            continue
        move = np.asarray(given, dtype=float)
        if move.shape != truth.shape:
            return hint
        once = a * (g - a @ g)
        for wrong, said in (
            (-truth, "Very close: which way does descent go?"),
            (truth / rate, "Almost: how does the rate enter?"),
            (-rate * once, "That has one Jacobian: it is the move of exponentiated gradient. Where is the other?"),
            (-rate * a * once, "The sum of your move is not zero, so a would not stay a probability vector."),
            (
                -rate * a**2 * g,
                "Each coordinate has the factor that you say. But what is common to all must go, twice.",
            ),
            (-rate * (g - g.mean()), "That is the projected move of the linear link."),
        ):
            if close(move, wrong, "", 1e-9) is None:
                return said
        return f"{hint} Move the logits by hand, by a small multiple of the gradient in them, and compare."
    return None


@functools.cache
def _trained() -> tuple[SCBTask, FloatArray]:
    task = SCBTask.random(3, 200, 2, K_P=0.3, q_floor=0.5, seed=1)
    stage = LinkDescent(
        link="softmax",
        optimizer="sgd",
        mirror=True,
        steps=1_000,
        batch_size=64,
        step_size=0.2,
        step_size_W=3.0,
        decay=True,
    )
    end = fit(task.stream(1, device="cpu", share_mu=True), [stage], record_every=1_000)
    return task, end.A.double().numpy()


def trained_attention() -> FloatArray:
    """Return attention (200, 3) that exponentiated gradient has found, for an exercise."""
    return _trained()[1].copy()


@exercise("softmax-link-experiment")
def _(answer: Any) -> str | None:
    task, _ = _trained()
    if callable(answer):
        answer = answer(trained_attention())
    if answer is None or answer is ...:
        raise NotAnswered
    given = np.asarray(answer)
    if given.shape != task.support.shape:
        return f"The support should have shape {task.support.shape}, yours has {given.shape}."
    if given.dtype != bool:
        return "The support should be boolean: True where a query reads a position."
    missed, false = int((task.support & ~given).sum()), int((given & ~task.support).sum())
    if missed + false == 0:
        return None
    if false > missed:
        return (
            f"{false} of your positions are not read. Draw a histogram of A and one of log A: which has normal noise?"
        )
    return f"{missed} positions are missing, and {false} are wrong. What stands out in log A, column by column?"
