"""Train it here: samples and training in the reader's own browser, opening with a short run of the package."""

from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from scb_nb import figures, screening, theory, validate
from scb_nb.explorables.core import LETTERS, Explorable
from scb_nb.stages import SmallSteps
from scb_nb.state import State
from scb_nb.task import SCBTask
from scb_nb.training import fit

STRETCHES = [1, 2, 4, 8, 14, 20]
BATCHES = [16, 32, 64, 128, 256, 512, 1_024]
RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
PENALTIES = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0]
SEEDS = list(range(10))
STEPS = [1_500, 300]  # most of stage 1, all of stage 2
VISIBLE, FALSE_ALARMS = 0.6, 0.01


def train_here(task: SCBTask, *, steps: int = 100, seed: int = 0) -> Explorable:
    """Return an explorable that samples a task and trains on it in the page: in two stages, or by plain SGD.

    Its script computes what :class:`scb_nb.stages.SmallSteps` and :class:`scb_nb.stages.Descent` compute, in float64.
    The context can be stretched to 20 times its length: each position becomes a run of that many, of which the middle
    one is read.

    Parameters
    ----------
    task : SCBTask
        With 2 to 6 tokens and 20 to 50 positions, and neither K_P nor K_Q zero.
    steps : int
        Those of stage 1 with which it opens, taken here, from 1 to 1,500: at four times the length of the task, on
        batches of 64, at the rate 0.1.
    seed : int
        Of their samples.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range.
    """
    validate.integer("task.vocab_size", task.vocab_size, 2, 6)
    validate.integer("task.seq_len", task.seq_len, 20, 50)
    validate.real("task.K_P", task.K_P, 1e-6)
    validate.real("task.K_Q", task.K_Q, 1e-6)
    steps = validate.integer("steps", steps, 1, STEPS[0])
    choices = {"stretch": STRETCHES, "batch": BATCHES, "rate": RATES, "l1": PENALTIES, "seed": SEEDS}
    setting = {"method": "stages", "stretch": 4, "batch": 64, "rate": 0.1, "l1": 0.3, "seed": 0}
    points, state = _opening(stretched(task, 4), steps, seed)
    worker = (files("scb_nb") / "assets" / "train_worker.js").read_text(encoding="utf-8")
    return Explorable(
        "train_here.js",
        {
            "worker": worker,
            "P": task.P.tolist(),
            "Q": task.Q.tolist(),
            "mu": task.mu.tolist(),
            "letters": list(LETTERS[: task.vocab_size]),
            "steps": STEPS,
            "visible": VISIBLE,
            "critical": [screening.critical_value(task.Q.size * stretch, FALSE_ALARMS) for stretch in STRETCHES],
            "choices": choices,
            "opening": {"setting": setting, "points": points, "state": state},
        },
        question="With how few samples can you have every position that is read, and no other?",
        still=_still(task, points, state),
        alt=_sentence(task, points[-1], state),
    )


def stretched(task: SCBTask, stretch: int) -> SCBTask:
    """Return the task with each position drawn out to ``stretch`` positions, of which the middle one is read."""
    Q = np.zeros((task.seq_len * stretch, task.vocab_size))
    Q[stretch // 2 :: stretch] = task.Q
    return SCBTask(task.P, Q)


def _opening(task: SCBTask, steps: int, seed: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Return the errors of a run's first steps, and its last state, as train_worker.js goes on from it."""
    last: list[State] = []

    def observe(state: State) -> dict[str, float]:
        last[:] = [state]
        alignment = theory.align(state.V, state.A, task)
        return {"error_V": alignment.error_V, "error_A": alignment.error_A}

    source = task.stream(seed, device="cpu", share_mu=True)
    stage = SmallSteps(steps=STEPS[0], batch_size=64, step_size=0.1, visible=VISIBLE, false_alarms=FALSE_ALARMS)
    options: dict[str, Any] = {"record_every": 4, "max_samples": 64 * steps, "progress": False, "dtype": torch.float64}
    result = fit(source, [stage], observers=[observe], **options)
    state, history = last[0], result.history
    if result.finished:
        raise ValueError(f"steps must end before stage 1 does, after {state.step} steps, got {steps}")
    points = [
        {
            "samples": int(history["samples"][i]),
            "V": round(float(history["error_V"][i] / history["error_V"][0]), 4),
            "A": round(float(history["error_A"][i] / history["error_A"][0]), 4),
        }
        for i in range(len(history["samples"]))
    ]
    found = screening.outstanding(state.A, state.mu, FALSE_ALARMS)
    return points, {
        "V": state.V.ravel().tolist(),
        "A": state.A.T.ravel().tolist(),  # query by query
        "support": found.T.int().tolist(),
        "stage": 0,
        "step": state.step,
        "samples": points[-1]["samples"],
        "outcome": "",
    }


def _sentence(task: SCBTask, point: dict[str, float], state: dict[str, Any]) -> str:
    """Say in the words of train_here.js where the opening stands."""
    found, read = np.array(state["support"]).T != 0, stretched(task, 4).support
    others = int((found & ~read).sum())
    return (
        f"After {point['samples']:,} samples, stage 1, step {state['step']}: {int((found & read).sum())} of "
        f"{int(read.sum())} positions that are read stand out, and {others} {'other' if others == 1 else 'others'}. "
        f"The distance of V from P is {point['V']:.2f} of that at the start, that of A from Q {point['A']:.2f}."
    )


def _still(task: SCBTask, points: list[dict[str, float]], state: dict[str, Any]) -> Figure:
    figure, axes = plt.subplot_mosaic(
        [["A", "Q", "V"], ["A", "Q", "P"], ["errors"] * 3], figsize=(7, 7), layout="constrained"
    )
    N, letters = task.vocab_size, list(LETTERS[: task.vocab_size])
    A = np.reshape(state["A"], (N, task.seq_len, 4)).max(axis=2).T  # the largest of each four
    for name, values, title in (
        ("A", A.clip(0), "A, learned"),
        ("Q", task.Q, "Q, true"),
        ("V", np.reshape(state["V"], (N, N)).clip(0), "V, learned"),
        ("P", task.P, "P, true"),
    ):
        truth = task.Q if name in "AQ" else task.P
        rows = None if name in "AQ" else letters
        figures.matrix(axes[name], values, rows=rows, columns=letters, vmax=float(truth.max()))
        axes[name].set(title=title)
        if name in "AQ":
            axes[name].set_yticks(range(0, task.seq_len, 10), [f"{4 * t + 1}" for t in range(0, task.seq_len, 10)])
    for name, style, colour in (("V", "-", "vermilion"), ("A", "--", "blue")):
        label = f"distance of {name} from {'P' if name == 'V' else 'Q'}"
        values = [point[name] for point in points]
        axes["errors"].semilogy(
            [point["samples"] for point in points], values, style, color=figures.COLOURS[colour], label=label
        )
    axes["errors"].set(xlabel="samples", ylabel="share of the start", ylim=(0.01, 3))
    axes["errors"].legend(loc="lower left", fontsize=11)
    return figure
