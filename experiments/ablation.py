"""What each piece of training is worth: three recipes, one piece taken out at a time, each at the best of three dials.

Writes scb_nb/results/ablation.jsonl, which chapter 6 reads, and prints the table.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.common import main
from scb_nb import SCBTask, align, fit, screening
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent, Stage, State
from scb_nb.store import Record
from scb_nb.stream import Source
from scb_nb.training import Diverged, default_stages

SIZE = {"vocab_size": 4, "seq_len": 200, "sparsity": 2}
K_P = 0.2
MU_RATIOS = (1, 8)
TASKS = 10
NAMES = ("outcome", "samples", "missed", "false", "error_V", "error_A")


@dataclass(frozen=True, kw_only=True)
class Unselected(SmallSteps):
    """Stage 1 in small steps that ends when the support stands out, and leaves A as it is."""

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch, and look what stands out in A."""
        last = Descent.step(self, state, source)
        found = screening.outstanding(state.A, state.mu, self.false_alarms)
        return last or float((state.A * found).sum(0).mean()) >= self.visible


def small_steps(
    step_size: float, first: type[SmallSteps] = SmallSteps, last: Iterable[Stage] | None = None, **changes: Any
) -> tuple[Stage, ...]:
    """Return small steps until the support stands out, descent with an l1 penalty, and a phase on V alone."""
    both = {name: changes[name] for name in ("precondition", "project") if name in changes}
    stage_one = first(steps=2_000, batch_size=128, step_size=step_size, **both)
    stage_two = Descent(steps=400, batch_size=64, step_size=step_size, sparsity="l1", average=True)
    stage_two = replace(stage_two, **changes)
    if last is None:
        last = [replace(stage_two, steps=200, step_size_A=0.0, sparsity="support")]
    return stage_one, stage_two, *last


def large_steps(step_size: float, last: Iterable[Stage] = (), **changes: Any) -> tuple[Stage, ...]:
    """Return the default recipe; with ``sparsity`` or ``average``, descent in the place of its second stage."""
    first, second = default_stages(SIZE["vocab_size"], SIZE["seq_len"])
    assert isinstance(first, LargeSteps)
    assert isinstance(second, SparseDescent)
    if not {"sparsity", "average"} & changes.keys():
        return first, replace(second, step_size=step_size, **changes), *last
    descent = Descent(steps=second.steps, batch_size=second.batch_size, step_size=step_size, average=True)
    return first, replace(descent, **changes), *last


def one_stage(step_size: float, last: Iterable[Stage] = (), **changes: Any) -> tuple[Stage, ...]:
    """Return descent with an l1 penalty from the very start."""
    descent = Descent(steps=1_200, batch_size=64, step_size=step_size, sparsity="l1", average=True)
    return replace(descent, **changes), *last


REVIEW = SparseDescent(steps=360, batch_size=256, step_size=0.3, passes=3)
V_ALONE = Descent(steps=180, batch_size=256, step_size=0.3, step_size_A=0.0, sparsity="support", average=True)

# By recipe and variant: the dials, and the stages for one of them. A dial is a step size but for the fixed penalty.
SMALL, LARGE, ONE = (0.04, 0.08, 0.16), (0.1, 0.3, 0.6), (0.05, 0.1, 0.2)
# Without projection larger ones diverge: chapter 6 derives the limit, 2 / (T ||mu||^2).
TINY = (0.01, 0.015, 0.02)
VARIANTS: dict[str, dict[str, tuple[tuple[float, ...], Any]]] = {
    "small steps": {
        "whole": (SMALL, small_steps),
        "no preconditioning": (SMALL, lambda d: small_steps(d, precondition=False)),
        "no projection": (TINY, lambda d: small_steps(d, project=False)),
        "no selection": (SMALL, lambda d: small_steps(d, first=Unselected)),
        "no l1": (SMALL, lambda d: small_steps(d, sparsity="none")),
        "simplex for l1": (SMALL, lambda d: small_steps(d, sparsity="simplex")),
        "no averaging": (SMALL, lambda d: small_steps(d, average=False)),
        "no phase on V": (SMALL, lambda d: small_steps(d, last=())),
        "review for phase on V": (SMALL, lambda d: small_steps(d, last=(REVIEW,))),
    },
    "large steps": {
        "whole": (LARGE, large_steps),
        "no preconditioning": (LARGE, lambda d: large_steps(d, precondition=False)),
        "no projection": (LARGE, lambda d: large_steps(d, project=False)),
        "no review": (LARGE, lambda d: large_steps(d, sparsity="support")),
        "no review, no averaging": (LARGE, lambda d: large_steps(d, sparsity="support", average=False)),
        "l1 for the support": (LARGE, lambda d: large_steps(d, sparsity="l1")),
        "simplex for the support": (LARGE, lambda d: large_steps(d, sparsity="simplex")),
        "all positions": (LARGE, lambda d: large_steps(d, sparsity="none")),
        "and a phase on V": (LARGE, lambda d: large_steps(d, last=(V_ALONE,))),
    },
    "one stage": {
        "penalty from the noise": (ONE, one_stage),
        "and a review": (ONE, lambda d: one_stage(d, last=(REVIEW,))),
        "fixed penalty": ((0.01, 0.03, 0.1), lambda d: one_stage(0.05, l1=d)),
    },
}


