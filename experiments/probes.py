"""What probes cost, in place of a learned V: samples to first sight, by T, N and their number, and to small errors.

Writes scb_nb/results/probes.jsonl, which the chapter "Is stage 1 necessary?" reads, and prints the tables.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments import price
from experiments.common import interval, main
from scb_nb import SCBTask, batch_gradients, geometry, screening
from scb_nb.estimators import moment_screen
from scb_nb.probes import Probes
from scb_nb.state import State
from scb_nb.store import Record
from scb_nb.stream import Batch, BatchStream, Stream

LENGTHS = price.LENGTHS
MIDDLE = 1_000
# First sight, on the first tasks of experiments/stage_one.py. The numbers of probes are those tried at T = 1,000.
TASKS = 20
VISIBLE = 0.6
COUNTS = {3: (1, 2, 3, 4), 5: (1, 2, 4, 8, 16), 10: (1, 3, 9, 27, 81)}
METHODS = ("probes", "again", "true direction", "screen", "large step", "large step, same samples")
SIZES = [round(100 * 2 ** (power / 2)) for power in range(21)]  # 100 to 102,400
MOST = 12_800  # tried at any length; a few probes at T = 1,000 are tried with all
SKEWED = 3.0

# Samples for an error, on the tasks of experiments/price.py. The dial: samples in a look.
DIALS = (1_000, 2_000)
PASSES = (20, 40, 80, 160, 320)  # steps of stage 2
REPEATED = price.GRID[:8]  # 500 to 5,657
FEW_LENGTHS = (500, 5_000)


def settings() -> list[dict]:
    """Return the settings of all runs: first sight by method and length, by number of probes, and errors."""
    common = {"what": "sight", "mu_ratio": 1.0, "most": MOST}
    found: list[dict] = [
        common | {"method": method, "seq_len": T, "vocab_size": 3, "count": 4 if method in ("probes", "again") else 0}
        for T in LENGTHS
        for method in METHODS
    ]
    found += [common | {"method": "probes", "seq_len": T, "vocab_size": 3, "count": 1} for T in LENGTHS]
    at_middle = common | {"seq_len": MIDDLE}
    for N, counts in COUNTS.items():
        few = [count for count in counts if 1 < count < (N - 1) ** 2] + [1] * (N > 3)
        found += [
            at_middle | {"method": "probes", "vocab_size": N, "count": count, "most": SIZES[-1] if count <= 9 else MOST}
            for count in few
        ]
        if N > 3:
            found += [
                at_middle | {"method": m, "vocab_size": N, "count": counts[-1] if m in ("probes", "again") else 0}
                for m in METHODS
            ]
    skewed = at_middle | {"mu_ratio": SKEWED, "vocab_size": 3}
    found += [skewed | {"method": m, "count": c} for m, c in (("probes", 4), ("again", 4), ("screen", 0))]
    found += [{"what": "once", "seq_len": T, "dial": dial} for T in LENGTHS for dial in DIALS]
    found += [{"what": "repeated", "seq_len": T, "samples": n} for T in FEW_LENGTHS for n in REPEATED]
    return found


def run(what: str, **others: Any) -> dict:
    """Do one run; return a list over the tasks for each quantity."""
    if what == "sight":
        rows = [sight(number=number, **others) for number in range(TASKS)]
    elif what == "once":
        rows = [once(seed=seed, **others) for seed in range(price.CHOOSING + price.TASKS)]
    else:
        rows = [repeated(seed=seed, **others) for seed in range(price.TASKS)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def sight(
    method: str, seq_len: int, vocab_size: int, count: int, mu_ratio: float, most: int, number: int
) -> dict[str, list]:
    """Look at more and more samples of one task; return what is found at each size, until that is right twice."""
    task = SCBTask.random(vocab_size, seq_len, 2, K_P=0.3, q_floor=0.5, mu_ratio=mu_ratio, seed=30_000 + number)
    truth = torch.tensor(task.support)
    row: dict[str, list] = {"samples": [], "visible": [], "hits": [], "false": []}
    right = 0
    for n, found in supports(method, task, count, 90_000 + number, [n for n in SIZES if n <= most]):
        row["samples"].append(n)
        row["visible"].append(bool(found.any(0).double().mean() >= VISIBLE))
        row["hits"].append(int((found & truth).sum()))
        row["false"].append(int((found & ~truth).sum()))
        right = right + 1 if bool((found == truth).all()) else 0
        if right == 2:
            break
    return row


def supports(method: str, task: SCBTask, count: int, seed: int, sizes: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield sizes, and the positions that are found from so many samples, boolean (T, N)."""
    source = task.stream(seed, device="cpu", share_mu=True)
    P, _, mu = task.tensors(like=torch.empty(()))
    start = State.uniform(mu, task.seq_len)
    if method in ("probes", "again", "true direction"):
        known = method == "true direction"
        stage = Probes(
            batch_size=1, random=count, either_sign=not known, again=method == "again", visible=1e-9, seed=seed
        )
        yield from listen(stage, replace(start, V=P) if known else start, source, sizes)
        return
    batch = source.draw(sizes[-1])
    for n in sizes:
        yield n, moment_screen(batch[:n]) if method == "screen" else large_step(batch[:n], start, "same" in method)


