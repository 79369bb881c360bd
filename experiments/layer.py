"""A standard transformer layer on the task: what it learns, how long its plateau is, what transfer is worth to it.

Writes scb_nb/results/layer.jsonl and layer_tuning.jsonl, which the chapter "A real layer" reads, and prints both.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from scb_nb import SCBTask, distances, fit
from scb_nb.layer import PARTS, TransformerLayer, carry, train
from scb_nb.model import predict
from scb_nb.reading import attention_map, readings, score_table, token_map
from scb_nb.rivals import PlainDescent
from scb_nb.stages import State
from scb_nb.store import FOLDER, Record, Store
from scb_nb.stream import Batch
from scb_nb.transfer import related_task

SIZE: dict[str, Any] = {"vocab_size": 3, "q_floor": 0.5}
K_P, WIDTH = 0.3, 32
VARIANTS: dict[str, dict[str, bool]] = {
    "bare": {"norm": False, "mlp": False},
    "norm": {"norm": True, "mlp": False},
    "mlp": {"norm": False, "mlp": True},
    "standard": {"norm": True, "mlp": True},
}
TUNING = list(range(60_000, 60_004))
CONFIRMING = list(range(61_000, 61_010))

# What is learned in the end: steps and samples in a batch; the step size shrinks to zero over the second half.
SEQ_LEN, STEPS, BATCH_SIZE = 32, 1_000, 128
STEP_SIZES = (1e-3, 3e-3, 1e-2)

# How long the plateau is: small batches and a constant step size, until half of the prediction has been found.
LENGTHS = (16, 32, 64)
SHORT = 32  # with longer contexts the largest step size often finds nothing, and is not tried
PACE_BATCH, PACE_STEPS = 32, 1_500
LINEAR_STEP_SIZES = [(V, A) for V in (1e-2, 3e-2, 1e-1) for A in (1e-2, 3e-2)]

# Transfer: a layer trained on one task starts another with the same mu.
TRANSFER_LEN, TRANSFER_K_P, PRETRAINING = 64, 0.2, 600
CORRELATIONS = (1.0, 0.5, 0.0, -0.5)
CARRIED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "what": ("what",),
    "where": ("where",),
    "everything": tuple(PARTS),
}


def tuning() -> list[dict]:
    """Return the settings of the runs that choose step sizes, on tasks of their own."""
    found: list[dict] = [
        {"kind": "learn", "variant": v, "sparsity": 2, "step_size": rate, "tasks": TUNING}
        for v in ("bare", "standard")
        for rate in (STEP_SIZES if v == "bare" else STEP_SIZES[:2])
    ]
    for T in LENGTHS:
        rates = STEP_SIZES if T <= SHORT else STEP_SIZES[:2]
        found += [pace_settings(v, T, rate) for v in ("bare", "standard") for rate in rates]
        found += [pace_settings("linear", T, V, step_size_A=A) for V, A in LINEAR_STEP_SIZES]
    return found


def pace_settings(variant: str, seq_len: int, step_size: float, **more: float) -> dict:
    """Return settings of one run for tuning."""
    return {"kind": "pace", "variant": variant, "seq_len": seq_len, "step_size": step_size, **more, "tasks": TUNING}


def settings() -> list[dict]:
    """Return the settings of all other runs, with the step sizes that did best in the tuning."""
    tuned = list(Store(FOLDER / "layer_tuning.jsonl").records().values())
    rate = {v: best(tuned, "nats", kind="learn", variant=v)["step_size"] for v in ("bare", "standard")}
    rate |= {"norm": rate["standard"], "mlp": rate["bare"]}
    found: list[dict] = [
        {"kind": "learn", "variant": v, "sparsity": S, "step_size": rate[v], "tasks": CONFIRMING}
        for v, S in [*((v, 2) for v in VARIANTS), ("bare", 1), ("standard", 1)]
    ]
    found += [{"kind": "recipe", "sparsity": S, "tasks": CONFIRMING} for S in (1, 2)]
    for variant in ("standard", "linear", "bare"):
        for T in LENGTHS:
            found.append(best(tuned, "half", kind="pace", variant=variant, seq_len=T) | {"tasks": CONFIRMING})
    for variant in ("standard", "linear"):
        chosen = best(tuned, "half", kind="pace", variant=variant, seq_len=TRANSFER_LEN)
        found += [chosen | {"kind": "transfer", "tasks": [seed]} for seed in CONFIRMING]
    return found


def best(records: list[Record], measure: str, **wanted: Any) -> dict:
    """Return the settings with the smallest median of a measure; one that was not reached counts as infinite."""

    def score(record: Record) -> float:
        return float(np.median([np.inf if each is None else each for each in record["result"][measure]]))

    return dict(min(select(records, **wanted), key=score)["settings"])


def select(records: list[Record], **wanted: Any) -> list[Record]:
    """Return the records with these settings."""
    return [record for record in records if wanted.items() <= record["settings"].items()]


def run(kind: str, tasks: list[int], **options: Any) -> dict:
    """Do one kind of run on each of the tasks; return a list for each quantity."""
    torch.set_num_threads(1)
    kinds: dict[str, Callable[..., dict]] = {"learn": learn, "recipe": recipe, "pace": pace, "transfer": transfer}
    one = kinds[kind]
    rows = [one(seed, **options) for seed in tasks]
    return {name: [brief(row[name]) for row in rows] for name in rows[0]}


def task_at(seed: int, seq_len: int, sparsity: int = 2, strength: float = K_P) -> SCBTask:
    """Return a task with three tokens and uniform mu whose weights are at least 1 / (2 sparsity)."""
    return SCBTask.random(seq_len=seq_len, sparsity=sparsity, K_P=strength, seed=seed, **SIZE)


def new_layer(variant: str, seq_len: int, seed: int, width: int = WIDTH) -> TransformerLayer:
    """Return an untrained layer."""
    return TransformerLayer(SIZE["vocab_size"], seq_len, width, **VARIANTS[variant], seed=seed, device="cpu")


def learn(seed: int, variant: str, sparsity: int, step_size: float, width: int = WIDTH) -> dict[str, Any]:
    """Train a layer to the end of the budget, and read it."""
    task = task_at(seed, SEQ_LEN, sparsity)
    layer = new_layer(variant, SEQ_LEN, seed, width)
    source = task.stream(seed, device="cpu")
    train(layer, source, steps=STEPS, batch_size=BATCH_SIZE, step_size=step_size, decay=True, record_every=STEPS)
    by_position = score_table(layer).mean(1).softmax(0).numpy()
    batch = task.sample(2_000, seed + 1, device="cpu")
    return {
        **readings(task, 10_000, seed + 2)(layer),
        "by_position": float(np.abs(by_position - task.Q).sum(0).mean() / 2),
        "itself": float(attention_map(layer, batch).itself.mean()),
        "leak": float(token_map(layer).deviation.mean()),
        "information": information(task),
    }


def recipe(seed: int, sparsity: int) -> dict[str, Any]:
    """Train the linear transformer by the default recipe on the same tasks, and read it in the same way."""
    task = task_at(seed, SEQ_LEN, sparsity)
    result = fit(task.stream(seed, device="cpu", share_mu=True), observers=[distances(task)])
    V, A = result.V.double().numpy(), result.A.double().numpy()
    return {
        "samples": result.samples,
        "nats": nats_lost(result.V, result.A, task, task.sample(10_000, seed + 2, device="cpu")),
        "alpha_V": float(result.history["alpha_V"][-1]),
        "alpha_A": float(result.history["alpha_A"][-1]),
        "variation_P": float(np.abs(V - task.P).sum(0).mean() / 2),
        "variation_Q": float(np.abs(A - task.Q).sum(0).mean() / 2),
    }


def nats_lost(V: torch.Tensor, A: torch.Tensor, task: SCBTask, batch: Batch) -> float:
    """Return what V X A loses against the best predictor, each answer given a probability of 0.001 at least."""
    ours = predict(V.double(), A.double(), batch).clamp_min(1e-3)
    best = predict(torch.tensor(task.P), torch.tensor(task.Q), batch)
    return float((best * (best.clamp_min(1e-30) / ours * ours.sum(1, keepdim=True)).log()).sum(1).mean())


def information(task: SCBTask) -> float:
    """Return what the context tells of the answer, in nats: what the best predictor gains on always answering mu."""
    return float(-task.mu @ np.log(task.mu) - task.bayes_cross_entropy())


def found_half(row: Mapping[str, float]) -> bool:
    """Say whether half of the prediction has been found, with the right sign."""
    return row["alpha_V"] > 0 and row["alpha_V"] * row["alpha_A"] >= 0.5


def pace(seed: int, variant: str, seq_len: int, step_size: float, step_size_A: float = 0.0) -> dict[str, Any]:
    """Train with small batches until half of the prediction has been found."""
    task = task_at(seed, seq_len)
    source = task.stream(seed, device="cpu", share_mu=True)
    if variant == "linear":
        history = linear(task, seed, step_size, step_size_A)
    else:
        history = until_half(new_layer(variant, seq_len, seed), task, source, step_size)
    return {"half": moment(history, half(history))} | {
        f"{name}_{when}": value
        for name in ("alpha_V", "alpha_A")
        for when, value in (
            ("first", moment(history, history[name] >= 0.5)),
            ("half", at(history, name, half(history))),
            ("tenth", at(history, name, history["alpha_V"] * history["alpha_A"] >= 0.1)),
        )
    }


def until_half(layer: TransformerLayer, task: SCBTask, source: Any, step_size: float) -> dict[str, np.ndarray]:
    """Train a layer until half of the prediction has been found, and return its history."""
    return train(
        layer,
        source,
        steps=PACE_STEPS,
        batch_size=PACE_BATCH,
        step_size=step_size,
        observers=[readings(task, 300)],
        record_every=10,
        stop=found_half,
    )


def linear(task: SCBTask, seed: int, step_size: float, step_size_A: float, start: Any = None) -> dict[str, np.ndarray]:
    """Train the linear transformer by Adam on plain gradients, and return its history."""
    stage = PlainDescent(
        optimizer="adam", steps=PACE_STEPS // 2, batch_size=PACE_BATCH, step_size=step_size, step_size_A=step_size_A
    )
    source = task.stream(seed, device="cpu", share_mu=True)
    return fit(source, [stage], start=start, observers=[distances(task)], record_every=10).history


def half(history: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return at which records half of the prediction has been found."""
    return (history["alpha_V"] > 0) & (history["alpha_V"] * history["alpha_A"] >= 0.5)