def settings() -> list[dict]:
    """Return the settings of all runs: each variant at each dial, with uniform mu and without; ten tasks to a run."""
    return [
        {"recipe": recipe, "variant": variant, "dial": dial, "mu_ratio": mu_ratio}
        for recipe, variants in VARIANTS.items()
        for variant, (dials, _) in variants.items()
        for dial in dials
        for mu_ratio in MU_RATIOS
    ]


def run(recipe: str, variant: str, dial: float, mu_ratio: float) -> dict:
    """Train on each of the tasks; return lists over them. The support found is where A is not zero."""
    _, stages = VARIANTS[recipe][variant]
    results = [train(stages(dial), mu_ratio, seed) for seed in range(40_000, 40_000 + TASKS)]
    return {name: [each.get(name) for each in results] for name in NAMES}


def train(stages: tuple[Stage, ...], mu_ratio: float, seed: int) -> dict:
    """Train on one task."""
    task = SCBTask.random(**SIZE, mu_ratio=mu_ratio, K_P=K_P, seed=seed)
    try:
        result = fit(task.stream(seed, device="cpu", share_mu=True), stages)
    except Diverged:
        return {"outcome": "diverged"}
    found = result.A.numpy() != 0
    alignment = align(result.V, result.A, task)
    return {
        "outcome": "finished" if result.finished else "gave up",
        "samples": result.samples,
        "missed": int((task.support & ~found).sum()),
        "false": int((found & ~task.support).sum()),
        "error_V": float(f"{alignment.error_V:.4g}"),
        "error_A": float(f"{alignment.error_A:.4g}"),
    }


def best(records: list[Record], recipe: str, variant: str, mu_ratio: float) -> tuple[float, dict]:
    """Return the dial with the smallest median of the larger error, and what came of it, as arrays over the tasks."""
    wanted = {"recipe": recipe, "variant": variant, "mu_ratio": mu_ratio}
    runs = {r["settings"]["dial"]: arrays(r) for r in records if wanted.items() <= r["settings"].items()}
    return min(runs.items(), key=lambda item: (float(np.median(worse(item[1]))), item[0]))


def arrays(record: Record) -> dict[str, np.ndarray]:
    """Return the lists of a record as arrays, NaN where there is no number."""
    result = record["result"]
    numbers = {name: np.array(result[name], dtype=float) for name in NAMES if name != "outcome"}
    return numbers | {"outcome": np.array(result["outcome"])}


def worse(results: dict[str, np.ndarray]) -> np.ndarray:
    """Return the larger of the two errors of each task, infinite where training did not come to its end."""
    finished = results["outcome"] == "finished"
    return np.where(finished, np.fmax(results["error_V"], results["error_A"]), np.inf)


def report(records: list[Record]) -> None:
    """Print a line for each recipe, variant and mu."""
    print("recipe        variant                    mu ratio   dial   exact  samples   larger error: median (worst)")
    for recipe, variants in VARIANTS.items():
        for variant in variants:
            for mu_ratio in MU_RATIOS:
                dial, results = best(records, recipe, variant, mu_ratio)
                errors = worse(results)
                exact = int((np.isfinite(errors) & (results["missed"] + results["false"] == 0)).sum())
                cells = f"{mu_ratio:>7}  {dial:>6g}  {exact:>2}/{TASKS}  {np.nanmedian(results['samples']):>9,.0f}"
                print(f"{recipe:<13} {variant:<26}", cells, f" {np.median(errors):.4f} ({max(errors):.4f})")


if __name__ == "__main__":
    main("ablation", run, settings(), report, __doc__)
