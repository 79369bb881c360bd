"""What stage 1 costs: samples until the support is visible, for small and for large steps, against T and N.

Writes scb_nb/results/stage_one.jsonl, which chapter 5 reads, and prints the table.
"""

from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from scb_nb import SCBTask, align, fit, screening
from scb_nb.stages import LargeSteps, SmallSteps, Stage, State
from scb_nb.store import Record

# (T, N): the context grows, then the vocabulary.
SIZES = [*((T, 3) for T in (100, 200, 500, 1000, 2000, 5000)), (1000, 5), (1000, 10)]
TASKS = 24
VISIBLE = 0.6
STEP_SIZE = 0.1
# Batch size over step size, in units of T: the grid, and what short contexts need beyond it.
RATIOS = (0.2, 0.4, 0.8)
MORE_RATIOS = (1.6, 3.2)
SHORT = 200


def batch_size(seq_len: int, ratio: float) -> int:
    """Return the batch size of small steps with that ratio."""
    return round(STEP_SIZE * ratio * seq_len)


def settings() -> list[dict]:
    """Return the settings: at each size large steps, and small ones at several ratios, each on samples of its own."""
    found: list[dict] = []
    for T, N in SIZES:
        ratios = [ratio for ratio in RATIOS + MORE_RATIOS * (T <= SHORT) if batch_size(T, ratio) >= 4]
        methods: list[dict] = [{"method": "large"}, *({"method": "small", "ratio": ratio} for ratio in ratios)]
        for method in methods:
            stream = 1_000 * (len(found) + 1)  # so that chance is not shared
            found.append({"seq_len": T, "vocab_size": N, "tasks": TASKS, "stream": stream, **method})
    return found


def run(seq_len: int, vocab_size: int, tasks: int, stream: int, method: str, ratio: float = 0.0) -> dict:
    """Run stage 1 on tasks with K_P = 0.3, uniform mu and two positions for each query; return a list a quantity."""
    stage: Stage
    if method == "large":  # looks often, so that the moment of visibility is known well
        stage = LargeSteps(batch_size=200, round_size=1_000 * vocab_size, visible=VISIBLE, max_steps=1_000)
    else:
        stage = SmallSteps(
            steps=500, batch_size=batch_size(seq_len, ratio), step_size=STEP_SIZE, visible=VISIBLE, false_alarms=0.01
        )
    rows = [one(stage, seq_len, vocab_size, 30_000 + number, stream + number) for number in range(tasks)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def one(stage: Stage, seq_len: int, vocab_size: int, seed: int, stream: int) -> dict[str, Any]:
    """Run the stage on one task, whose weights are at least 1/4."""
    task = SCBTask.random(vocab_size, seq_len, 2, K_P=0.3, q_floor=0.5, seed=seed)
    truth = torch.tensor(task.support)
    large = isinstance(stage, LargeSteps)
    states: list[State] = []

    def watch(state: State) -> dict[str, float]:
        """Keep the states, and say whether something stands out in enough queries."""
        states.append(state)
        if large:
            return {"visible": not bool(state.support.all())}
        found = screening.outstanding(state.A, state.mu, 0.01)
        return {"visible": float(found.any(0).double().mean()) >= VISIBLE}

    def told(state: State) -> list[float]:
        """Return hits, false entries, and the correlation of V with P, each beyond mu 1^T."""
        aligned = align(state.V, state.A, task)
        along = aligned.alpha_V * task.K_P**0.5
        length = float(np.hypot(along, aligned.residual_V))
        hits, chosen = int((state.support & truth).sum()), int(state.support.sum())
        return [hits, chosen - hits, brief(along / max(length, 1e-12))]

    source = task.stream(stream, device="cpu", share_mu=True)
    result = fit(source, (stage,), observers=[watch], record_every=1 if large else 2)
    visible = result.history["visible"]
    first = int(np.argmax(visible)) if visible.any() else None
    before = align(states[-2].V, states[-2].A, task)  # the last record before A was put on its support
    hits, false, correlation = told(result.state)
    row: dict[str, Any] = {
        "finished": result.finished,
        "samples": result.samples,
        "exact": result.finished and (hits, false) == (truth.sum(), 0),
        "hits": hits,
        "false": false,
        "correlation": correlation,
        "first": None if first is None else int(result.history["samples"][first]),
        "alpha_V": brief(before.alpha_V),
        "alpha_A": brief(before.alpha_A),
        "residual_A": brief(before.residual_A),
    }
    if large:
        row["rounds"] = [] if first is None else [told(state) for state in states[first:]]
    return row


def brief(value: float) -> float:
    """Return the value to four digits."""
    return float(f"{value:.4g}")


def until(record: Record, moment: str) -> np.ndarray:
    """Return samples until the first entries stand out ("first") or the exact support is found; infinite if never."""
    result = record["result"]
    came = [each is not None for each in result["first"]] if moment == "first" else result["exact"]
    values = result["first"] if moment == "first" else result["samples"]
    return np.array([value if well else np.inf for value, well in zip(values, came, strict=True)], dtype=float)


def report(records: list[Record]) -> None:
    """Print medians with intervals: samples until the first entries stand out, and until the exact support."""
    print("     T   N  steps  ratio   first entries [90%]        exact support      exact  wrong sign")
    for record in records:
        own, result = record["settings"], record["result"]
        first, exact = until(record, "first"), until(record, "exact")
        low, high = interval(np.minimum(first, 1e9).tolist())
        wrong = sum(value < 0 for value in result["alpha_V"])
        print(
            f"{own['seq_len']:>6} {own['vocab_size']:>3}  {own['method']} {own.get('ratio', ''):>5}  "
            + f"{np.median(first):>8,.0f} [{low:,.0f}, {high:,.0f}]".ljust(32)
            + f"{np.median(exact):>9,.0f}  {sum(result['exact']):>9}/{own['tasks']}  {wrong:>6}"
        )


if __name__ == "__main__":
    main("stage_one", run, settings(), report, __doc__)
