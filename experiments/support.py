"""Transfer: samples until exactly the support is named, listening along a related task's P, and from scratch.

Writes scb_nb/results/support.jsonl, which the chapter "Transfer" reads, and prints the table.
"""

from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from experiments.probes import listen
from scb_nb import SCBTask, fit
from scb_nb.probes import Probes
from scb_nb.stages import LargeSteps
from scb_nb.store import Record
from scb_nb.transfer import related_task, warm_start

LENGTHS = (100, 500, 1_000, 2_000, 5_000)
FAMILY: dict[str, Any] = {"vocab_size": 3, "sparsity": 2, "K_P": 0.2, "q_floor": 0.5}
CORRELATIONS = (-0.5, 0.2, 0.5, 1.0)
ROUNDS = (1_500, 3_000, 6_000)  # samples in the round of large steps
TASKS = 16
SIZES = [round(100 * 2 ** (power / 2)) for power in range(21)]  # 100 to 102,400


def settings() -> list[dict]:
    """Return the settings of all runs."""
    found: list[dict] = []
    for T in LENGTHS:
        found += [{"method": "listen", "seq_len": T, "correlation": c} for c in CORRELATIONS]
        found += [{"method": "all probes", "seq_len": T}]
        found += [{"method": "scratch, large", "seq_len": T, "dial": dial} for dial in ROUNDS]
    return found


def run(method: str, seq_len: int, correlation: float = 1.0, dial: int = 0) -> dict:
    """Return for each task the samples until exactly the support is named, and stays so; None if that does not come."""
    return {"samples": [one(method, seq_len, seed, correlation, dial) for seed in range(TASKS)]}


def one(method: str, seq_len: int, seed: int, correlation: float, dial: int) -> int | None:
    """Listen to one stream until the support is named."""
    before = SCBTask.random(seq_len=seq_len, seed=95_000 + seed, **FAMILY)
    task = related_task(before, correlation, seed=96_000 + seed, q_floor=FAMILY["q_floor"])
    source = task.stream(97_000 + seed, device="cpu", share_mu=True)
    truth = torch.tensor(task.support)
    if method == "scratch, large":
        result = fit(source, [LargeSteps(batch_size=400, round_size=dial, rounds=1, max_steps=400)])
        return result.samples if result.finished and bool((result.support == truth).all()) else None
    P, _, mu = before.tensors(like=torch.empty(()))
    known = method == "listen"
    stage = Probes(batch_size=1, random=0 if known else None, visible=1e-9)
    right = None
    for n, found in listen(stage, warm_start(P, mu, seq_len, theta=float(known)), source, SIZES):
        if not bool((found == truth).all()):
            right = None
        elif right is None:
            right = n
        else:
            return right
    return right


def until(records: list[Record], method: str, seq_len: int, **wanted: Any) -> np.ndarray:
    """Return the samples of each task, infinite where the support was not named; for a dial, the best."""
    chosen = {"method": method, "seq_len": seq_len, **wanted}.items()
    tried = [r["result"]["samples"] for r in records if chosen <= r["settings"].items()]
    samples = [np.array([np.inf if n is None else n for n in each], dtype=float) for each in tried]
    return min(samples, key=lambda each: (np.median(each), np.isinf(each).sum()))


def report(records: list[Record]) -> None:
    """Print medians with intervals."""
    for T in LENGTHS:
        for name, wanted in (
            *((f"c = {c}", {"method": "listen", "correlation": c}) for c in CORRELATIONS),
            ("all probes", {"method": "all probes"}),
            ("scratch, large", {"method": "scratch, large"}),
        ):
            samples = until(records, seq_len=T, **wanted)  # type: ignore[arg-type]
            low, high = interval(np.minimum(samples, 1e7).tolist())
            never = f"never {np.isinf(samples).sum()}"
            print(f"{T:>6} {name:<16}{np.median(samples):>9,.0f} [{low:,.0f}, {high:,.0f}] {never}")


if __name__ == "__main__":
    main("support", run, settings(), report, __doc__)
