"""Where the recipe breaks: weak positions, rare tokens and weak signals, outside the family that it was made for.

Writes scb_nb/results/limits.jsonl, which chapter 6 reads, and prints the table.
"""

from dataclasses import replace

import numpy as np

from experiments.common import main
from scb_nb import SCBTask, distances, fit
from scb_nb.stages import LargeSteps, SparseDescent
from scb_nb.store import Record
from scb_nb.training import default_stages

T, N, S = 1_000, 5, 3
TASKS = 10
# What each dial is set to while the others are turned.
CENTRE = {"smallest_weight": 0.2, "mu_ratio": 1, "K_P": 0.3}
DIALS = {
    "smallest_weight": (0.2, 0.1, 0.07, 0.05, 0.03, 0.02),
    "mu_ratio": (1, 3, 10, 30, 100),
    "K_P": (0.3, 0.1, 0.05, 0.03, 0.02, 0.01),
}
# Where more samples are tried: this many times as many in every step.
MORE = {"smallest_weight": (0.05, 0.03, 0.02), "mu_ratio": (30, 100), "K_P": (0.03, 0.02, 0.01)}
FACTOR = 4


def settings() -> list[dict]:
    """Return the settings of all runs."""
    return [
        {"dial": dial, "value": value, "factor": factor, "seed": seed}
        for dial, values in DIALS.items()
        for value in values
        for factor in ((1, FACTOR) if value in MORE[dial] else (1,))
        for seed in range(50_000, 50_000 + TASKS)
    ]


def task_at(seed: int, smallest_weight: float, mu_ratio: float, K_P: float) -> SCBTask:
    """Return a task in which every query reads one position with exactly the smallest weight, and two others."""
    drawn = SCBTask.random(N, T, S, mu_ratio=mu_ratio, K_P=K_P, seed=seed)
    rng = np.random.default_rng(seed)
    Q = np.zeros((T, N))
    for k in range(N):
        share = rng.uniform(0.4, 0.6)
        rest = 1 - smallest_weight
        Q[rng.choice(T, S, replace=False), k] = smallest_weight, rest * share, rest * (1 - share)
    return SCBTask(drawn.P, Q)


def run(dial: str, value: float, factor: int, seed: int) -> dict:
    """Train on one task with one dial turned, and ``factor`` times as many samples in every step."""
    task = task_at(seed, **(CENTRE | {dial: value}))
    first, second = default_stages(N, T)
    assert isinstance(first, LargeSteps)
    assert isinstance(second, SparseDescent)
    stages = (
        replace(first, batch_size=factor * first.batch_size, round_size=factor * first.round_size),
        replace(second, batch_size=factor * second.batch_size),
    )
    result = fit(task.stream(seed, device="cpu", share_mu=True), stages, observers=[distances(task)])
    history, read = result.history, int(task.support.sum())
    first_stage = np.flatnonzero(history["stage"] == 0)[-1]
    return {
        "outcome": "finished" if result.finished else "gave up",
        "samples": result.samples,
        "samples_first": int(history["samples"][first_stage]),
        "missed_first": read - int(history["hits"][first_stage]),
        "false_first": int(history["false_entries"][first_stage]),
        "missed": read - int(history["hits"][-1]),
        "false": int(history["false_entries"][-1]),
        "error_V": float(f"{history['error_V'][-1]:.4g}"),
        "error_A": float(f"{history['error_A'][-1]:.4g}"),
    }


def exact(result: dict) -> bool:
    """Say whether the run came to its end with the right support."""
    return result["outcome"] == "finished" and result["missed"] == result["false"] == 0


def select(records: list[Record], dial: str, value: float, factor: int = 1) -> list[dict]:
    """Return the results at one value of one dial."""
    wanted = {"dial": dial, "value": value, "factor": factor}
    return [r["result"] for r in records if wanted.items() <= r["settings"].items()]


def report(records: list[Record]) -> None:
    """Print a line for each value of each dial."""
    print("dial             value  samples x  gave up  exact  missed in stage 1, 2  false   samples   |V-P|   |A-Q|")
    for dial, values in DIALS.items():
        for value in values:
            for factor in (1, FACTOR):
                if results := select(records, dial, value, factor):
                    columns = {name: np.array([each[name] for each in results]) for name in results[0]}
                    gave_up = (columns["outcome"] != "finished").sum()
                    print(
                        f"{dial:<16} {value:>5g} {factor:>10} {gave_up:>8} {sum(map(exact, results)):>4}/{len(results)}"
                        f"  {columns['missed_first'].mean():>10.1f} {columns['missed'].mean():>10.1f}"
                        f" {columns['false'].mean():>6.1f} {np.median(columns['samples']):>9,.0f}"
                        f"  {np.median(columns['error_V']):.4f}  {np.median(columns['error_A']):.4f}"
                    )


if __name__ == "__main__":
    main("limits", run, settings(), report, __doc__)
