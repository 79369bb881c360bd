"""Rivals at their best: plain SGD, momentum and Adam, tuned on three tasks and confirmed on twenty, against two stages.

Writes scb_nb/results/rivals_tuning.jsonl and rivals.jsonl, which chapter 7 reads, and prints the table.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from scb_nb import SCBTask, align, fit, geometry
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import Descent, SmallSteps, SparseDescent, Stage, State
from scb_nb.store import Record, kept, key
from scb_nb.stream import Source
from scb_nb.training import Diverged, default_stages

SIZE: dict[str, Any] = {"vocab_size": 3, "seq_len": 500, "sparsity": 2}
FAMILY: dict[str, Any] = {"K_P": 0.3, "q_floor": 0.5, "mu_ratio": 3}
BUDGET = 128_000  # samples of every run; the default recipe stops by itself, near that number
TUNING, CONFIRMING = range(60_000, 60_003), range(61_000, 61_020)

# The grid: each batch size with each pair of step sizes of V and of A, with and without decay.
BATCH_SIZES = (32, 128)
STEP_SIZES = {
    "sgd": ((0.1, 0.4, 1.6, 6.4), (0.003, 0.01, 0.015, 0.03, 0.1)),  # 0.015: just below where it is unstable
    "momentum": ((0.04, 0.16, 0.64, 2.56), (0.001, 0.003, 0.01, 0.03)),
    "adam": ((0.001, 0.003, 0.01, 0.03, 0.1, 0.3), (0.0003, 0.001, 0.003, 0.01)),
}
# The two stages in small steps have one step size for both.
SMALL_STEP_SIZES = (0.025, 0.05, 0.1, 0.2)
# What is read off one run: its last iterate or the mean of the second half, as they are or trimmed.
READINGS = ("last", "average", "last, trimmed", "average, trimmed")
# The two runs of the paper's figure: SGD at a large step size and at a small one.
LARGE_AND_SMALL = ((3.2, 0.015), (0.1, 0.003))
# For a rival in the place of stage 1: half of the budget.
FINISH = SparseDescent(steps=250, batch_size=256, step_size=0.3, passes=1)


def grid(method: str) -> list[dict]:
    """Return the settings that are tried for a method."""
    if method == "two stages":
        return [{"method": method, "batch_size": B, "step_size": e} for B in BATCH_SIZES for e in SMALL_STEP_SIZES]
    return [
        {"method": method, "batch_size": B, "step_size": V, "step_size_A": A, "decay": decay}
        for B in BATCH_SIZES
        for V in STEP_SIZES[method][0]
        for A in STEP_SIZES[method][1]
        for decay in (False, True)
    ]


METHODS = ("sgd", "momentum", "adam", "two stages")


def tuning_settings() -> list[dict]:
    """Return the whole grid."""
    return [each | {"tasks": list(TUNING), "watched": False} for method in METHODS for each in grid(method)]


def settings() -> list[dict]:
    """Return the winners of the tuning, the runs of the paper's figure, and the default recipe, on fresh tasks."""
    tuned = kept("rivals_tuning")
    chosen: list[dict[str, Any]] = [{"method": "default"}]
    chosen += [
        {"method": "sgd", "batch_size": 32, "step_size": V, "step_size_A": A, "decay": False}
        for V, A in LARGE_AND_SMALL
    ]
    for method in METHODS:
        for reading, decay in variants(method):
            chosen.append(winner(tuned, method, reading, decay))
        if method in STEP_SIZES:
            chosen.append(finishing(tuned, method))
    unique = {key(each): each for each in ({**each, "tasks": list(CONFIRMING), "watched": True} for each in chosen)}
    return list(unique.values())


def finishing(tuned: list[Record], method: str) -> dict[str, Any]:
    """Return the settings of a rival that leaves half of the samples to stage 2."""
    return winner(tuned, method, "last, trimmed", True) | {"finish": True}


