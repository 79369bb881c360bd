"""Samples against T, N and S, by every method and for both stages; and what step size and batch size do to descent.

Writes scb_nb/results/complexity.jsonl, which the chapter "Sample complexity, measured" reads, and prints the tables.
"""

import math
from typing import Any

import numpy as np
import torch

from experiments.common import main
from scb_nb import SCBTask, align, fit, geometry, screening
from scb_nb.complexity import expected, power_law, trial, until
from scb_nb.many import fit_many
from scb_nb.probes import random_probes
from scb_nb.stages import Descent, SparseDescent
from scb_nb.state import State
from scb_nb.store import Record

LENGTHS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000)
LONGEST = 20_000  # for what is cheap
VOCABULARIES = (3, 5, 8, 12)
SPARSITIES = (1, 2, 4, 8)
MIDDLE = 1_000  # T, where N or S varies
TASKS = 24
WAYS: tuple[tuple[str, float], ...] = (  # and the correlation that transfer has
    ("screen", 1.0),
    ("probes", 1.0),
    ("transfer", 1.0),
    ("transfer", 0.5),
    ("large step", 1.0),
    ("small steps", 1.0),
    ("one probe", 1.0),
)
# Loud positions, so that few samples beside n_* suffice, and what is rare at first can be seen: one for each query.
LOUD = {"sparsity": 1, "K_P": 0.6}
LOUD_TASKS, LOUD_MOST = 48, 20_000

# Stage 2, from the support: its steps of 64 samples, and how well V correlates with P at its start.
PASSES = (20, 40, 80, 160, 320, 640, 1_280)
LENGTHS_SECOND, SHORT, LONG_PASSES = (100, 300, 1_000, 3_000, 10_000), 100, 320  # longer passes at the shortest T only
CORRELATION = 0.9
SLOW = 0.1  # a smaller step size than that of the recipe, where S varies
EPSILONS = (0.05, 0.02)

# Descent on all positions, with so many samples, for several times steps x eta and step sizes.
SAMPLES, SEQ_LEN, RUNS = 20_000, 500, 16
TIMES = (2.5, 5, 10, 20, 40, 80, 160)
STEP_SIZES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def settings() -> list[dict]:
    """Return the settings of all runs, each with tasks and samples of its own."""
    found: list[dict] = []
    sizes = [(T, 3, 2) for T in (*LENGTHS, LONGEST)]
    sizes += [(MIDDLE, N, 2) for N in VOCABULARIES if N != 3] + [(MIDDLE, 3, S) for S in SPARSITIES if S != 2]
    for T, N, S in sizes:
        for method, correlation in WAYS:
            if T not in lengths(method) or (method == "one probe" and (N, S) != (3, 2)):
                continue
            size = {"seq_len": T, "vocab_size": N, "sparsity": S}
            up_to = most(method, correlation, **size)
            found.append(
                {"what": "support", "method": method, "correlation": correlation, **size, "tasks": TASKS, "most": up_to}
            )
    found += [
        {"what": "support", "method": "large step", "seq_len": T, "tasks": LOUD_TASKS, "most": LOUD_MOST, **LOUD}
        for T in LENGTHS
    ]
    second = [(T, 3, 2) for T in LENGTHS_SECOND]
    second += [(SHORT, N, 2) for N in VOCABULARIES if N != 3] + [(SHORT, 3, S) for S in SPARSITIES if S not in (1, 2)]
    found += [
        {"what": "second stage", "seq_len": T, "vocab_size": N, "sparsity": S, "tasks": TASKS} for T, N, S in second
    ]
    found += [
        {"what": "rates", "time": time, "step_size": rate, "tasks": RUNS}
        for time in TIMES
        for rate in STEP_SIZES
        if 1 <= batch_size(time, rate) <= SAMPLES / 4
    ]
    found += [
        {"what": "second stage", "seq_len": SHORT, "vocab_size": 3, "sparsity": S, "step_size": SLOW, "tasks": TASKS}
        for S in SPARSITIES[1:]
    ]
    return [each | {"first": 1_000 * (number + 1)} for number, each in enumerate(found)]


