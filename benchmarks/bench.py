"""Time a full training step: the naive form, the package's, and the bound, in turn, in one run.

benchmarks/README.md says how to read the table. A machine busy with something else favours neither form fairly: leave
it alone meanwhile.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from scb_nb import SCBTask, batch_gradients, fit, kernels
from scb_nb.many import fit_many
from scb_nb.objective import reference_gradients
from scb_nb.stages import Descent, State
from scb_nb.stream import Stream

# (seq_len, vocab_size, batch_size), and the least ratio that the project promises there on a CPU, with Numba.
SETTINGS = {(5000, 10, 256): 30.0, (500, 3, 512): 10.0}
STEP_SIZE = 1e-3

# A step on a billion tokens, and the promised limit of memory.
LARGE = (5000, 3, 200_000)
MEGABYTES = 1000
LARGE_STEP = """
import resource, sys
from scb_nb import SCBTask, batch_gradients
from scb_nb.stages import State
import torch
T, N, B = map(int, sys.argv[1:])
task = SCBTask.random(N, T, 2, seed=0)
state = State.uniform(torch.tensor(task.mu, dtype=torch.float32), T)
gradients = batch_gradients(state.V, state.A, task.stream(0, device="cpu").chunks(B))
assert gradients.A.isfinite().all()
unit = 1e6 if sys.platform == "darwin" else 1e3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
"""

# Small runs, (seq_len, vocab_size, batch_size, runs, steps): one after another against together.
MANY = (100, 3, 16, 32, 200)

Row = dict[str, Any]


def naive_step(task: SCBTask, state: State, batch_size: int) -> Callable[[], None]:
    """Return a function that takes a step as one writes it first: bucketize, one-hot, einsum, autograd; float32."""
    P, Q, mu = task.tensors(like=state.V)
    edges, Q_edges, P_edges = mu.cumsum(0)[:-1], Q.cumsum(0)[:-1].T.contiguous(), P.cumsum(0)[:-1].T.contiguous()
    V, A = state.V.clone().requires_grad_(), state.A.clone().requires_grad_()
    descent = torch.optim.SGD([V, A], lr=STEP_SIZE)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device=V.device)

    def step() -> None:
        drawn = torch.bucketize(uniform(batch_size, task.seq_len + 1), edges, right=True)  # (B, T + 1)
        tokens, query = drawn[:, :-1], drawn[:, -1]
        position = torch.searchsorted(Q_edges[query], uniform(batch_size, 1), right=True)  # (B, 1)
        selected = tokens.gather(1, position)[:, 0]  # (B,)
        target = torch.searchsorted(P_edges[selected], uniform(batch_size, 1), right=True)[:, 0]  # (B,)
        X = one_hot(tokens, task.vocab_size).to(V.dtype)  # (B, T, N)
        prediction = torch.einsum("btn,tb,mn->bm", X, A[:, query], V)  # (B, N)
        residual = one_hot(target, task.vocab_size) - prediction
        descent.zero_grad()
        (0.5 * residual.square().sum(1).mean()).backward()
        descent.step()

    return step


def our_step(task: SCBTask, state: State, batch_size: int) -> Callable[[], None]:
    """Return a function that takes a step with the package."""
    stage = Descent(steps=1_000_000, batch_size=batch_size, step_size=STEP_SIZE)
    stream = task.stream(seed=0, device=state.V.device)

    def step() -> None:
        stage.step(state, stream)

    return step


def bound(task: SCBTask, stream: Stream, batch_size: int) -> Callable[[], None]:
    """Return a function that draws as many random bits as the sampler uses, and touches each token once."""
    tokens = batch_size * task.seq_len
    if stream.device.type != "cpu":
        words = torch.empty(tokens, dtype=torch.int16, device=stream.device)

        def touch() -> None:
            words.random_().sum()

        return touch
    bits, drawn = np.random.PCG64(0), stream.draw(batch_size).compact.numpy().ravel()

    def step() -> None:
        bits.random_raw(tokens // (4 * stream._guide.width))
        np.bitwise_or.reduce(drawn)

    return step


def seconds(step: Callable[[], None], calls: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def agree(task: SCBTask, state: State) -> bool:
    """Say whether both forms give the same gradients on the same batch, to float32's rounding."""
    batch = task.sample(8, seed=0, device=state.V.device)
    pairs = zip(batch_gradients(state.V, state.A, batch), reference_gradients(state.V, state.A, batch), strict=True)
    return all(torch.allclose(ours, naive, rtol=1e-3, atol=1e-6) for ours, naive in pairs)