def variants(method: str) -> list[tuple[str, bool | None]]:
    """Return what is tuned separately for a method: which reading, with decay or without (None: no such choice)."""
    if method in STEP_SIZES:
        return [(reading, decay) for decay in (False, True) for reading in READINGS]
    return [("last", None)]


def run(method: str, tasks: Sequence[int], **options: Any) -> dict:
    """Train on each of the tasks; return lists over them."""
    rows = [one(method, seed, **options) for seed in tasks]
    return {name: [row[name] for row in rows] for name in rows[0]}


def one(method: str, seed: int, watched: bool = True, **options: Any) -> dict[str, Any]:
    """Train on one task; return how each reading of the run is judged, and if ``watched`` errors along the way."""
    task = SCBTask.random(**SIZE, **FAMILY, seed=seed)
    source = task.stream(seed, device="cpu", share_mu=True)
    stages = make(method, **options)
    watch = Watch(task if watched else None, sum(getattr(stage, "steps", 0) for stage in stages))
    row: dict[str, Any] = {"outcome": "diverged", "samples": None, "path": None, **dict.fromkeys(READINGS)}
    try:
        result = fit(source, stages, observers=[watch], record_every=1)
    except Diverged:
        return row
    if watched:
        seen = np.isfinite(result.history["error_V"])
        columns = ("samples", "error_V", "error_A", "trims_exact")
        row["path"] = {name: brief(result.history[name][seen]) for name in columns}
    row |= {"outcome": result.outcome, "samples": result.samples, "last": judge(result.V, result.A, task)}
    if len(stages) == 1 and method != "default":
        states = {"last": result.state, "average": watch.mean(result.state)}
        for name, state in states.items():
            trimmed = fit(source, [Trim()], start=state)
            row[name] = judge(state.V, state.A, task)
            row[f"{name}, trimmed"] = judge(trimmed.V, trimmed.A, task)
    return row


