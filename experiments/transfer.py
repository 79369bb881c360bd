"""Transfer: samples until the support is seen and until both errors are 0.05, from scratch and from a related task.

Writes scb_nb/results/transfer_tuning.jsonl and transfer.jsonl, which the chapter "Transfer" reads, and prints the
table.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from experiments.price import crossing
from scb_nb import SCBTask, align, fit, geometry
from scb_nb.probes import Probes
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent, Stage, State
from scb_nb.store import Record, kept
from scb_nb.training import Fit
from scb_nb.transfer import correlation as correlation_of
from scb_nb.transfer import related_task, warm_start

LENGTHS = (100, 500, 1_000, 2_000, 5_000)
SIZE: dict[str, Any] = {"vocab_size": 3, "sparsity": 2, "K_P": 0.2, "q_floor": 0.5}
TUNING, CONFIRMING = range(4), range(4, 16)  # tasks that choose a dial, and those that are reported
CORRELATIONS = (-0.5, 0.0, 0.2, 0.5, 1.0)
MIDDLE = 1_000  # at this length the dial is turned finely
FINE = (-0.5, -0.35, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
EPSILON = 0.05

LAST = (20, 40, 80, 160)  # steps of the second stage
WALKS = (10, 20, 40, 80)  # steps of descent with a penalty, without a first stage
STEP_SIZE = 0.1
ROUNDS = (750, 1_500, 3_000)  # samples in a round of large steps: their dial
RATIOS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # B / (eta T), the dial of small steps; the four least with B >= 16
LISTENING: dict[str, dict[str, Any]] = {
    "listen": {"random": 0},
    "listen, one sign": {"random": 0, "either_sign": False},
    "listen to all": {},
    "all probes": {},  # from scratch
}


def dials(method: str, seq_len: int) -> tuple[float, ...]:
    """Return the dials that are tried for a method at this length; none if it has no dial."""
    if "large" in method:
        return ROUNDS
    return tuple(r for r in RATIOS if STEP_SIZE * r * seq_len >= 16)[:4] if "small" in method else ()


TUNED: list[dict[str, Any]] = [
    {"method": "scratch, large"},
    {"method": "scratch, small"},
    {"method": "walk, small", "correlation": 1.0},
    {"method": "walk, small", "correlation": 0.5},
]


def tuning_settings() -> list[dict]:
    """Return every dial of every method that has one."""
    return [
        {**each, "seq_len": T, "dial": dial, "tasks": list(TUNING)}
        for T in LENGTHS
        for each in TUNED
        for dial in dials(each["method"], T)
    ]


def settings() -> list[dict]:
    """Return the settings of all runs on the confirming tasks, with the dials that the tuning chose."""
    tuned = kept("transfer_tuning")
    found: list[dict] = []
    for T in LENGTHS:
        found += [{**each, "seq_len": T, "dial": winner(tuned, T, **each)} for each in TUNED]
        found += [{"method": "all probes", "seq_len": T}]
        found += [{"method": "listen", "seq_len": T, "correlation": c} for c in (FINE if T == MIDDLE else CORRELATIONS)]
    found += [{"method": "listen to all", "seq_len": MIDDLE, "correlation": c} for c in FINE]
    found += [{"method": "listen, one sign", "seq_len": MIDDLE, "correlation": c} for c in (-0.5, 0.5)]
    found += [
        {"method": "walk, small", "seq_len": MIDDLE, "correlation": c, "dial": winner(tuned, MIDDLE, **TUNED[-1])}
        for c in (-0.5, 0.2)
    ]
    for T in (MIDDLE, LENGTHS[-1]):
        found += [
            {"method": f"carry {what}", "seq_len": T, "correlation": 0.5, "keep_Q": keep_Q}
            for what in ("V", "A", "both")
            for keep_Q in ((True, False) if T == MIDDLE else (True,))
        ]
    found += [
        {"method": f"listen, theta {theta}", "seq_len": MIDDLE, "correlation": c}
        for theta in (0, 1)
        for c in (-0.5, 0.5)
    ]
    found += [{"method": "walk, l1", "seq_len": T, "correlation": 1.0} for T in (500, LENGTHS[-1])]
    return [each | {"tasks": list(CONFIRMING)} for each in found]


def run(
    method: str,
    seq_len: int,
    tasks: Sequence[int],
    correlation: float | None = None,
    dial: float = 0.0,
    keep_Q: bool = False,
) -> dict:
    """Train on each of the tasks; return lists over them."""
    rows = [one(method, seq_len, seed, correlation, dial, keep_Q) for seed in tasks]
    return {name: [row[name] for row in rows] for name in rows[0]}


@cache
def pretrained(seq_len: int, seed: int) -> tuple[SCBTask, Fit]:
    """Return the first task of a pair, and what training on samples makes of it."""
    task = SCBTask.random(seq_len=seq_len, seed=90_000 + seed, **SIZE)
    return task, fit(task.stream(91_000 + seed, device="cpu", share_mu=True))


def one(method: str, seq_len: int, seed: int, correlation: float | None, dial: float, keep_Q: bool) -> dict[str, Any]:
    """Train on one task; from one first stage, second stages of all lengths."""
    first_task, before = pretrained(seq_len, seed)
    c = 1.0 if correlation is None else correlation  # from scratch, any P will do
    task = related_task(first_task, c, seed=92_000 + seed, keep_Q=keep_Q, q_floor=SIZE["q_floor"])
    source = task.stream(93_000 + seed, device="cpu", share_mu=True)
    mu = before.state.mu
    start = warm_start(before.V, mu, seq_len, theta=0.0 if correlation is None else 1.0)
    own = start.V - mu[:, None]  # V_pre beyond mu 1^T
    row: dict[str, Any] = {"correlation": brief(correlation_of(before.V, task.P, task.mu))}

    if method in ("carry A", "carry both"):
        state = State(
            start.V if method == "carry both" else mu[:, None].repeat(1, len(mu)), before.A, mu, before.support
        )
        return row | told(state, own, task) | {"first": 0, "ends": ends(state, source, task, 0)}
    if method == "walk, l1":
        return row | {"ends": walks(start, source, task)}
    found = fit(source, [first_stage(method, seq_len, dial)], start=start)
    row |= told(found.state, own, task) | {"first": found.samples if found.finished else None}
    state = found.state
    if "theta" in method:
        state.V = mu[:, None] + float(method[-1]) * own
    sight_only = method in ("listen, one sign", "listen to all") or correlation not in (None, *CORRELATIONS)
    return row | {"ends": ends(state, source, task, found.samples) if found.finished and not sight_only else []}


def first_stage(method: str, seq_len: int, dial: float) -> Stage:
    """Return the stage that is to find positions."""
    if "large" in method:
        return LargeSteps(batch_size=400, round_size=round(dial), rounds=1, max_steps=400)
    if "small" in method:
        return SmallSteps(steps=400, batch_size=round(STEP_SIZE * dial * seq_len), step_size=STEP_SIZE)
    looks = 600 if seq_len <= MIDDLE else 250
    return Probes(batch_size=100, max_steps=looks, **LISTENING.get(method, LISTENING["listen"]))


def ends(state: State, source: Any, task: SCBTask, before: int) -> list[dict[str, Any]]:
    """Return where second stages of all lengths lead from here."""
    rows = []
    for steps in LAST:
        source.position = before  # the same samples for all
        result = fit(source, [SparseDescent(steps=steps, batch_size=64, step_size=0.3)], start=state)
        rows.append({"samples": before + result.samples, **judge(result, task)})
    return rows


def walks(start: State, source: Any, task: SCBTask) -> list[dict[str, Any]]:
    """Return where descent with an l1 penalty, and no first stage, leads with different numbers of steps."""
    rows = []
    for steps in WALKS:
        source.position = 0
        stage = Descent(steps=steps, batch_size=512, step_size=0.2, sparsity="l1", average=True)
        result = fit(source, [stage], start=start)
        rows.append({"samples": result.samples, **judge(result, task)})
    return rows


def told(state: State, own: torch.Tensor, task: SCBTask) -> dict[str, Any]:
    """Return theta, what the attention makes of it, and how many positions were found, rightly and wrongly."""
    mu, truth = state.mu, torch.tensor(task.support)
    theta = geometry.inner(state.V - mu[:, None], own, mu) / geometry.norm(own, mu).square().clamp_min(1e-12)
    _, Q, _ = task.tensors(like=state.V)
    found = state.support
    return {
        "theta": brief(float(theta)),
        "share": brief(float(geometry.inner(Q, state.A, mu) / geometry.norm(state.A, mu) ** 2)),
        "hits": int((found & truth).sum()),
        "false": int((found & ~truth).sum()),
    }


def judge(result: Fit, task: SCBTask) -> dict[str, float]:
    """Return both errors."""
    aligned = align(result.V, result.A, task)
    return {"error_V": brief(aligned.error_V), "error_A": brief(aligned.error_A)}


def brief(value: float) -> float:
    """Return the value to four digits."""
    return float(f"{value:.4g}")


# Reading the results


def first_sight(result: dict) -> np.ndarray:
    """Return samples of the first stage on each task, infinite if it gave up."""
    return np.array([np.inf if n is None else n for n in result["first"]], dtype=float)


def curve(result: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return samples and the larger error, each an array over the tasks, for growing second stages."""
    points = []
    for place in range(len(LAST)):
        rows = [each[place] if each else None for each in result["ends"]]
        samples = np.array([r["samples"] if r else np.inf for r in rows], dtype=float)
        points.append((samples, np.array([max(r["error_V"], r["error_A"]) if r else np.inf for r in rows])))
    return points