def measure(seq_len: int, vocab_size: int, batch_size: int, repeats: int, device: torch.device) -> Row:
    """Time all forms in turn: nanoseconds per token, and the ratio of each pair of timings."""
    task = SCBTask.random(vocab_size, seq_len, 3, mu_ratio=3, seed=0)
    state = State.uniform(torch.tensor(task.mu, dtype=torch.float32, device=device), seq_len)
    same = agree(task, state)
    forms = {
        "naive": (naive_step(task, state, batch_size), 3),
        "plain": (our_step(task, state, batch_size), 10),
        "ours": (our_step(task, state, batch_size), 20),
        "bound": (bound(task, task.stream(0, device=device), batch_size), 20),
    }
    compiled = kernels.COMPILED
    times: dict[str, list[float]] = {name: [] for name in forms}
    try:
        for repeat in range(repeats + 1):
            for name, (step, calls) in forms.items():
                kernels.COMPILED = compiled and name != "plain"
                took = seconds(step, calls, device)
                if repeat:  # the first warms up
                    times[name].append(took)
    finally:
        kernels.COMPILED = compiled
    row: Row = {"seq_len": seq_len, "vocab_size": vocab_size, "batch_size": batch_size, "same_gradients": same}
    row |= {f"{name}_ns": statistics.median(took) * 1e9 / (seq_len * batch_size) for name, took in times.items()}
    for name in ("plain", "ours"):
        ratios = [slow / fast for slow, fast in zip(times["naive"], times[name], strict=True)]
        row |= {f"ratio_{name}": statistics.median(ratios), f"spread_{name}": [min(ratios), max(ratios)]}
    row["ours_over_bound"] = statistics.median(map(float.__truediv__, times["ours"], times["bound"]))
    return row


def measure_memory() -> Row:
    """Take a step on a billion tokens in a process of its own, and return its peak memory."""
    start = time.perf_counter()
    command = [sys.executable, "-c", LARGE_STEP, *map(str, LARGE)]
    megabytes = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"tokens": LARGE[0] * LARGE[2], "megabytes": megabytes, "seconds": time.perf_counter() - start}


def measure_many(repeats: int) -> Row:
    """Time small runs one after another, and together."""
    seq_len, vocab_size, batch_size, runs, steps = MANY
    task = SCBTask.random(vocab_size, seq_len, 2, seed=0)
    stages = [Descent(steps=steps, batch_size=batch_size, step_size=0.001 * run) for run in range(runs)]

    def streams() -> list[Stream]:
        return [task.stream(seed, device="cpu", share_mu=True) for seed in range(runs)]

    def singly() -> None:
        for stream, stage in zip(streams(), stages, strict=True):
            fit(stream, [stage], record_every=steps, progress=False)

    def together() -> None:
        fit_many(streams(), stages, progress=False)

    here = torch.device("cpu")
    ratios = [seconds(singly, 1, here) / seconds(together, 1, here) for _ in range(repeats + 1)][1:]
    return {"runs": runs, "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]}


def provenance(device: torch.device) -> Row:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": kernels.COMPILED,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds for each setting (default: 7)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is a GPU (default: cpu)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the table goes as JSON")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    try:
        device = torch.zeros((), device=options.device).device
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device must be one of this machine, got {options.device!r}: {error}")

    origin = provenance(device)
    numba = "with Numba" if kernels.COMPILED else "without Numba (pip install 'scb_nb[fast]')"
    print(f"{origin['device']}, {origin['threads']} threads, torch {origin['torch']}, {numba}; medians, ns per token")
    print(f"{'T':>6} {'N':>3} {'B':>4} {'naive':>8} {'plain':>7} {'ours':>7} {'bound':>7} {'naive/plain':>12}", end="")
    print(f" {'naive/ours (min to max)':>24} {'ours/bound':>11} {'promised':>9}")
    rows, missed = [], []
    on_cpu = device.type == "cpu" and kernels.COMPILED
    for setting, least in SETTINGS.items():
        row = measure(*setting, options.repeats, device)
        rows.append(row)
        spread = "({:.1f} to {:.1f})".format(*row["spread_ours"])
        print(
            "{seq_len:>6} {vocab_size:>3} {batch_size:>4} {naive_ns:>8.1f} {plain_ns:>7.2f} {ours_ns:>7.2f} "
            "{bound_ns:>7.2f} {ratio_plain:>12.1f} ".format(**row)
            + f"{row['ratio_ours']:>8.1f} {spread:>15} {row['ours_over_bound']:>11.1f} "
            + (f"{least:>9.0f}" if on_cpu else f"{'-':>9}")
        )
        if not row["same_gradients"]:
            sys.exit("the two forms differ on the same batch: the timings mean nothing")
        if on_cpu and row["ratio_ours"] < least:
            missed.append(f"naive/ours at {setting} is {row['ratio_ours']:.1f}, and {least:g} is promised")
    report: Row = {"origin": origin, "rows": rows}
    if device.type == "cpu":
        report |= {"memory": measure_memory(), "many": measure_many(options.repeats)}
        memory, many = report["memory"], report["many"]
        print(
            f"One step on {memory['tokens']:,} tokens: {memory['megabytes']:.0f} MB at most, all of Python included, "
            f"{memory['seconds']:.1f} s; less than {MEGABYTES} MB is promised"
        )
        low, high = many["spread"]
        print(f"{many['runs']} small runs together: {many['ratio']:.1f} times as fast ({low:.1f} to {high:.1f})")
        if memory["megabytes"] >= MEGABYTES:
            missed.append(f"a step on {memory['tokens']:,} tokens took {memory['megabytes']:.0f} MB")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {options.json}")
    if missed:
        sys.exit("Missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
