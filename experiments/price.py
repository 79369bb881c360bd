"""What gradient training pays: samples to reach errors of 0.05 and 0.02, by T, against a moment screen and EM.

Writes scb_nb/results/price.jsonl, which the chapter "How far from the limit?" reads, and prints the table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import main
from scb_nb import SCBTask, align, fit
from scb_nb.estimators import Estimate, expectation_maximisation, screened_estimate
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import LargeSteps, SmallSteps, SparseDescent, Stage
from scb_nb.state import State
from scb_nb.store import Record
from scb_nb.stream import BatchStream, Source
from scb_nb.training import Diverged, Fit

LENGTHS = (100, 200, 500, 1_000, 2_000, 5_000)
SIZE: dict[str, Any] = {"vocab_size": 3, "sparsity": 2, "K_P": 0.3, "q_floor": 0.5}
EPSILONS = (0.05, 0.02)

# Methods that are given n samples and may look at them as often as they like.
GRID = [round(500 * 2 ** (power / 2)) for power in range(12)]  # 500 to 22,627
TASKS = 16
BATCH_METHODS = ("floor", "screen and EM", "large steps, repeated", "small steps, repeated")
# Two that are tried at a few sizes only.
EXTRA = {
    "EM, random start": [(100, 2_000), (100, 8_000), (500, 2_000)],
    "Adam, repeated": [(T, n) for T in (500, 2_000) for n in (1_000, 2_000, 4_000, 8_000, 16_000)],
}

# Methods that see each sample once. Their dials: samples in a round of large steps; B / (eta T) of small ones.
DIALS: dict[str, tuple[float, ...]] = {
    "large steps, once": (1_500, 3_000, 6_000),
    "small steps, once": (0.2, 0.4, 0.8, 1.6, 3.2),
}
SHORT = 200  # longer contexts are not tried with the last two dials of small steps, which suit short ones
PASSES = (40, 80, 160, 320, 640)  # steps of stage 2
CHOOSING = 8  # so many tasks choose the dial, the others are what is reported
STEP_SIZE = 0.1


def settings() -> list[dict]:
    """Return the settings of all runs: each method at each length, and with each number of samples or dial."""
    found: list[dict] = [
        {"method": method, "seq_len": T, "samples": n} for T in LENGTHS for method in BATCH_METHODS for n in GRID
    ]
    found += [{"method": m, "seq_len": T, "samples": n} for m, pairs in EXTRA.items() for T, n in pairs]
    found += [
        {"method": method, "seq_len": T, "dial": dial} for T in LENGTHS for method in DIALS for dial in dials(method, T)
    ]
    return found


def dials(method: str, seq_len: int) -> tuple[float, ...]:
    """Return the dials that are tried at this length: small steps with at least four samples in a batch."""
    tried = DIALS[method] if seq_len <= SHORT else DIALS[method][:3]
    return tuple(dial for dial in tried if method == "large steps, once" or STEP_SIZE * dial * seq_len >= 4)


def run(method: str, seq_len: int, samples: int = 0, dial: float = 0.0) -> dict:
    """Estimate P and Q on each of the tasks; return lists over them."""
    if method in DIALS:
        rows = [once(method, task_at(seq_len, seed), seed, dial) for seed in range(CHOOSING + TASKS)]
    else:
        rows = [repeated(method, task_at(seq_len, seed), seed, samples) for seed in range(TASKS)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def task_at(seq_len: int, seed: int) -> SCBTask:
    """Return a task with uniform mu whose weights are at least 1/4."""
    return SCBTask.random(seq_len=seq_len, seed=70_000 + seed, **SIZE)


def repeated(method: str, task: SCBTask, seed: int, samples: int) -> dict[str, Any]:
    """Estimate from one batch."""
    batch = task.stream(80_000 + seed, device="cpu").draw(samples)
    if method == "floor":
        return judge(expectation_maximisation(batch, task.P, task.Q), task)
    if method == "screen and EM":
        return judge(screened_estimate(batch), task)
    if method == "EM, random start":
        rng = np.random.default_rng(seed)
        P, Q = (rng.dirichlet(np.ones(rows), size=task.vocab_size).T for rows in (task.vocab_size, task.seq_len))
        return judge(expectation_maximisation(batch, P, Q), task)
    return judge(train(BatchStream(batch, mu=task.mu), stages_for(method, task.seq_len, samples)), task)


def stages_for(method: str, seq_len: int, samples: int) -> list[Stage]:
    """Return the stages of gradient training on a batch of so many samples."""
    last = SparseDescent(steps=max(100, 3 * samples // 128), batch_size=128, step_size=0.3)
    if method == "large steps, repeated":
        return [LargeSteps(batch_size=samples, round_size=samples, rounds=3, visible=0.3, max_steps=3), last]
    if method == "small steps, repeated":
        size = max(64, round(0.4 * STEP_SIZE * seq_len))
        return [SmallSteps(steps=400, batch_size=size, step_size=STEP_SIZE), last]
    adam = PlainDescent(
        optimizer="adam", steps=2_000, batch_size=64, step_size=0.003, step_size_A=0.001, decay=True, average=True
    )
    return [adam, Trim(), last]


def train(source: Source, stages: Sequence[Stage], start: State | None = None) -> Fit | None:
    """Return what gradient training comes to, and nothing if it does not come to its end."""
    try:
        result = fit(source, stages, start=start)
    except Diverged:
        return None
    return result if result.finished else None


def once(method: str, task: SCBTask, seed: int, dial: float) -> dict[str, Any]:
    """Train on fresh samples by large or small steps, and then the second stage."""
    first: Stage
    if method == "large steps, once":
        first = LargeSteps(batch_size=400, round_size=round(dial), rounds=1, max_steps=400)
    else:
        batch_size = max(1, round(STEP_SIZE * dial * task.seq_len))
        first = SmallSteps(steps=600, batch_size=batch_size, step_size=STEP_SIZE)
    return two_stages(first, PASSES, task, seed)


def two_stages(first: Stage, lengths: Sequence[int], task: SCBTask, seed: int) -> dict[str, Any]:
    """Train on fresh samples; from one first stage, second stages of so many steps each."""
    source = task.stream(80_000 + seed, device="cpu", share_mu=True)
    found = train(source, [first])
    if found is None:
        return {"samples_first": None, "ends": []}
    ends = []
    for steps in lengths:
        source.position = found.samples
        last = SparseDescent(steps=steps, batch_size=64, step_size=0.3, passes=1)
        ends.append(judge(train(source, [last], start=found.state), task) | {"samples": source.position})
    return {"samples_first": found.samples, "ends": ends}


def judge(found: Estimate | Fit | None, task: SCBTask) -> dict[str, Any]:
    """Return both errors, and whether exactly the positions of the support hold more than 1/20 of the attention."""
    if found is None:
        return {"error_V": None, "error_A": None, "exact": False}
    P, Q = (found.V, found.A) if isinstance(found, Fit) else (found.P, found.Q)
    aligned = align(P, Q, task)
    exact = bool(((Q > 0.05).numpy() == task.support).all())
    return {"error_V": brief(aligned.error_V), "error_A": brief(aligned.error_A), "exact": exact}


def brief(value: float) -> float:
    """Return the value to four digits."""
    return float(f"{value:.4g}")


Curve = list[tuple[np.ndarray, np.ndarray]]


def curve(records: list[Record], method: str, seq_len: int, dial: float | None = None) -> Curve:
    """Return samples and the larger error, each an array over the tasks, for growing effort."""
    wanted: dict[str, Any] = {"method": method, "seq_len": seq_len} | ({} if dial is None else {"dial": dial})
    chosen = [record for record in records if wanted.items() <= record["settings"].items()]
    if dial is None:
        return [(np.full(TASKS, float(r["settings"]["samples"])), larger(zip_rows(r["result"]))) for r in chosen]
    (record,) = chosen
    never = [{"error_V": None, "error_A": None, "samples": np.inf}] * len(PASSES)
    tasks = [each or never for each in record["result"]["ends"]]
    return [
        (np.array([ends[place]["samples"] for ends in tasks], dtype=float), larger([ends[place] for ends in tasks]))
        for place in range(len(PASSES))
    ]


def zip_rows(result: dict) -> list[dict]:
    """Return a row for each task from a list for each quantity."""
    return [dict(zip(result, values, strict=True)) for values in zip(*result.values(), strict=True)]


def larger(rows: list[dict]) -> np.ndarray:
    """Return the larger of the two errors, infinite without an estimate."""
    return np.array([np.inf if r["error_V"] is None else max(r["error_V"], r["error_A"]) for r in rows])


def crossing(points: Curve, epsilon: float, tasks: np.ndarray) -> float:
    """Return the median samples from which on the median error stays at or below epsilon; infinite if it does not.

    Between two points the logarithms are interpolated.
    """
    samples = np.array([np.median(each[tasks]) for each, _ in points])
    errors = np.array([np.median(each[tasks]) for _, each in points])
    above = np.flatnonzero(~(errors <= epsilon))
    if len(above) == 0:
        return float(samples[0])
    place = above[-1]
    if place + 1 == len(points):
        return np.inf
    if not np.isfinite(errors[place]) or not np.isfinite(samples[place]):
        return float(samples[place + 1])
    share = np.log(errors[place] / epsilon) / np.log(errors[place] / errors[place + 1])
    return float(np.exp((1 - share) * np.log(samples[place]) + share * np.log(samples[place + 1])))


def samples_for(
    records: list[Record], method: str, seq_len: int, epsilon: float, draws: int = 500
) -> tuple[float, float, float]:
    """Return the samples for median errors of epsilon, and the ends of a bootstrap interval (90%) over the tasks.

    The dial of a method that sees each sample once is chosen on the first tasks, and reported on the others.
    """
    tasks = np.arange(TASKS)
    points = None
    if method in DIALS:
        first, tasks = np.arange(CHOOSING), np.arange(CHOOSING, CHOOSING + TASKS)
        candidates = [curve(records, method, seq_len, dial) for dial in dials(method, seq_len)]
        points = min(candidates, key=lambda each: crossing(each, epsilon, first))
    else:
        points = curve(records, method, seq_len)
    rng = np.random.default_rng(0)
    drawn = [crossing(points, epsilon, rng.choice(tasks, len(tasks))) for _ in range(draws)]
    return crossing(points, epsilon, tasks), *np.quantile(drawn, [0.05, 0.95], method="nearest").tolist()


def report(records: list[Record]) -> None:
    """Print samples for both errors by method and length, and as multiples of screen and EM."""
    for epsilon in EPSILONS:
        print(f"samples for a median error of {epsilon} [90%], times screen and EM")
        for T in LENGTHS:
            base, _, _ = samples_for(records, "screen and EM", T, epsilon)
            for method in (*BATCH_METHODS, *DIALS):
                value, low, high = samples_for(records, method, T, epsilon)
                print(f"{T:>6}  {method:<22} {value:>9,.0f} [{low:,.0f}, {high:,.0f}]".ljust(62), f"{value / base:.2f}")
    for method, pairs in EXTRA.items():
        for T, n in pairs:
            wanted = {"method": method, "seq_len": T, "samples": n}
            (result,) = (r["result"] for r in records if wanted.items() <= r["settings"].items())
            errors = larger(zip_rows(result))
            print(
                f"{T:>6}  {method:<22} n = {n:>6,}: {sum(result['exact'])}/{TASKS} exact, error {np.median(errors):.3f}"
            )


if __name__ == "__main__":
    main("price", run, settings(), report, __doc__)