def make(
    method: str,
    batch_size: int = 0,
    step_size: float = 0.0,
    step_size_A: float = 0.0,
    decay: bool = False,
    finish: bool = False,
) -> tuple[Stage, ...]:
    """Return the stages of a method; with ``finish``, a rival leaves half of the samples to stage 2."""
    if method == "default":
        return default_stages(SIZE["vocab_size"], SIZE["seq_len"])
    if method == "two stages":
        first = SmallSteps(steps=BUDGET // 2 // batch_size, batch_size=batch_size, step_size=step_size)
        second = Descent(
            steps=BUDGET // 2 // batch_size, batch_size=batch_size, step_size=step_size, sparsity="l1", average=True
        )
        return first, second
    last = FINISH.steps * FINISH.batch_size if finish else 0
    rival = PlainDescent(
        optimizer=method,  # type: ignore[arg-type]
        steps=(BUDGET - last) // batch_size,
        batch_size=batch_size,
        step_size=step_size,
        step_size_A=step_size_A,
        decay=decay,
    )
    return (rival, Trim(), PutBack(), FINISH) if finish else (rival,)


class PutBack:
    """A stage that takes no samples: V returns to where its columns sum to one and V mu = mu, which stage 2 keeps."""

    def step(self, state: State, source: Source) -> bool:
        """Project V; it is the only step."""
        start = state.mu[:, None]
        state.V = start + geometry.centre_V(state.V - start, state.mu)
        return True

    def __repr__(self) -> str:
        return "PutBack()"


class Watch:
    """An observer that adds up the states of the second half, and with a task measures errors some 60 times."""

    def __init__(self, task: SCBTask | None, steps: int) -> None:
        self.task, self.steps, self.states, self.sums = task, steps, 0, (torch.zeros(()), torch.zeros(()))

    def __call__(self, state: State) -> dict[str, float]:
        """Take in a state, and say how far it is from the truth where that is to be kept."""
        if state.step > self.steps // 2:
            self.states += 1
            self.sums = self.sums[0] + state.V.double(), self.sums[1] + state.A.double()
        if self.task is None or (state.step % max(1, self.steps // 60) and state.step < self.steps):
            return {}
        aligned = align(state.V, state.A, self.task)
        trimmed = fit(self.task.stream(0, device="cpu", share_mu=True), [Trim()], start=state)
        exact = (trimmed.support.numpy() == self.task.support).all()
        return {"error_V": aligned.error_V, "error_A": aligned.error_A, "trims_exact": exact}

    def mean(self, state: State) -> State:
        """Return the mean of the second half, for the rest as in ``state``."""
        V, A = (each.to(state.V.dtype) / self.states for each in self.sums)
        return replace(state, V=V, A=A)


def judge(V: torch.Tensor, A: torch.Tensor, task: SCBTask) -> dict[str, float]:
    """Return both errors, and how many positions A misses or reads in vain."""
    aligned, read = align(V, A, task), A.numpy() != 0
    missed, false = int((task.support & ~read).sum()), int((read & ~task.support).sum())
    return {"error_V": brief(aligned.error_V), "error_A": brief(aligned.error_A), "missed": missed, "false": false}


def brief(values: Any) -> Any:
    """Return numbers to four digits."""
    return np.vectorize(lambda value: float(f"{value:.4g}"))(values).tolist()


def worse(result: dict, reading: str = "last") -> np.ndarray:
    """Return the larger of the two errors of each task, infinite where training diverged or gave up."""
    both = zip(result[reading], result["outcome"], strict=True)
    return np.array([max(j["error_V"], j["error_A"]) if j and o == "finished" else np.inf for j, o in both])


def winner(tuned: list[Record], method: str, reading: str = "last", decay: bool | None = None) -> dict[str, Any]:
    """Return the settings, but for the tasks, whose worst larger error on the tuning tasks is smallest."""
    tried = [r for r in tuned if r["settings"]["method"] == method and r["settings"].get("decay") == decay]
    chosen = min(tried, key=lambda record: float(max(worse(record["result"], reading))))["settings"]
    return {name: value for name, value in chosen.items() if name not in ("tasks", "watched")}


def confirmed(records: list[Record], chosen: dict[str, Any]) -> Record:
    """Return the record of these settings on the confirming tasks."""
    wanted = {"finish": False, **chosen}
    (record,) = (r for r in records if wanted.items() <= {"finish": False, **r["settings"]}.items())
    return record


def report(records: list[Record]) -> None:
    """Print a line for each method and way to read it, at its best, with its errors as multiples of the default's."""
    tuned = kept("rivals_tuning")
    base = worse(confirmed(records, {"method": "default"})["result"])
    print("method      reading            decay  larger error [90%]         times the default's    exact  setting")
    line(confirmed(records, {"method": "default"}), "last", base)
    for method in METHODS:
        for reading, decay in variants(method):
            line(confirmed(records, winner(tuned, method, reading, decay)), reading, base)
    for method in STEP_SIZES:
        line(confirmed(records, finishing(tuned, method)), "last", base)


def line(record: Record, reading: str, base: np.ndarray) -> None:
    """Print one line of the report."""
    own = record["settings"]
    errors = worse(record["result"], reading)
    exact = sum(bool(j) and j["missed"] + j["false"] == 0 for j in record["result"][reading])
    finite = np.minimum(errors, 1e9)
    name = reading + (", then stage 2" if own.get("finish") else "")
    low, high = interval(finite)
    ratio, ratios = np.median(finite / base), interval(finite / base)
    setting = [own[name] for name in ("batch_size", "step_size", "step_size_A") if name in own]
    print(
        f"{own['method']:<11} {name:<18} {own.get('decay', '')!s:<6}",
        f"{np.median(errors):.4f} [{low:.4f}, {high:.4f}]".ljust(26),
        f"{ratio:5.1f} [{ratios[0]:.1f}, {ratios[1]:.1f}]".ljust(22),
        f"{exact}/{len(errors)}  {setting}",
    )


if __name__ == "__main__":
    main("rivals", run, settings, report, __doc__, tuning=tuning_settings())
