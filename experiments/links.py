"""Links for attention and for predictions, each tuned and then confirmed on other tasks.

Linear, softmax and sparsemax attention, from scratch and with V = P given; how alike the trained models are; squared
loss on raw outputs against cross-entropy of a softmax. Writes scb_nb/results/links_tuning.jsonl and links.jsonl,
which the chapter "The softmax link" reads, and prints the tables.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import torch

from experiments.common import interval, main
from scb_nb import SCBTask, align, fit, links, population_loss, screening
from scb_nb.links import LinkDescent
from scb_nb.model import predict
from scb_nb.stages import LargeSteps, SparseDescent, Stage, State
from scb_nb.store import Record, kept
from scb_nb.training import Diverged

# The link, the optimiser, and whether the Jacobian of the link is left out.
METHODS: dict[str, dict[str, Any]] = {
    "linear sgd": {"link": "linear", "optimizer": "sgd"},
    "linear adam": {"link": "linear", "optimizer": "adam"},
    "softmax sgd": {"link": "softmax", "optimizer": "sgd"},
    "softmax adam": {"link": "softmax", "optimizer": "adam"},
    "exponentiated": {"link": "softmax", "optimizer": "sgd", "mirror": True},
    "sparsemax": {"link": "sparsemax", "optimizer": "sgd"},
    "sparsemax mirror": {"link": "sparsemax", "optimizer": "sgd", "mirror": True},
}
FAMILY: dict[str, Any] = {"K_P": 0.3, "q_floor": 0.5}

# From scratch: every run takes the same samples, with step sizes that fall to zero over the second half.
LENGTHS = (200, 800)
BUDGET, BATCH_SIZE = 64_000, 64
STEP_SIZES = {
    "linear sgd": ((0.2, 0.8, 3.2), (0.005, 0.01, 0.03, 0.1)),
    "linear adam": ((0.003, 0.01, 0.03), (0.0003, 0.001, 0.003, 0.01)),
    "softmax sgd": ((0.2, 0.8, 3.2), (30, 100, 300, 1_000)),
    "softmax adam": ((0.001, 0.003, 0.01), (0.03, 0.1, 0.3, 1.0)),
    "exponentiated": ((0.2, 0.8, 3.2), (1, 3, 10, 30)),
    "sparsemax": ((0.2, 0.8, 3.2), (0.03, 0.1, 0.3, 1.0)),
    "sparsemax mirror": ((0.2, 0.8, 3.2), (0.03, 0.1, 0.3, 1.0)),
}
TUNING, CONFIRMING = range(70_000, 70_003), range(71_000, 71_010)
COMPARED = ("linear sgd", "linear adam", "softmax sgd", "softmax adam", "default")

# With V = P given: attention alone.
GIVEN_LENGTHS = (50, 200, 800, 3_200)
GIVEN_BUDGET, GIVEN_BATCH_SIZE = 12_000, 24
GIVEN_STEP_SIZES = {
    "linear sgd": (0.003, 0.01, 0.03, 0.1, 0.3),
    "softmax sgd": (10, 30, 100, 300, 1_000),
    "softmax adam": (0.01, 0.03, 0.1, 0.3, 1.0),
    "exponentiated": (0.3, 1, 3, 10, 30),
    "sparsemax": (0.01, 0.03, 0.1, 0.3, 1.0),
    "sparsemax mirror": (0.01, 0.03, 0.1, 0.3, 1.0),
}

# Over tokens: five of them, and how many positions a query reads.
SPARSITIES = (1, 2, 3)
HEAD_SIZE: dict[str, Any] = {"vocab_size": 5, "seq_len": 100, "K_P": 0.6, "q_floor": 0.5}
HEAD_STEP_SIZES = {
    "squared": ((0.001, 0.003, 0.01), (0.03, 0.1)),
    "cross-entropy": ((0.003, 0.01, 0.03, 0.1), (0.03, 0.1)),
}
TEST_SAMPLES = 20_000


def tuning_settings() -> list[dict]:
    """Return all grids."""
    grid: list[dict[str, Any]] = []
    for T, method in product(LENGTHS, METHODS):
        for V, W in product(*STEP_SIZES[method]):
            grid.append({"kind": "scratch", "seq_len": T, "method": method, "step_size": V, "step_size_W": W})
    for T, method in product(GIVEN_LENGTHS, GIVEN_STEP_SIZES):
        for W in GIVEN_STEP_SIZES[method]:
            grid.append({"kind": "given", "seq_len": T, "method": method, "step_size_W": W})
    for S, loss in product(SPARSITIES, HEAD_STEP_SIZES):
        for V, W in product(*HEAD_STEP_SIZES[loss]):
            grid.append({"kind": "head", "sparsity": S, "loss": loss, "step_size": V, "step_size_W": W})
    return [each | {"tasks": list(TUNING)} for each in grid]


def settings() -> list[dict]:
    """Return the winners of the tuning on fresh tasks, two stages beside them, and what compares trained models."""
    tuned = kept("links_tuning")
    chosen: list[dict[str, Any]] = []
    for T in LENGTHS:
        chosen += [{"kind": "scratch", "seq_len": T, "method": name} for name in ("default", "short")]
        chosen += [winner(tuned, kind="scratch", seq_len=T, method=method) for method in METHODS]
        models = {method: winner(tuned, kind="scratch", seq_len=T, method=method) for method in COMPARED[:-1]}
        rates = {method: [each["step_size"], each["step_size_W"]] for method, each in models.items()}
        chosen.append({"kind": "alike", "seq_len": T, "rates": rates})
    chosen += [
        winner(tuned, kind="given", seq_len=T, method=method) for T, method in product(GIVEN_LENGTHS, GIVEN_STEP_SIZES)
    ]
    chosen += [winner(tuned, kind="head", sparsity=S, loss=loss) for S, loss in product(SPARSITIES, HEAD_STEP_SIZES)]
    return [each | {"tasks": list(CONFIRMING)} for each in chosen]


def run(kind: str, tasks: Sequence[int], **options: Any) -> dict:
    """Train on each of the tasks; return lists over them."""
    rows = [KINDS[kind](seed, **options) for seed in tasks]
    return {name: [row[name] for row in rows] for name in rows[0]}


def stages_of(method: str, seq_len: int, step_size: float = 0.0, step_size_W: float = 0.0) -> list[Stage]:
    """Return the stages of a method; "default" is the book's recipe, "short" the same with fewer samples."""
    if method == "default":
        return [
            LargeSteps(batch_size=2_000 + seq_len // 2, round_size=6_000),
            SparseDescent(steps=320, batch_size=256, step_size=0.3),
        ]
    if method == "short":  # some 60,000 samples
        return [
            LargeSteps(batch_size=2_000 + seq_len // 2, round_size=4_000),
            SparseDescent(steps=125, batch_size=256, step_size=0.3, passes=1),
        ]
    return [
        LinkDescent(
            **METHODS[method],
            steps=BUDGET // BATCH_SIZE,
            batch_size=BATCH_SIZE,
            step_size=step_size,
            step_size_W=step_size_W,
            decay=True,
        )
    ]


def scratch(seed: int, seq_len: int, method: str, step_size: float = 0.0, step_size_W: float = 0.0) -> dict[str, Any]:
    """Train from the uniform start; say how each reading of the attention is judged, and what happened on the way."""
    task = SCBTask.random(3, seq_len, 2, **FAMILY, seed=seed)
    stages = stages_of(method, seq_len, step_size, step_size_W)
    watch = Watch(task)
    row: dict[str, Any] = {"outcome": "diverged", "samples": None, "last": None, "trimmed": None, "log": None}
    row |= {"first_exact": None, "first_exact_log": None, "path": None}
    try:
        result = fit(task.stream(seed, device="cpu", share_mu=True), stages, observers=[watch], record_every=25)
    except Diverged:
        return row
    row |= {"outcome": result.outcome, "samples": result.samples, "last": judge(result.V, result.A, task)}
    for name, of in (("trimmed", result.A), ("log", result.A.log() if method_has_logs(method) else None)):
        if of is not None:
            row[name] = judge(result.V, trim(result.A, of), task)
    history = result.history
    for name in ("exact", "exact_log"):
        reached = history["samples"][history[name] == 1]
        row[f"first_{name}"] = float(reached[0]) if len(reached) else None
    row["path"] = {name: brief(history[name]) for name in ("samples", "off", "excess")}
    return row


def method_has_logs(method: str) -> bool:
    """Say whether all attention is positive."""
    return method in METHODS and METHODS[method]["link"] == "softmax"


class Watch:
    """An observer of the attention off the support, the excess loss, and whether thresholds find the support."""

    def __init__(self, task: SCBTask) -> None:
        self.task, self.support = task, torch.tensor(task.support)

    def __call__(self, state: State) -> dict[str, float]:
        """Measure a state."""
        positive = bool((state.A > 0).all())
        found = {"exact": outstanding(state.A), "exact_log": outstanding(state.A.log()) if positive else None}
        told = {name: float(each is not None and bool((each == self.support).all())) for name, each in found.items()}
        return told | {"off": off_support(state.A, self.task), "excess": excess(state.V, state.A, self.task)}


def outstanding(heights: torch.Tensor) -> torch.Tensor:
    """Return what stands out in each column, judged by its own noise, as :class:`scb_nb.rivals.Trim` does."""
    one = heights.new_ones(1)
    columns = [screening.outstanding(each, one, 0.01 / heights.shape[1]) for each in heights.split(1, dim=1)]
    return torch.cat(columns, dim=1)


def trim(A: torch.Tensor, heights: torch.Tensor) -> torch.Tensor:
    """Return the attention divided among the entries whose heights stand out."""
    return screening.attention_on(outstanding(heights), A)


def off_support(A: torch.Tensor, task: SCBTask) -> float:
    """Return the mean over the queries of the attention, in absolute value, off the support."""
    return float((A.abs() * ~torch.tensor(task.support)).sum(0).double().mean())


def excess(V: torch.Tensor, A: torch.Tensor, task: SCBTask) -> float:
    """Return the expected loss above its least value, as a share of what it is above it at the start."""
    start = State.uniform(torch.tensor(task.mu), task.seq_len)
    lost = population_loss(V.double(), A.double(), task) - task.bayes_risk
    return float(lost / (population_loss(start.V, start.A, task) - task.bayes_risk))


def judge(V: torch.Tensor, A: torch.Tensor, task: SCBTask) -> dict[str, float]:
    """Return both errors, the attention off the support, the excess loss, and positions missed and read in vain."""
    aligned, read = align(V, A, task), A.numpy() != 0
    numbers = {"error_V": aligned.error_V, "error_A": aligned.error_A}
    numbers |= {"off": off_support(A, task), "excess": excess(V, A, task)}
    numbers = {name: brief(value) for name, value in numbers.items()}
    return numbers | {"missed": int((task.support & ~read).sum()), "false": int((read & ~task.support).sum())}


def alike(seed: int, seq_len: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Train all models on one task, and compare each two."""
    task = SCBTask.random(3, seq_len, 2, **FAMILY, seed=seed)
    models = {}
    for method in COMPARED:
        stages = stages_of(method, seq_len, *rates.get(method, []))
        models[method] = fit(task.stream(seed, device="cpu", share_mu=True), stages, record_every=10_000)
    return {
        f"{first}, {second}": similarity(models[first].state, models[second].state, task)
        for first, second in combinations(COMPARED, 2)
    }


def similarity(left: State, right: State, task: SCBTask) -> dict[str, float]:
    """Return cosines of A - 1/T and V - mu 1^T, total variation of A, shared top positions, and both excess losses."""
    start = State.uniform(left.mu, task.seq_len)
    numbers = {}
    for name in ("V", "A"):
        moved = [(getattr(each, name) - getattr(start, name)).double().flatten() for each in (left, right)]
        numbers[f"cosine_{name}"] = float(torch.cosine_similarity(moved[0], moved[1], dim=0))
    numbers["variation"] = float(0.5 * (left.A - right.A).abs().sum(0).mean())
    tops = [
        torch.zeros_like(each.support).scatter_(0, each.A.topk(task.sparsity, dim=0).indices, True)
        for each in (left, right)
    ]
    numbers["shared"] = float((tops[0] & tops[1]).sum() / tops[0].sum())
    numbers |= {f"excess_{name}": excess(each.V, each.A, task) for name, each in (("left", left), ("right", right))}
    return {name: brief(value) for name, value in numbers.items()}


def given(seed: int, seq_len: int, method: str, step_size_W: float) -> dict[str, Any]:
    """Train the attention alone, with V = P given."""
    task = SCBTask.random(3, seq_len, 2, **FAMILY, seed=seed)
    P, _, mu = task.tensors(like=torch.empty(()))
    stage = LinkDescent(
        **METHODS[method],
        steps=GIVEN_BUDGET // GIVEN_BATCH_SIZE,
        batch_size=GIVEN_BATCH_SIZE,
        step_size=0.0,
        step_size_W=step_size_W,
        decay=True,
    )
    start = replace(State.uniform(mu, seq_len), V=P)
    source = task.stream(seed, device="cpu", share_mu=True)
    try:
        end = fit(source, [stage], start=start, record_every=10_000)
    except Diverged:
        return {"last": None}
    return {"last": judge(end.V, end.A, task)}


def head(seed: int, sparsity: int, loss: str, step_size: float, step_size_W: float) -> dict[str, Any]:
    """Train on tokens with one of the losses; return what each head makes of the outputs on fresh samples."""
    task = SCBTask.random(**HEAD_SIZE, sparsity=sparsity, seed=seed)
    P, Q, mu = task.tensors(like=torch.empty(()))
    start = State.uniform(mu, task.seq_len)
    if loss == "cross-entropy":  # so that the prediction is mu at first
        start = replace(start, V=start.V.log())
    stage = LinkDescent(
        link="softmax",
        optimizer="adam",
        loss=loss,  # type: ignore[arg-type]
        steps=BUDGET // BATCH_SIZE,
        batch_size=BATCH_SIZE,
        step_size=step_size,
        step_size_W=step_size_W,
        decay=True,
    )
    end = fit(task.stream(seed, device="cpu", share_mu=True), [stage], start=start, record_every=10_000)
    batch = task.sample(TEST_SAMPLES, seed + 1_000_000, device="cpu")
    bayes, outputs = predict(P, Q, batch), predict(end.V, end.A, batch)
    rows = {"bayes": told(bayes, bayes, batch.target)}
    for name in ("softmax",) if loss == "cross-entropy" else ("raw", "simplex"):
        rows[name] = told(links.probabilities(outputs, name), bayes, batch.target)
    if loss == "squared":
        projected = links.probabilities(outputs, "simplex", floor=1e-12)
        outside = (outputs.min(1).values < -1e-6) | ((outputs.sum(1) - 1).abs() > 1e-3)
        below = outputs.min(1).values < 0
        squares = [float((each - bayes).square().sum(1).mean()) for each in (outputs, projected)]
        rows["distance"] = {"raw": brief(squares[0]), "simplex": brief(squares[1])}
        rows["outside"] = {"share": brief(float(outside.double().mean())), "below": brief(float(below.double().mean()))}
    rows["off"] = {"off": brief(off_support(end.A, task))}
    rows["least"] = {"nats": brief(links.least_nats_lost(task))}
    return rows


def told(predictions: torch.Tensor, bayes: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """Return how good predictions are."""
    numbers = {
        "accuracy": links.accuracy(predictions, target),
        "calibration": links.calibration_error(predictions, target),
        "nats": links.nats_lost(predictions, bayes),
    }
    return {name: brief(value) for name, value in numbers.items()}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {"scratch": scratch, "alike": alike, "given": given, "head": head}


def brief(values: Any) -> Any:
    """Return numbers to four digits."""
    return np.vectorize(lambda value: float(f"{value:.4g}"))(values).tolist()


def worse(result: dict, reading: str = "last") -> np.ndarray:
    """Return the larger of both errors of each task, infinite where training diverged or gave up."""
    failed = [outcome != "finished" for outcome in result.get("outcome", ["finished"] * len(result[reading]))]
    both = zip(result[reading], failed, strict=True)
    return np.array([np.inf if bad or not j else max(j["error_V"], j["error_A"]) for j, bad in both])


def score(record: Record) -> float:
    """Return what tuning makes small: the larger error, or the nats lost, on the worst task."""
    own, result = record["settings"], record["result"]
    if own["kind"] == "head":
        name = "softmax" if own["loss"] == "cross-entropy" else "simplex"
        return max(each["nats"] for each in result[name])
    return float(max(worse(result)))


def winner(tuned: list[Record], **wanted: Any) -> dict[str, Any]:
    """Return the settings, but for the tasks, that did best among those wanted."""
    tried = [record for record in tuned if wanted.items() <= record["settings"].items()]
    chosen = min(tried, key=score)["settings"]
    return {name: value for name, value in chosen.items() if name != "tasks"}


def report(records: list[Record]) -> None:
    """Print the tables."""
    for record in records:
        own, result = record["settings"], record["result"]
        name = " ".join(str(own[key]) for key in ("kind", "seq_len", "sparsity", "method", "loss") if key in own)
        rates = [own[key] for key in ("step_size", "step_size_W") if key in own]
        if own["kind"] in ("scratch", "given"):
            errors = np.minimum(worse(result), 1e9)
            low, high = interval(errors.tolist())
            off = np.median([each["off"] if each else np.inf for each in result["last"]])
            print(f"{name:<36} {np.median(errors):.4f} [{low:.4f}, {high:.4f}]  off {off:.3f}  {rates}", end="")
            for reading in ("trimmed", "log"):
                if any(result.get(reading, [])):
                    exact = [bool(j) and j["missed"] + j["false"] == 0 for j in result[reading]]
                    print(f"  {reading} {np.median(worse(result, reading)):.4f} {sum(exact)}/{len(exact)}", end="")
            print()
            continue
        for part, each in result.items():
            medians = {key: brief(np.median([row[key] for row in each])) for key in each[0]}
            print(f"{name:<36} {part:<28} {medians}  {rates or ''}")


if __name__ == "__main__":
    main("links", run, settings, report, __doc__, tuning=tuning_settings())
