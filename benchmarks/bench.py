"""Time a fresh batch and its gradients: the naive form against the package's, in turn, in one run.

Naive is what one writes first: torch.rand and bucketize for the tokens, one-hot tensors, einsum, autograd; float32.
Read the ratio, not the nanoseconds: both run on the same machine within the same minute, in turn, so that its moods
hit both. A machine busy with something else favours neither fairly; leave it alone meanwhile.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import one_hot

from scb_nb import LinearTransformer, SCBTask, batch_gradients
from scb_nb.objective import reference_gradients
from scb_nb.stream import Batch

# (seq_len, vocab_size, batch_size), and the least ratio that the project promises there.
SETTINGS = {(5000, 10, 256): 10.0, (500, 3, 512): None}


def naive_step(task: SCBTask, model: LinearTransformer, batch_size: int) -> Callable[[], None]:
    """Return a function that samples a batch and computes its gradients in the obvious way."""
    P, Q, mu = task.tensors(like=model.V)
    edges, Q_edges, P_edges = mu.cumsum(0)[:-1], Q.cumsum(0)[:-1].T.contiguous(), P.cumsum(0)[:-1].T.contiguous()

    def step() -> None:
        drawn = torch.bucketize(torch.rand(batch_size, task.seq_len + 1), edges, right=True)  # (B, T + 1)
        tokens, query = drawn[:, :-1], drawn[:, -1]
        position = torch.searchsorted(Q_edges[query], torch.rand(batch_size, 1), right=True)  # (B, 1)
        selected = tokens.gather(1, position)[:, 0]  # (B,)
        target = torch.searchsorted(P_edges[selected], torch.rand(batch_size, 1), right=True)[:, 0]  # (B,)
        V, A = model.V.detach().requires_grad_(), model.A.detach().requires_grad_()
        X = one_hot(tokens, task.vocab_size).to(V.dtype)  # (B, T, N)
        prediction = torch.einsum("btn,tb,mn->bm", X, A[:, query], V)  # (B, N)
        residual = one_hot(target, task.vocab_size) - prediction
        (0.5 * residual.square().sum(1).mean()).backward()

    return step


def our_step(task: SCBTask, model: LinearTransformer, batch_size: int) -> Callable[[], None]:
    """Return a function that does the same with the package."""
    stream = task.stream(seed=0, device="cpu")

    def step() -> None:
        batch_gradients(model.V, model.A, stream.chunks(batch_size))

    return step


def seconds(step: Callable[[], None], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def agree(model: LinearTransformer, batch: Batch) -> bool:
    """Say whether both forms give the same gradients on the same batch, to float32's rounding."""
    pairs = zip(batch_gradients(model.V, model.A, batch), reference_gradients(model.V, model.A, batch), strict=True)
    return all(torch.allclose(ours, naive, rtol=1e-3, atol=1e-6) for ours, naive in pairs)


def measure(seq_len: int, vocab_size: int, batch_size: int, repeats: int) -> dict[str, float | int | bool]:
    """Time both forms in turn, and return nanoseconds per token and the ratio of each pair of timings."""
    task = SCBTask.random(vocab_size, seq_len, 3, mu_ratio=3, seed=0)
    model = LinearTransformer.uniform(task.mu, seq_len, device="cpu")
    naive, ours = naive_step(task, model, batch_size), our_step(task, model, batch_size)
    seconds(naive, 1), seconds(ours, 3)  # warm up
    pairs = [(seconds(naive, 3), seconds(ours, 20)) for _ in range(repeats)]
    ratios = [slow / fast for slow, fast in pairs]
    per_token = 1e9 / (seq_len * batch_size)
    return {
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "batch_size": batch_size,
        "naive_ns": statistics.median(slow for slow, _ in pairs) * per_token,
        "ours_ns": statistics.median(fast for _, fast in pairs) * per_token,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "same_gradients": agree(model, task.sample(8, seed=0, device="cpu")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs for each setting (default: 7)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the table goes as JSON")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; medians, ns per token")
    print(f"{'T':>6} {'N':>4} {'B':>5} {'naive':>8} {'ours':>8} {'ratio':>7}  (min to max)   promised")
    rows = []
    for setting, promised in SETTINGS.items():
        row = measure(*setting, options.repeats)
        rows.append(row)
        print(
            "{seq_len:>6} {vocab_size:>4} {batch_size:>5} {naive_ns:>8.1f} {ours_ns:>8.2f} {ratio:>7.1f}  "
            "({ratio_min:.1f} to {ratio_max:.1f})".format(**row)
            + (f"   at least {promised:g}" if promised else "")
        )
        if not row["same_gradients"]:
            sys.exit("the two forms differ on the same batch: the timings mean nothing")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {options.json}")
    missed = [
        row for row, promised in zip(rows, SETTINGS.values(), strict=True) if promised and row["ratio"] < promised
    ]
    if missed:
        sys.exit(f"{len(missed)} setting(s) below the promised ratio")


if __name__ == "__main__":
    main()
