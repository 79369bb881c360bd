"""The correlation dial: what the first look hears with a pretrained V, as its correlation with the new P is turned."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from scb_nb import figures, geometry, screening, validate
from scb_nb.explorables.core import Explorable
from scb_nb.objective import batch_gradients
from scb_nb.state import State
from scb_nb.task import SCBTask

CORRELATIONS = [round(0.05 * step, 2) for step in range(-20, 21)]
SAMPLES = [250 * 2**step for step in range(8)]
FALSE_ALARMS = 0.01


def correlation_dial(task: SCBTask, *, seed: int = 0, correlation: float = 0.5, samples: int = 2_000) -> Explorable:
    """Return an explorable of the first look at this task: turn the correlation of V_pre, and the number of samples.

    What is heard is linear in V - mu 1^T, but for a small term: two directions, that of P and one orthogonal to it,
    make all others.

    Parameters
    ----------
    task : SCBTask
        With at least 3 tokens, uniform mu, at most 600 entries of Q, and a K_P above zero.
    seed : int
        Of the samples, and of the direction that knows nothing of P.
    correlation : float
        The one that it opens with, a multiple of 0.05 from -1 to 1.
    samples : int
        The number that it opens with: 250, 500, 1,000, ... or 32,000.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or the task is not such a one.
    """
    validate.integer("task.vocab_size", task.vocab_size, 3)
    validate.integer("task.vocab_size * task.seq_len", task.vocab_size * task.seq_len, 3, 600)
    validate.real("task.K_P", task.K_P, 1e-9)
    if not np.allclose(task.mu, 1 / task.vocab_size):
        raise ValueError(f"task must have uniform mu, got {task.mu}")
    correlation = round(validate.real("correlation", correlation, -1, 1), 6)
    if correlation not in CORRELATIONS:
        raise ValueError(f"correlation must be a multiple of 0.05, got {correlation:g}")
    if samples not in SAMPLES:
        raise ValueError(f"samples must be one of {SAMPLES}, got {samples!r}")

    heard = _heard(task, seed)
    strongest = float(np.median(task.Q.max(axis=0)))
    data = {
        "correlations": CORRELATIONS,
        "samples": SAMPLES,
        "heard": [[[float(f"{v:.5g}") for v in pull.ravel()] for pull in pair] for pair in heard],  # by samples
        "read": task.support.ravel().tolist(),
        "tokens": task.vocab_size,
        "critical": round(screening.critical_value(2 * task.Q.size, FALSE_ALARMS), 6),
        "signal": round(strongest * task.K_P**0.5, 6),  # height = correlation * signal * sqrt(samples)
        "opening": {"correlation": CORRELATIONS.index(correlation), "samples": SAMPLES.index(samples)},
    }
    height = _height(heard[SAMPLES.index(samples)], correlation)
    return Explorable(
        "correlation_dial.js",
        data,
        question="Which correlations let you see the positions that are read? What do negative ones show?",
        still=_still(task, height, data["critical"]),
        alt=_sentence(task, height, data, correlation, samples),
    )


def _heard(task: SCBTask, seed: int) -> np.ndarray:
    """Return the pulls along the direction of P and one orthogonal to it, shape (sample sizes, 2, T, N)."""
    P, _, mu = task.tensors(like=torch.empty((), dtype=torch.float64))
    other = torch.tensor(np.random.default_rng(seed).standard_normal(P.shape))
    along = P - mu[:, None]
    across = geometry.centre_V(other, mu)
    across = across - geometry.inner(across, along, mu) / geometry.inner(along, along, mu) * along
    start = State.uniform(mu, task.seq_len)
    batch = task.sample(SAMPLES[-1], seed, device="cpu")
    pulls = [
        [-batch_gradients(start.V + D / geometry.norm(D, mu), start.A, batch[:n]).A / mu for D in (along, across)]
        for n in SAMPLES
    ]
    return np.array([[each.numpy() for each in pair] for pair in pulls])


def _height(pair: np.ndarray, correlation: float) -> np.ndarray:
    """Return heights (T, N) in units of noise, as correlation_dial.js computes them."""
    pull = torch.tensor(correlation * pair[0] + (1 - correlation**2) ** 0.5 * pair[1])
    pull = pull - pull.median(0).values
    return (pull / screening.noise_level(pull, torch.ones(pull.shape[1], dtype=pull.dtype))).numpy()


def _sentence(task: SCBTask, height: np.ndarray, data: dict, correlation: float, samples: int) -> str:
    """Say in the words of correlation_dial.js what stands out."""
    critical, signal, read = data["critical"], data["signal"], task.support
    up, down = int((read & (height > critical)).sum()), int((read & (height < -critical)).sum())
    others = int((~read & (np.abs(height) > critical)).sum())
    needed = "no number of samples is enough"
    if abs(correlation) > 0.001:
        samples_needed = float(f"{(critical / (correlation * signal)) ** 2:.2g}")
        needed = f"about {samples_needed:,.0f} samples should do"
    return (
        f"Correlation {correlation:.2f}, {samples:,} samples: of {int(read.sum())} positions that are read, "
        f"{up} stand out upwards and {down} downwards, and {others} of the others. By the formula, {needed}."
    ).replace("-", "\u2212")


def _still(task: SCBTask, height: np.ndarray, critical: float) -> Figure:
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    place = np.arange(height.size).reshape(height.shape[::-1]).T  # query by query
    read = task.support
    ax.plot(place[~read], height[~read], "o", ms=3, color=figures.COLOURS["grey"], label="not read")
    ax.plot(place[read], height[read], "D", ms=8, color=figures.COLOURS["vermilion"], label="read")
    for level in (-critical, critical):
        ax.axhline(level, ls="--", color="black", lw=1)
    ax.set(xlabel="entries of $A$, query by query", ylabel="height, in units of noise", xticks=[])
    ax.legend(loc="upper right", ncols=2, fontsize=11)
    return figure