def lengths(method: str) -> tuple[int, ...]:
    """Return the lengths at which a method is tried."""
    if method in ("large step", "small steps"):
        return LENGTHS
    return LENGTHS[:-1] if method == "one probe" else (*LENGTHS, LONGEST)


def most(method: str, correlation: float, seq_len: int, vocab_size: int, sparsity: int) -> int:
    """Return up to how many samples a method is tried: four times what theory expects, within limits."""
    if method == "small steps":
        return 50  # they end by themselves
    if method == "one probe":
        return 12_800
    if (vocab_size, sparsity) == (3, 2):  # the same at every length, for the maps
        return {"large step": 25_600, "transfer": 1_600 if correlation == 1 else 6_400}.get(method, 1_600)
    formula = "screen" if method == "probes" else method
    sizes = {"vocab_size": vocab_size, "sparsity": sparsity}
    factor = 2.0 if formula == "screen" else 4.0
    return round(factor * expected(formula, seq_len, correlation=correlation, **sizes))


def batch_size(time: float, step_size: float) -> int:
    """Return the batch size with which so many samples take this time, steps x eta."""
    return round(step_size * SAMPLES / time)


def run(what: str, tasks: int, first: int, **others: Any) -> dict:
    """Do one run on as many tasks; return a list over them for each quantity."""
    if what == "rates":
        return rates(tasks=tasks, first=first, **others)
    of_one = trial if what == "support" else second_stage
    rows = [of_one(seed=first + number, **others) for number in range(tasks)]
    if what == "support":  # all look at the same samples, as long as they look
        longest = max((row["samples"] for row in rows), key=len)
        return {"samples": longest, "seen": [row["seen"] for row in rows]}
    return {name: [row[name] for row in rows] for name in rows[0]}


def trials(result: dict) -> list[dict]:
    """Return what :func:`scb_nb.complexity.until` reads, from a kept result."""
    return [{"samples": result["samples"], "seen": seen} for seen in result["seen"]]


def second_stage(seq_len: int, vocab_size: int, sparsity: int, seed: int, step_size: float = 0.3) -> dict[str, Any]:
    """Train on one task from the known support, in second stages of several lengths; return both errors for each."""
    task = SCBTask.random(vocab_size, seq_len, sparsity, K_P=0.3, q_floor=1.0, seed=seed)
    P, Q, mu = task.tensors(like=torch.empty(()))
    start = State.uniform(mu, seq_len)
    along = (P - start.V) / geometry.norm(P - start.V, mu)
    # V as the first stage leaves it: of length one, pointing roughly at P.
    start.V = start.V + CORRELATION * along
    start.V = start.V + (1 - CORRELATION**2) ** 0.5 * random_probes(mu, 1, seed, beside=along)[0]
    start.support, start.A = Q > 0, (Q > 0) / sparsity
    errors = []
    for steps in PASSES:
        if seq_len > SHORT and steps > LONG_PASSES:
            break
        source = task.stream(seed, device="cpu", share_mu=True)  # the same samples for all
        stage = SparseDescent(steps=steps, batch_size=64, step_size=step_size, passes=1)
        result = fit(source, [stage], start=start, record_every=10_000)
        aligned = align(result.V, result.A, task)
        errors.append([brief(aligned.error_V), brief(aligned.error_A)])
    return {"errors": errors}


def rates(time: float, step_size: float, tasks: int, first: int) -> dict[str, list]:
    """Descend on all positions with as many samples and this step size; return where it ends, by task."""
    B = batch_size(time, step_size)
    drawn = [SCBTask.random(3, SEQ_LEN, 2, K_P=0.3, q_floor=1.0, seed=first + number) for number in range(tasks)]
    sources = [task.stream(first + number, device="cpu", share_mu=True) for number, task in enumerate(drawn)]
    runs = fit_many(sources, [Descent(steps=round(SAMPLES / B), batch_size=B, step_size=step_size)] * tasks)
    rows = []
    for task, each in zip(drawn, runs, strict=True):
        if not each.finished or float(each.V.abs().max()) > 1e3:
            rows.append({"alpha_V": None, "alpha_A": None, "residual_A": None, "exact": False})
            continue
        found = screening.outstanding(each.A, each.state.mu, 0.01)
        row: dict[str, Any] = {"exact": bool(torch.equal(found, torch.tensor(task.support)))}
        aligned = align(each.V, each.A, task)
        rows.append(row | {name: brief(getattr(aligned, name)) for name in ("alpha_V", "alpha_A", "residual_A")})
    return {name: [row[name] for row in rows] for name in ("alpha_V", "alpha_A", "residual_A", "exact")}


