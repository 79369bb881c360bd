"""One run of training, record by record: A beside Q, V beside P, and the errors."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from scb_nb import figures, theory, validate
from scb_nb.explorables.core import LETTERS, Explorable
from scb_nb.stages import Stage
from scb_nb.state import State
from scb_nb.task import SCBTask
from scb_nb.training import fit


def training_replay(
    task: SCBTask, stages: Mapping[str, Stage], *, seed: int = 0, record_every: int = 10, opening: float = 0.7
) -> Explorable:
    """Train on samples of the task, here and now, and return an explorable of the run: scrub through its records.

    Parameters
    ----------
    task : SCBTask
        With at most 6 tokens and 40 positions, so that it can be drawn, and neither K_P nor K_Q zero.
    stages : dict
        What to run in turn, by the name that readers see; the run knows mu.
    seed : int
        Of the samples.
    record_every : int
        Steps between records.
    opening : float
        It opens with the first record at which ||V - P||_mu is at most this share of that at the start, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or the task is too large to draw.
    """
    validate.integer("task.vocab_size", task.vocab_size, 1, 6)
    validate.integer("task.seq_len", task.seq_len, 1, 40)
    validate.real("task.K_P", task.K_P, 1e-6)
    validate.real("task.K_Q", task.K_Q, 1e-6)
    opening = validate.real("opening", opening, 0, 1)
    states: list[State] = []

    def keep(state: State) -> dict[str, float]:
        states.append(state)
        alignment = theory.align(state.V, state.A, task)
        return {"error_V": alignment.error_V, "error_A": alignment.error_A}

    source = task.stream(seed, device="cpu", share_mu=True)
    history = fit(source, tuple(stages.values()), observers=[keep], record_every=record_every, progress=False).history
    frames = [
        {
            "samples": int(history["samples"][i]),
            "stage": int(history["stage"][i]),
            "V": figures.to_numpy(state.V).round(3).tolist(),
            "A": figures.to_numpy(state.A).round(3).tolist(),
            "error_V": round(float(history["error_V"][i] / history["error_V"][0]), 3),
            "error_A": round(float(history["error_A"][i] / history["error_A"][0]), 3),
        }
        for i, state in enumerate(states)
    ]
    first = next((i for i, frame in enumerate(frames) if frame["error_V"] <= opening), len(frames) - 1)
    letters = LETTERS[: task.vocab_size]
    return Explorable(
        "training_replay.js",
        {
            "P": task.P.round(3).tolist(),
            "Q": task.Q.round(3).tolist(),
            "mu": task.mu.round(6).tolist(),
            "letters": list(letters),
            "stages": list(stages),
            "frames": frames,
            "opening": first,
        },
        question="When does attention find its positions: before or after V begins to look like P?",
        still=_still(task, frames, first),
        alt=_sentence(task, frames[first], list(stages)),
    )


def _sentence(task: SCBTask, frame: dict, stages: Sequence[str]) -> str:
    """Say in the words of training_replay.js where training stands."""
    right = float((np.array(frame["A"]) * task.support).sum(axis=0) @ task.mu)
    return (
        f"After {frame['samples']:,} samples, {stages[frame['stage']]}: the distance of V from P is "
        f"{frame['error_V']:.2f} of that at the start, that of A from Q {frame['error_A']:.2f}, "
        f"and {100 * right:.0f}% of the attention is on the right positions."
    )


def _still(task: SCBTask, frames: list[dict], now: int) -> Figure:
    figure, axes = plt.subplot_mosaic(
        [["A", "Q", "V"], ["A", "Q", "P"], ["errors"] * 3],
        figsize=(7, 7),
        height_ratios=[1, 1, 1],
        layout="constrained",
    )
    letters, positions = list(LETTERS[: task.vocab_size]), [str(t + 1) for t in range(task.seq_len)]
    for name, values, rows, title in (
        ("A", np.array(frames[now]["A"]).clip(0), positions, "A, learned"),
        ("Q", task.Q, positions, "Q, true"),
        ("V", np.array(frames[now]["V"]).clip(0), letters, "V, learned"),
        ("P", task.P, letters, "P, true"),
    ):
        truth = task.Q if name in "AQ" else task.P
        figures.matrix(axes[name], values, rows=rows, columns=letters, vmax=float(truth.max()))
        axes[name].set(title=title)
        axes[name].tick_params(axis="y", labelsize=7 if name in "AQ" else 11)
    chart, samples = axes["errors"], [frame["samples"] for frame in frames]
    for name, style, colour, label in (
        ("error_V", "-", "vermilion", "distance of V from P"),
        ("error_A", "--", "blue", "distance of A from Q"),
    ):
        chart.semilogy(samples, [f[name] for f in frames], style, color=figures.COLOURS[colour], label=label)
    chart.axvline(samples[now], color="black", lw=1)
    chart.set(xlabel="samples", ylabel="share of the start", ylim=(0.01, 1.3))
    chart.legend(loc="upper right", fontsize=11)
    return figure