def samples_for(result: dict, tasks: np.ndarray | None = None, epsilon: float = EPSILON) -> float:
    """Return the samples from which on the median error stays at or below epsilon."""
    points = curve(result)
    return crossing(points, epsilon, np.arange(len(points[0][0])) if tasks is None else tasks)


def winner(tuned: list[Record], seq_len: int, **wanted: Any) -> float:
    """Return the dial with which a method needs the fewest samples for the error on the tuning tasks."""
    tried = [r for r in tuned if ({"seq_len": seq_len} | wanted).items() <= r["settings"].items()]
    best = min(tried, key=lambda r: (samples_for(r["result"]), float(np.median(first_sight(r["result"])))))
    return float(best["settings"]["dial"])


def report(records: list[Record]) -> None:
    """Print samples until first sight, and for the error, with intervals."""
    for record in records:
        own, result = record["settings"], record["result"]
        name = f"{own['method']} {own.get('correlation', '')} {own.get('dial', '')} {own.get('keep_Q', '')}"
        line = f"{own['seq_len']:>6}  {name:<28}"
        if "first" in result:
            sight = np.minimum(first_sight(result), 1e9)
            low, high = interval(sight.tolist())
            line += f" {np.median(sight):>14,.0f} [{low:,.0f}, {high:,.0f}]".ljust(36)
            line += f" hits {np.mean(result['hits']):.1f} false {np.mean(result['false']):.1f}"
        if any(result["ends"]):
            rng = np.random.default_rng(0)
            drawn = [samples_for(result, rng.choice(12, 12)) for _ in range(200)] if len(result["ends"]) == 12 else [0]
            low, high = np.quantile(drawn, [0.05, 0.95], method="nearest")
            line += f"   {EPSILON}: {samples_for(result):>9,.0f} [{low:,.0f}, {high:,.0f}]"
        print(line)


if __name__ == "__main__":
    main("transfer", run, settings, report, __doc__, tuning=tuning_settings())