def listen(stage: Probes, start: State, source: Stream, sizes: Iterable[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield sizes, and the positions (T, N) that stand out, from this start, in that many samples of a fresh stream."""
    state = replace(start, memory={})
    for n in sizes:
        state.V = start.V  # what was heard stays in memory
        over = replace(stage, batch_size=n - source.position).step(state, source)
        yield n, state.support if over else torch.zeros_like(state.support)


def large_step(batch: Batch, start: State, same: bool) -> torch.Tensor:
    """Return what stands out after one large step of V: on the other half, or on the same samples in either sign."""
    mu, half = start.mu, len(batch) // 2
    learn, listen = (batch, batch) if same else (batch[:half], batch[half:])
    D = -geometry.centre_V(batch_gradients(start.V, start.A, learn).V / mu, mu)
    pull = -batch_gradients(start.V + D / geometry.norm(D, mu), start.A, listen).A / mu
    height = (pull - pull.median(0).values) / screening.noise_level(pull, mu)
    if same:
        return height.abs() > screening.critical_value(2 * height.numel(), 0.01)
    return height > screening.critical_value(height.numel(), 0.01)


def once(seq_len: int, dial: int, seed: int) -> dict[str, Any]:
    """Train on fresh samples: all probes, then second stages of all lengths; like :func:`experiments.price.once`."""
    return price.two_stages(Probes(batch_size=dial), PASSES, price.task_at(seq_len, seed), seed)


def repeated(seq_len: int, samples: int, seed: int) -> dict[str, Any]:
    """Train on one batch, as often as training likes; with the second stage of :func:`experiments.price.stages_for`."""
    task = price.task_at(seq_len, seed)
    batch = task.stream(80_000 + seed, device="cpu").draw(samples)
    *_, last = price.stages_for("large steps, repeated", seq_len, samples)
    stages = [Probes(batch_size=samples, visible=0.3, max_steps=1), last]
    return price.judge(price.train(BatchStream(batch, mu=task.mu), stages), task)


def until(result: dict, positions: int | None = None) -> np.ndarray:
    """Return for each task the first size with enough visible, or else with all ``positions`` right; maybe infinite."""
    found = []
    for row in price.zip_rows(result):
        good = row["visible"]
        if positions is not None:
            good = [(hits, false) == (positions, 0) for hits, false in zip(row["hits"], row["false"], strict=True)]
        found.append(next((n for n, yes in zip(row["samples"], good, strict=True) if yes), np.inf))
    return np.array(found)


def select(records: list[Record], **wanted: Any) -> list[Record]:
    """Return the records with these settings."""
    return [record for record in records if wanted.items() <= record["settings"].items()]


def curve(records: list[Record], seq_len: int, dial: int | None = None) -> price.Curve:
    """Return samples and larger errors, each over the tasks, for growing effort, as experiments/price.py does."""
    if dial is None:
        kept = select(records, what="repeated", seq_len=seq_len)
        return [
            (np.full(price.TASKS, float(r["settings"]["samples"])), price.larger(price.zip_rows(r["result"])))
            for r in kept
        ]
    (record,) = select(records, what="once", seq_len=seq_len, dial=dial)
    never = [{"error_V": None, "error_A": None, "samples": np.inf}] * len(PASSES)
    tasks = [each or never for each in record["result"]["ends"]]
    return [
        (np.array([ends[i]["samples"] for ends in tasks], dtype=float), price.larger([ends[i] for ends in tasks]))
        for i in range(len(PASSES))
    ]


def best_curve(records: list[Record], seq_len: int, epsilon: float) -> price.Curve:
    """Return the curve of the dial that is best on the first tasks."""
    first = np.arange(price.CHOOSING)
    candidates = [curve(records, seq_len, dial) for dial in DIALS]
    return min(candidates, key=lambda each: price.crossing(each, epsilon, first))


def report(records: list[Record]) -> None:
    """Print samples to first sight, and for small errors."""
    for record in select(records, what="sight"):
        chosen, result = record["settings"], record["result"]
        seen = until(result)
        false = np.mean([sum(each) / len(each) for each in result["false"]])
        name = f"{chosen['method']}, {chosen['count']}" if chosen["count"] else chosen["method"]
        print(
            f"N = {chosen['vocab_size']:>2}, T = {chosen['seq_len']:>5}, mu {chosen['mu_ratio']}: {name:<26}"
            f"{np.median(seen):>9,.0f} {interval(np.minimum(seen, 1e7))} worst {seen.max():>9,.0f}, false {false:.3f}"
        )
    for epsilon in price.EPSILONS:
        reported = np.arange(price.CHOOSING, price.CHOOSING + price.TASKS)
        for T in LENGTHS:
            value = price.crossing(best_curve(records, T, epsilon), epsilon, reported)
            print(f"{T:>6} once, error {epsilon}: {value:,.0f}")
        for T in FEW_LENGTHS:
            value = price.crossing(curve(records, T), epsilon, np.arange(price.TASKS))
            print(f"{T:>6} repeated, error {epsilon}: {value:,.0f}")


if __name__ == "__main__":
    main("probes", run, settings(), report, __doc__)