def moment(history: Mapping[str, np.ndarray], reached: np.ndarray) -> int | None:
    """Return the samples at the first record where something is reached."""
    return int(history["samples"][np.argmax(reached)]) if reached.any() else None


def at(history: Mapping[str, np.ndarray], name: str, reached: np.ndarray) -> float | None:
    """Return a quantity at the first record where something is reached."""
    return float(history[name][np.argmax(reached)]) if reached.any() else None


def transfer(seed: int, variant: str, seq_len: int, step_size: float, step_size_A: float = 0.0) -> dict[str, Any]:
    """Train on one task, carry parts to related ones, and count the samples until half of these has been found."""
    first = task_at(seed, seq_len, strength=TRANSFER_K_P)
    samples: dict[str, Any] = {}
    if variant == "linear":
        stage = PlainDescent(
            optimizer="adam",
            steps=PRETRAINING,
            batch_size=BATCH_SIZE,
            step_size=step_size,
            step_size_A=step_size_A,
            decay=True,
        )
        known = fit(first.stream(seed, device="cpu", share_mu=True), [stage]).state
        fresh = State.uniform(known.mu, seq_len)
        starts = {
            "nothing": fresh,
            "what": replace(fresh, V=known.V),
            "where": replace(fresh, A=known.A),
            "everything": replace(fresh, V=known.V, A=known.A),
        }
    else:
        old = new_layer(variant, seq_len, seed)
        source = first.stream(seed, device="cpu")
        train(old, source, steps=PRETRAINING, batch_size=BATCH_SIZE, step_size=step_size, decay=True)
    for correlation in CORRELATIONS:
        P = related_task(first, correlation, seed=seed, keep_Q=True).P
        task = SCBTask(P, task_at(seed + 1_000_000, seq_len).Q)
        for name, parts in CARRIED.items():
            if name == "where" and correlation != 1:
                continue  # it knows nothing of P
            if variant == "linear":
                history = linear(task, seed + 1, step_size, step_size_A, starts[name])
            else:
                new = carry(parts, old, new_layer(variant, seq_len, seed + 1))
                history = until_half(new, task, task.stream(seed + 1, device="cpu"), step_size)
            samples[f"{name}, {correlation:g}"] = moment(history, half(history))
    return samples


