"""Training in the plane (alpha_V, alpha_A): where the flow goes, and when."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from scb_nb import figures, theory, validate
from scb_nb.explorables.core import Explorable


def phase_portrait(
    *, K_P: float = 0.1, K_Q: float = 0.4, seq_len: int = 1_000, ratio: float = 1.0, start: tuple[float, float] = (0, 0)
) -> Explorable:
    """Return an explorable of training in the plane (alpha_V, alpha_A): where the flow goes from any start, and when.

    Parameters
    ----------
    K_P, K_Q : float
        Strengths of the signals that it opens with, from 0.01 to 1.
    seq_len : int
        T that it opens with, from 1 to 10,000.
    ratio : float
        The step size of A over that of V that it opens with, from 1/16 to 16.
    start : tuple
        Two numbers, (alpha_V, alpha_A) that it opens with, each from -1.5 to 2.5.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range.
    """
    opening = {
        "seq_len": validate.integer("seq_len", seq_len, 1, 10_000),
        "K_P": validate.real("K_P", K_P, 0.01, 1),
        "K_Q": validate.real("K_Q", K_Q, 0.01, 1),
        "ratio": validate.real("ratio", ratio, 1 / 16, 16),
    }
    if len(start) != 2:
        raise ValueError(f"start must be two numbers, alpha_V and alpha_A, got {start!r}")
    start = (validate.real("start", start[0], -1.5, 2.5), validate.real("start", start[1], -1.5, 2.5))
    twentieths = [n / 20 for n in range(1, 19)]
    grids: dict[str, list[float]] = {
        "seq_len": [10, 30, 100, 300, 1_000, 3_000, 10_000],
        "K_P": twentieths,
        "K_Q": twentieths,
        "ratio": [2 ** (n / 2) for n in range(-8, 9)],
    }
    until = 20 * seq_len * (1 + K_Q / (ratio * K_P)) + 1_000
    times, path = theory.follow_flow(K_P, K_Q, seq_len, until, rate_A=ratio, start=start)
    return Explorable(
        "phase_portrait.js",
        {
            "choices": {name: sorted({*grid, opening[name]}) for name, grid in grids.items()},
            "opening": opening,
            "start": start,
        },
        question="Where does training land? What would you have to change for it to land at (1, 1)?",
        still=_portrait(times, path, K_P, K_Q, seq_len, ratio),
        alt=_story(theory.milestones(times, path), start),
    )


def _portrait(times: np.ndarray, path: np.ndarray, K_P: float, K_Q: float, seq_len: int, ratio: float) -> Figure:
    figure, (plane, chart) = plt.subplots(1, 2, figsize=(8, 4), constrained_layout=True)
    window = np.linspace(-1.6, 2.6, 60)
    grid_V, grid_A = np.meshgrid(window, window)
    velocity_V, velocity_A = theory.flow(grid_V, grid_A, K_P, K_Q, seq_len)
    plane.streamplot(
        grid_V, grid_A, velocity_V, ratio * velocity_A, color=figures.COLOURS["grey"], density=0.8, linewidth=0.6
    )
    branch = np.geomspace(1 / 2.6, 2.6, 100)
    for sign in (1, -1):
        plane.plot(sign * branch, sign / branch, "--", color="black", lw=1.5)
    plane.plot(*path.T, color=figures.COLOURS["vermilion"])
    plane.plot(path[0, 0], path[0, 1], "o", color=figures.COLOURS["vermilion"], mec="black", ms=10)
    plane.plot(1, 1, "*", ms=14, color=figures.COLOURS["blue"], mec="black")
    plane.set(
        xlim=(-1.6, 2.6),
        ylim=(-1.6, 2.6),
        xlabel=r"$\alpha_V$ (what follows what)",
        ylabel=r"$\alpha_A$ (where to look)",
    )
    excess = K_Q * (1 - path.prod(axis=1)) ** 2 + (1 - path[:, 0]) ** 2 / seq_len
    chart.loglog(times, np.abs(1 - path).max(axis=1), color=figures.COLOURS["vermilion"], label="distance from (1, 1)")
    chart.loglog(times, excess / (K_Q + 1 / seq_len), "--", color=figures.COLOURS["blue"], label="loss above the best")
    chart.set(xlim=(0.1, None), ylim=(1e-4, 4), xlabel="time")
    chart.legend(loc="center left", fontsize=11)
    return figure


def _story(found: theory.Milestones, start: tuple[float, float]) -> str:
    """Say in the words of phase_portrait.js what happens."""

    def brief(time: float) -> str:
        return f"{time:.1f}" if time < 100 else f"{float(f'{time:.3g}'):,.0f}"

    head = f"From ({start[0]:.2f}, {start[1]:.2f})"
    if math.isnan(found.landed):
        return f"{head} training has not landed within the time that is computed here."
    rises = math.prod(start) < 0.5 and found.half <= found.landed
    rise = f" the product reaches one half at t = {brief(found.half)}, and" if rises else ""
    landing = f"({found.landing_V:.2f}, {found.landing_A:.2f})"
    lands = f"{head}{rise} training lands near {landing} at t = {brief(found.landed)}."
    if found.landing_V < 0:
        return f"{lands} That is the wrong branch of the hyperbola: from there it never comes to (1, 1)."
    if found.near <= found.landed:
        return f"{lands} There it is already within 0.05 of (1, 1)."
    if math.isnan(found.near):
        return f"{lands} Within the time that is computed here it does not come within 0.05 of (1, 1)."
    return f"{lands} Then it creeps: within 0.05 of (1, 1) at t = {brief(found.near)}."