def brief(value: float) -> float:
    """Return the value to four digits."""
    return float(f"{value:.4g}")


# Reading the results


def select(records: list[Record], **wanted: Any) -> list[Record]:
    """Return the records with these settings."""
    return [record for record in records if wanted.items() <= record["settings"].items()]


def samples_at(records: list[Record], method: str, moment: str, correlation: float = 1.0, **size: int) -> np.ndarray:
    """Return the samples until a moment at one size, over the tasks."""
    wanted = {"method": method, "correlation": correlation, "seq_len": MIDDLE, "vocab_size": 3, "sparsity": 2} | size
    (record,) = select(records, what="support", **wanted)
    return until(trials(record["result"]), moment)


def table(
    records: list[Record], method: str, moment: str, axis: str, correlation: float = 1.0
) -> tuple[tuple[int, ...], np.ndarray]:
    """Return sizes along an axis, and samples there, (sizes, tasks)."""
    sizes = {"seq_len": lengths(method), "vocab_size": VOCABULARIES, "sparsity": SPARSITIES}[axis]
    return sizes, np.array([samples_at(records, method, moment, correlation, **{axis: size}) for size in sizes])


def for_error(record: Record, epsilon: float, tasks: np.ndarray | None = None) -> float:
    """Return the samples of stage 2 from which on the median of the larger error stays at or below epsilon."""
    errors = np.array(record["result"]["errors"]).max(axis=2)  # (tasks, passes)
    medians = np.median(errors if tasks is None else errors[tasks], axis=0)
    above = np.flatnonzero(medians > epsilon)
    place = above[-1] + 1 if len(above) else 0
    samples = 64.0 * np.array(PASSES[: len(medians)])
    if place in (0, len(medians)):
        return samples[0] if place == 0 else math.inf
    share = math.log(medians[place - 1] / epsilon) / math.log(medians[place - 1] / medians[place])
    return float(samples[place - 1] * (samples[place] / samples[place - 1]) ** share)


def report(records: list[Record]) -> None:
    """Print medians by size, and exponents with intervals."""
    for axis in ("seq_len", "vocab_size", "sparsity"):
        for method, correlation in WAYS:
            for moment in ("seen", "named", "ended") if method == "small steps" else ("seen", "named"):
                if method == "one probe" and axis != "seq_len":
                    continue
                sizes, rows = table(records, method, moment, axis, correlation)
                words = f"{axis:<11} {method} {correlation:g}, {moment}".ljust(36)
                print(words, *(f"{np.median(row):>8,.0f}" for row in rows), end="  ")
                try:
                    law = power_law(sizes, rows)
                    print(f"{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}] bend {law.bend:+.2f}", end=" ")
                    print(f"[{law.bend_low:+.2f}, {law.bend_high:+.2f}]")
                except ValueError as error:
                    print(error)
    for record in select(records, what="second stage"):
        own = record["settings"]
        sizes = own["seq_len"], own["vocab_size"], own["sparsity"], own.get("step_size", "")
        print("stage 2", *sizes, [for_error(record, epsilon) for epsilon in EPSILONS])
    for record in select(records, what="rates"):
        own, result = record["settings"], record["result"]
        ends = [np.nan if a is None else a for a in result["alpha_V"]]
        print(f"time {own['time']:g}, eta {own['step_size']}: {np.median(ends):.2f}, exact {sum(result['exact'])}")


if __name__ == "__main__":
    main("complexity", run, settings(), report, __doc__)