def brief(value: float | None) -> float | None:
    """Return the value to four digits."""
    return value if value is None or isinstance(value, int) else float(f"{value:.4g}")


def values(records: list[Record], measure: str, **wanted: Any) -> np.ndarray:
    """Return a measure on all tasks of the records with these settings; infinite where it was not reached."""
    found = [each for record in select(records, **wanted) for each in record["result"][measure]]
    return np.array([np.inf if each is None else each for each in found], dtype=float)


def told(sample: np.ndarray, form: str = ".4f") -> str:
    """Return a median with its interval as text."""
    low, high = interval(np.minimum(sample, 1e9).tolist())
    return f"{np.median(sample):{form}} [{low:{form}}, {high:{form}}]"


def report(records: list[Record]) -> None:
    """Print medians with intervals for each kind of run."""
    for record in records:
        own, result = record["settings"], record["result"]
        if own["kind"] in ("learn", "recipe"):
            names = ("nats", "variation_P", "variation_Q", "alpha_V", "alpha_A")
            print(own.get("variant", "recipe"), "S", own["sparsity"], "width", own.get("width", WIDTH))
            print("   ", "  ".join(f"{name} {told(np.array(result[name]))}" for name in names))
    for variant in ("bare", "standard", "linear"):
        for T in LENGTHS:
            samples = values(records, "half", kind="pace", variant=variant, seq_len=T)
            print(f"plateau {variant:<9} T {T:>4}: {told(samples, ',.0f')}")
    for variant in ("standard", "linear"):
        for correlation in CORRELATIONS:
            scratch = values(records, f"nothing, {correlation:g}", kind="transfer", variant=variant)
            for name in CARRIED:
                if name != "nothing" and (name != "where" or correlation == 1):
                    carried = values(records, f"{name}, {correlation:g}", kind="transfer", variant=variant)
                    print(f"{variant:<9} {correlation:>5} {name:<11} saves {told(scratch / carried, '.2f')}")


if __name__ == "__main__":
    main("layer", run, settings, report, __doc__, tuning())
