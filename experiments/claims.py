"""What the paper claims, and the book, next to what was measured: the rows of the claims table.

Reads the kept results in scb_nb/results and prints a row for each claim. The exit status is 1 if results are
missing, a row is older than the code that it depends on, or its verdict does not follow from its numbers.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from experiments import ablation, bar, complexity, layer, links, price, probes, rivals, stage_one, support, transfer
from scb_nb import store
from scb_nb.complexity import power_law
from scb_nb.files import write_whole
from scb_nb.store import Record

Verdict = Literal["holds", "holds within a stated range", "not seen here"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
LEVEL = 0.9
DRAWS = 1_000

SHORTEST, *_, LONGEST = price.LENGTHS
ONCE = price.CHOOSING + price.TASKS
(LARGE_V, LARGE_A), (SMALL_V, SMALL_A) = rivals.LARGE_AND_SMALL

Kept = Mapping[str, list[Record]]


class Measured(NamedTuple):
    """A number with the ends of its 90% interval; they equal it where there is nothing random about it."""

    what: str
    value: float
    low: float
    high: float
    format: str = ".2f"

    def words(self) -> str:
        """Return the number and its interval as text."""
        value, low, high = (in_words(each, self.format) for each in (self.value, self.low, self.high))
        return value if self.low == self.high else f"{value} ({low} to {high})"


def in_words(number: float, format: str = ".2g") -> str:
    """Return a number as text."""
    return f"{number:{format}}".replace("-", "\u2212") if np.isfinite(number) else "more than was tried"


class Bound(NamedTuple):
    """A condition on a number, by its name: its whole interval lies at or above ``least``, and at or below ``most``.

    One that is ``core`` is what remains of the claim where it does not hold everywhere.
    """

    name: str
    least: float = -np.inf
    most: float = np.inf
    core: bool = False

    def met(self, numbers: Mapping[str, Measured]) -> bool:
        """Say whether the condition is met."""
        return bool(self.least <= numbers[self.name].low and numbers[self.name].high <= self.most)

    def words(self) -> str:
        """Return the condition as text."""
        if np.isfinite(self.least) and np.isfinite(self.most):
            return f"{in_words(self.least)} to {in_words(self.most)}"
        return f"≥ {in_words(self.least)}" if np.isfinite(self.least) else f"≤ {in_words(self.most)}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row: texts are Markdown, and ``range`` says in words where a claim holds that does not hold everywhere.

    The verdict is the author's. What follows from the numbers is by rule: the claim holds if all bounds are met; it
    holds within a range if there are core bounds and all of those are met; otherwise it is not seen here.
    """

    name: str
    title: str
    text: str
    of: Literal["the paper", "this book"]
    chapter: str
    setting: str
    experiments: tuple[str, ...]
    measure: Callable[[Kept], Mapping[str, Measured]]
    bounds: tuple[Bound, ...]
    verdict: Verdict
    range: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")
        if bool(self.range) != (self.verdict == VERDICTS[1]):
            raise ValueError(f"range must be stated for {VERDICTS[1]!r}, and only for that, got {self.range!r}")
        if not self.bounds:
            raise ValueError("bounds must have at least one entry: without any, the claim would hold whatever comes")

    def follows(self, numbers: Mapping[str, Measured]) -> str:
        """Return the verdict that follows from the numbers."""
        if all(bound.met(numbers) for bound in self.bounds):
            return VERDICTS[0]
        core = [bound for bound in self.bounds if bound.core]
        return VERDICTS[1 if core and all(bound.met(numbers) for bound in core) else 2]

    def rule(self) -> str:
        """Return the rule in words."""
        if any(bound.core for bound in self.bounds):
            return (
                "The claim holds if all that is asked for is met, and within a range if only what is marked † is met."
            )
        return "The claim holds if all that is asked for is met."


# How numbers come about: medians, shares and slopes, each with its interval


def bootstrap(
    what: str, statistic: Callable[..., Any], *samples: Any, paired: bool = True, format: str = ".2f"
) -> Measured:
    """Return a statistic of samples over tasks, with its interval over tasks drawn again.

    Each sample has the tasks along its last axis; ``paired`` samples are of the same tasks, which are drawn together.
    """
    rng = np.random.default_rng(0)
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    drawn = []
    for _ in range(DRAWS):
        chosen = [rng.integers(array.shape[-1], size=array.shape[-1]) for array in (arrays[:1] if paired else arrays)]
        places = chosen * len(arrays) if paired else chosen
        drawn.append(statistic(*(array[..., place] for array, place in zip(arrays, places, strict=True))))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Measured(what, float(statistic(*arrays)), float(low), float(high), format)


def median_of(what: str, sample: Any, format: str = ".3f") -> Measured:
    """Return a median."""
    return bootstrap(what, np.median, sample, format=format)


def ratio_of(what: str, above: Any, below: Any, format: str = ".2f") -> Measured:
    """Return the median of ratios on the same tasks."""
    return median_of(what, np.asarray(above) / np.asarray(below), format)


def share_of(what: str, successes: Sequence[bool] | np.ndarray) -> Measured:
    """Return a share in per cent, with Wilson's interval."""
    n, share, z = len(successes), float(np.mean(successes)), 1.645  # z leaves 5% at either end
    middle, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + (z / (2 * n)) ** 2) ** 0.5
    low, high = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    return Measured(what, 100 * share, 100 * min(low, share), 100 * max(high, share), ".0f")


def slope_of(what: str, lengths: Sequence[int], samples: Any) -> Measured:
    """Return the slope of log medians against log T, as chapter 5 does: (lengths, tasks), each length drawn apart."""
    values = np.asarray(samples, dtype=float)
    chosen = np.random.default_rng(0).integers(values.shape[1], size=(DRAWS, *values.shape))
    medians = np.median(np.take_along_axis(values[None], chosen, axis=2), axis=2)  # (draws, lengths)
    slopes = np.polyfit(np.log(lengths), np.log(medians).T, 1)[0]
    value = np.polyfit(np.log(lengths), np.log(np.median(values, axis=1)), 1)[0]
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measured(what, float(value), float(low), float(high))


def select(records: list[Record], **settings: Any) -> list[Record]:
    """Return the records with these settings."""
    return [record for record in records if settings.items() <= record["settings"].items()]


# What is measured for each claim


def recovery(kept: Kept) -> dict[str, Measured]:
    """Recovery at the five sizes of the bar; errors at the size where their median is largest."""
    exact, errors = [], {"error_V": [], "error_A": []}  # type: ignore[var-annotated]
    for (T, N, S), cap in bar.SIZES.items():
        results = [r["result"] for r in select(kept["bar"], seq_len=T, vocab_size=N, sparsity=S)]
        exact += [r["missed"] == r["false"] == 0 and r["samples"] <= cap for r in results]
        for name, values in errors.items():
            values.append([r[name] for r in results])
    sizes = len(bar.SIZES)
    worst = {name: max(values, key=np.median) for name, values in errors.items()}
    return {
        "exact": share_of(f"exact supports, of {len(exact)} runs, in per cent", exact),
        "error_V": median_of(
            r"median of $\lVert V - P\rVert_\mu$" + f", at the worst of {sizes} sizes", worst["error_V"]
        ),
        "error_A": median_of(
            r"median of $\lVert A - Q\rVert_\mu$" + f", at the worst of {sizes} sizes", worst["error_A"]
        ),
    }


def first_stage(kept: Kept) -> dict[str, Measured]:
    """Slopes of the samples of stage 1, and what the stages take at the longest context."""
    small = [select(kept["stage_one"], seq_len=T, vocab_size=3, ratio=0.8)[0] for T in price.LENGTHS[1:]]
    large = [select(kept["stage_one"], seq_len=T, vocab_size=3, method="large")[0] for T in price.LENGTHS]
    curve, tasks = after_first(kept["price"], "large steps, once", LONGEST), np.arange(price.TASKS)
    second = price.crossing(curve, min(price.EPSILONS), tasks)
    return {
        "slope_small": slope_of(
            "small steps: exponent of $T$ in the samples of stage 1",
            price.LENGTHS[1:],
            [r["result"]["samples"] for r in small],
        ),
        "slope_large": slope_of(
            "large steps: exponent of $T$ in the samples until entries stand out",
            price.LENGTHS,
            [stage_one.until(r, "first") for r in large],
        ),
        "hungry_small": median_of(
            f"small steps, $T = {LONGEST}$: samples, times those of stage 2 for {min(price.EPSILONS)}",
            np.array(small[-1]["result"]["samples"]) / second,
            ".1f",
        ),
        "hungry_large": median_of(
            "large steps, to their end: the same", stage_one.until(large[-1], "exact") / second, ".1f"
        ),
    }


def ablated(kept: Kept, variant: str, mu_ratio: int) -> np.ndarray:
    """Return the larger error on each task for a variant of the recipe in small steps, at its best step size."""
    return ablation.worse(ablation.best(kept["ablation"], "small steps", variant, mu_ratio)[1])


def small_batches(kept: Kept) -> dict[str, Measured]:
    """The two stages in small steps at two sizes, and what is lost without the penalty or the preconditioning."""
    tuned = rivals.confirmed(kept["rivals"], rivals.winner(kept["rivals_tuning"], "two stages"))
    errors, size = rivals.worse(tuned["result"]), tuned["settings"]["batch_size"]
    return {
        "careful": median_of("$T = 200$, batches of 128 and 64: larger error, median", ablated(kept, "whole", 1)),
        "careful_near": share_of(
            "the same: runs with both errors at most 0.05, in per cent", ablated(kept, "whole", 1) <= 0.05
        ),
        "tuned": median_of(f"$T = 500$, batches of {size}: larger error, median", errors),
        "tuned_near": share_of("the same: runs with both errors at most 0.05, in per cent", errors <= 0.05),
        "no_penalty": ratio_of(
            r"without the $\ell_1$ penalty: error, times that with it",
            ablated(kept, "no l1", 1),
            ablated(kept, "whole", 1),
            ".1f",
        ),
        "no_preconditioning": ratio_of(
            r"without preconditioning, $\mu$ skewed: error, times that with it",
            ablated(kept, "no preconditioning", 8),
            ablated(kept, "whole", 8),
            ".1f",
        ),
    }


def default(kept: Kept) -> dict[str, Any]:
    """Return the results of the default recipe on the tasks of the rivals."""
    return dict(rivals.confirmed(kept["rivals"], {"method": "default"})["result"])


def plain(kept: Kept, place: int) -> dict[str, Any]:
    """Return the results of plain SGD at the large step sizes (0) or the small ones (1)."""
    V, A = rivals.LARGE_AND_SMALL[place]
    settings = {"method": "sgd", "batch_size": 32, "step_size": V, "step_size_A": A, "decay": False}
    return dict(rivals.confirmed(kept["rivals"], settings)["result"])


def path(result: Mapping[str, Any], task: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples and the larger error along a run."""
    found = result["path"][task]
    return np.array(found["samples"], dtype=float), np.maximum(found["error_V"], found["error_A"])


def error_A(result: Mapping[str, Any], reading: str) -> np.ndarray:
    """Return the error of A on each task, endless where training diverged."""
    return np.array([judged["error_A"] if judged else np.inf for judged in result[reading]])


def exact(result: Mapping[str, Any], reading: str) -> list[bool]:
    """Say for each task whether exactly the true positions are read."""
    return [bool(judged) and judged["missed"] + judged["false"] == 0 for judged in result[reading]]


def large_rate(kept: Kept) -> dict[str, Measured]:
    """Plain SGD at a large step size: how often it fails, whether batches matter, and where its error lies."""
    errors, reference = rivals.worse(plain(kept, 0)), rivals.worse(default(kept))
    works = rivals.confirmed(kept["rivals"], rivals.winner(kept["rivals_tuning"], "sgd", "last", False))["result"]
    top = max(rivals.STEP_SIZES["sgd"][1])
    numbers = {
        "fails": share_of(
            "runs with ten times the error of the default recipe, or more, in per cent", errors >= 10 * reference
        )
    }
    for size in rivals.BATCH_SIZES:
        runs = select(kept["rivals_tuning"], method="sgd", batch_size=size, step_size_A=top)
        diverged = [outcome == "diverged" for record in runs for outcome in record["result"]["outcome"]]
        numbers[f"diverged_{size}"] = share_of(
            f"step size {top} for $A$, batches of {size}: diverged, in per cent", diverged
        )
    numbers["excess"] = ratio_of(
        r"best constant step sizes: $\lVert A - Q\rVert_\mu$, times that after removing what does not stand out",
        error_A(works, "last"),
        error_A(works, "last, trimmed"),
        ".0f",
    )
    return numbers


def small_rate(kept: Kept) -> dict[str, Measured]:
    """Plain SGD at a small step size: how little it has done, and how soon small steps in two stages do as much."""
    slow, fast = plain(kept, 1), default(kept)
    two = rivals.confirmed(kept["rivals"], rivals.winner(kept["rivals_tuning"], "two stages"))["result"]
    left, speed = [], []
    for task in range(len(slow["path"])):
        (samples, errors), (others, along) = path(slow, task), path(two, task)
        left.append(errors[-1] / errors[0])
        reached = along <= errors.min()
        speed.append(samples[np.argmin(errors)] / others[np.argmax(reached)] if reached.any() else 0.0)
    return {
        "left": median_of("error at the end, times that at the start", left, ".2f"),
        "ratio": ratio_of(
            "error at the end, times that of the default recipe", rivals.worse(slow), rivals.worse(fast), ".0f"
        ),
        "slower": median_of(
            "samples to the least error on its way, times what two stages in small steps need for that", speed, ".1f"
        ),
    }


def fair_rivals(kept: Kept) -> dict[str, Measured]:
    """The best of the tuned rivals in three readings: untouched, trimmed, and with a short second stage behind."""
    records, tuned, reference = kept["rivals"], kept["rivals_tuning"], rivals.worse(default(kept))

    def best_of(readings: Sequence[str]) -> tuple[dict[str, Any], str]:
        """Return results and reading of the tuned rival with the smallest median of the larger error."""
        tried = product(rivals.STEP_SIZES, readings, (False, True))
        found = [(rivals.confirmed(records, rivals.winner(tuned, *each))["result"], each[1]) for each in tried]
        return min(found, key=lambda pair: float(np.median(rivals.worse(*pair))))

    untouched, trimmed = best_of(rivals.READINGS[:2]), best_of(rivals.READINGS[2:])
    followed = [rivals.confirmed(records, rivals.finishing(tuned, method))["result"] for method in rivals.STEP_SIZES]
    finished = min(followed, key=lambda result: float(np.median(rivals.worse(result))))
    return {
        "untouched": ratio_of(
            "best rival as training leaves it: error, times that of the default recipe",
            rivals.worse(*untouched),
            reference,
            ".1f",
        ),
        "trimmed": ratio_of(
            "best rival, without what does not stand out in $A$: the same", rivals.worse(*trimmed), reference, ".1f"
        ),
        "finished": ratio_of(
            "best rival, with a short second stage after that: the same", rivals.worse(finished), reference, ".1f"
        ),
        "exact": share_of("best rival, without what does not stand out: exact supports, in per cent", exact(*trimmed)),
    }


def second_stage(kept: Kept) -> dict[str, Measured]:
    """Errors of the same second stage after a short and a long context, and the samples that it takes, by T."""
    ratios = {}
    for (N, S), (short, long) in {(3, 2): (500, 5_000), (10, 3): (1_000, 5_000)}.items():
        errors = [
            [
                max(r["result"]["error_V"], r["result"]["error_A"])
                for r in select(kept["bar"], seq_len=T, vocab_size=N, sparsity=S)
            ]
            for T in (long, short)
        ]
        ratios[f"ratio_{N}"] = bootstrap(
            f"$N = {N}$: median error at $T = {long}$, times that at $T = {short}$",
            lambda above, below: np.median(above) / np.median(below),
            *errors,
            paired=False,
        )
    tasks = np.arange(price.CHOOSING + price.TASKS)
    rng = np.random.default_rng(0)
    drawn = [tasks, *(rng.choice(tasks, len(tasks)) for _ in range(DRAWS // 5))]
    curves = [after_first(kept["price"], "large steps, once", T) for T in price.LENGTHS]
    epsilon, longest = max(price.EPSILONS), 64 * max(price.PASSES)
    for name, what, of_curve in (
        (
            "slope_samples",
            f"exponent of $T$ in the samples of stage 2 for a median error of {epsilon}",
            lambda curve, chosen: price.crossing(curve, epsilon, chosen),
        ),
        (
            "slope_error",
            f"exponent of $T$ in the median error after {longest:,} samples of stage 2",
            lambda curve, chosen: np.median(curve[-1][1][chosen]),
        ),
    ):
        values = np.array([[of_curve(curve, chosen) for curve in curves] for chosen in drawn])
        value, *slopes = np.polyfit(np.log(price.LENGTHS), np.log(values).T, 1)[0]
        low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
        ratios[name] = Measured(what, float(value), float(low), float(high))
    return ratios


def after_first(records: list[Record], method: str, seq_len: int) -> price.Curve:
    """Return samples of stage 2 alone and the larger error, as price.curve does, for the longest rounds of stage 1."""
    dial = price.dials(method, seq_len)[-1]
    (record,) = select(records, method=method, seq_len=seq_len, dial=dial)
    first = np.array([n or 0 for n in record["result"]["samples_first"]])  # without an end there are no samples anyway
    return [(samples - first, errors) for samples, errors in price.curve(records, method, seq_len, dial)]


def against_screening(kept: Kept) -> dict[str, Measured]:
    """How many times the samples of screen and EM gradient training takes.

    Intervals are cautious: each end is an end of one interval over the other end of the other.
    """
    once = "each sample seen once", list(price.DIALS)
    repeated = "samples repeated", [method for method in price.BATCH_METHODS if "repeated" in method]
    numbers = {}
    for name, (words, methods), T in (
        ("once", once, LONGEST),
        ("repeated", repeated, LONGEST),
        ("short", repeated, 500),
    ):
        for epsilon in price.EPSILONS:
            base, low, high = price.samples_for(kept["price"], "screen and EM", T, epsilon, draws=DRAWS // 5)
            best = min(price.samples_for(kept["price"], method, T, epsilon, draws=DRAWS // 5) for method in methods)
            numbers[f"{name}_{epsilon}"] = Measured(
                f"$T = {T}$, {words}: samples for a median error of {epsilon}, times those of screen and EM",
                best[0] / base,
                best[1] / high,
                best[2] / low,
                ".1f",
            )
    return numbers


def real_layer(kept: Kept) -> dict[str, Measured]:
    """What a standard transformer layer finds, what it loses, and what transfer saves it."""
    learned = layer.select(kept["layer"], kind="learn", variant="standard", sparsity=2)[0]["result"]

    def saved(variant: str, part: str) -> np.ndarray:
        """Return samples from scratch over those with a part carried from a task with the same P."""
        wanted = {"kind": "transfer", "variant": variant}
        scratch, carried = (layer.values(kept["layer"], f"{name}, 1", **wanted) for name in ("nothing", part))
        return scratch / carried

    return {
        "attention": median_of(
            "total variation of its attention from $Q$, two positions for each query", learned["variation_Q"]
        ),
        "tokens": median_of(
            "total variation of what it answers to one token everywhere from $P$", learned["variation_P"]
        ),
        "nats": median_of(
            "cross-entropy above the best predictor, in per cent of what the context tells",
            100 * np.array(learned["nats"]) / np.array(learned["information"]),
            ".2f",
        ),
        "what": median_of(
            "transfer, same $P$, what follows what carried: samples from scratch, times those after it",
            saved("standard", "what"),
            ".2f",
        ),
        "everything": median_of("the same, everything carried", saved("standard", "everything"), ".2f"),
        "linear": median_of("the same for the linear transformer, $V$ carried", saved("linear", "what"), ".2f"),
    }


def drawn_directions(kept: Kept) -> dict[str, Measured]:
    """First sight along all drawn directions and along one, and samples for a small error.

    Intervals of ratios are cautious, as in :func:`against_screening`.
    """
    records, lengths = kept["probes"], list(probes.LENGTHS)

    def sight(T: int, N: int, method: str, count: int) -> np.ndarray:
        wanted = {"seq_len": T, "vocab_size": N, "method": method, "count": count, "mu_ratio": 1.0}
        return probes.until(select(records, what="sight", **wanted)[0]["result"])

    def ratio(what: str, above: tuple[float, ...], below: tuple[float, ...]) -> Measured:
        return Measured(what, above[0] / below[0], above[1] / below[2], above[2] / below[1], ".1f")

    points = probes.best_curve(records, LONGEST, 0.05)
    reported = np.arange(price.CHOOSING, ONCE)
    rng = np.random.default_rng(0)
    drawn = [price.crossing(points, 0.05, rng.choice(reported, len(reported))) for _ in range(DRAWS // 5)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    ours = price.crossing(points, 0.05, reported), float(low), float(high)
    theirs = {
        name: price.samples_for(kept["price"], name, LONGEST, 0.05, draws=DRAWS // 5)
        for name in ("large steps, once", "small steps, once", "screen and EM")
    }
    words = f"$T = {LONGEST}$: samples for a median error of 0.05, each seen once: "
    few, many = (sight(probes.MIDDLE, N, "probes", (N - 1) ** 2) for N in (3, 10))
    return {
        "slope": slope_of(
            f"all directions: log-log slope of samples to first sight against $T$, from {SHORTEST} to {LONGEST}",
            lengths,
            [sight(T, 3, "again", 4) for T in lengths],
        ),
        "large": ratio(words + "large steps, times all directions", theirs["large steps, once"], ours),
        "small": ratio(words + "small steps, times all directions", theirs["small steps, once"], ours),
        "screen": ratio(words + "all directions, times screen and EM", ours, theirs["screen and EM"]),
        "tokens": bootstrap(
            f"$T = {probes.MIDDLE}$, no second look: samples to first sight with ten tokens, times those with three",
            lambda above, below: np.median(above) / np.median(below),
            many,
            few,
            paired=False,
            format=".1f",
        ),
        "one": share_of(
            f"one direction: runs without a first sight within {probes.MOST:,} samples, in per cent",
            np.isinf(np.concatenate([sight(T, 3, "probes", 1) for T in lengths])),
        ),
    }


def links_alike(kept: Kept) -> dict[str, Measured]:
    """How alike softmax attention and linear attention come out, on the same samples of each task."""
    numbers = {}
    for name, first, second, words in (
        ("two", "softmax adam", "default", "linear in two stages"),
        ("plain", "linear sgd", "softmax adam", "linear by SGD"),
    ):
        rows = [row for r in select(kept["links"], kind="alike") for row in r["result"][f"{first}, {second}"]]
        for part in "VA":
            what = r"$V - \mu\mathbf{1}^\top$" if part == "V" else r"$A - \mathbf{1}\mathbf{1}^\top/T$"
            cosines = [row[f"cosine_{part}"] for row in rows]
            numbers[f"{name}_{part}"] = median_of(f"softmax and {words}: cosine of {what}", cosines)
        apart = [abs(row["excess_left"] - row["excess_right"]) for row in rows]
        numbers[f"{name}_loss"] = median_of(
            "the same: final losses apart, as a share of what there is to learn", apart, ".4f"
        )
        numbers[f"{name}_variation"] = median_of(
            "the same: total variation of the attention", [row["variation"] for row in rows]
        )
    return numbers


def transferred(kept: Kept) -> dict[str, Measured]:
    """Samples until positions are seen with a pretrained V, against T and from scratch, and how walking compares."""

    def of(method: str, seq_len: int, **settings: Any) -> dict[str, Any]:
        return dict(select(kept["transfer"], method=method, seq_len=seq_len, **settings)[0]["result"])

    def sights(method: str, c: float) -> list[np.ndarray]:
        return [transfer.first_sight(of(method, T, correlation=c)) for T in transfer.LENGTHS]

    (scratch,) = select(kept["transfer"], method="scratch, large", seq_len=LONGEST)
    large = transfer.first_sight(scratch["result"]) - 2 * scratch["settings"]["dial"]  # without its round
    numbers = {
        f"slope_{name}": slope_of(
            f"$c = {c}$: exponent of $T$ in the samples until positions are seen", transfer.LENGTHS, sights("listen", c)
        )
        for name, c in (("half", 0.5), ("fifth", 0.2))
    }
    for name, c in (("half", 0.5), ("fifth", 0.2)):
        numbers[f"sooner_{name}"] = bootstrap(
            f"$c = {c}$, $T = {LONGEST}$: samples from scratch until the same, over those with transfer",
            lambda theirs, ours: np.median(theirs) / np.median(ours),
            large,
            sights("listen", c)[-1],
            format=".1f",
        )
    above, below = of("scratch, large", LONGEST), of("listen", LONGEST, correlation=0.5)

    def saved(drawn: np.ndarray) -> float:
        tasks = drawn.astype(int)
        return transfer.samples_for(above, tasks) / transfer.samples_for(below, tasks)

    numbers["total"] = bootstrap(
        f"$c = 0.5$, $T = {LONGEST}$: the same for both errors below {transfer.EPSILON}",
        saved,
        np.arange(len(transfer.CONFIRMING)),
        format=".1f",
    )
    for name, c in (("one", 1.0), ("half", 0.5)):
        numbers[f"named_{name}"] = bootstrap(
            f"$c = {c:g}$, $T = {LONGEST}$: the same until exactly the support is named",
            lambda theirs, ours: np.median(theirs) / np.median(ours),
            support.until(kept["support"], "scratch, large", LONGEST),
            support.until(kept["support"], "listen", LONGEST, correlation=c),
            format=".1f",
        )
    numbers["mirrored"] = ratio_of(
        f"$c = -0.5$, $T = {LONGEST}$: samples until positions are seen, times those at $0.5$",
        sights("listen", -0.5)[-1],
        sights("listen", 0.5)[-1],
    )
    numbers["slope_walk"] = slope_of(
        "small steps from $c = 0.5$: exponent of $T$ in the samples of stage 1",
        transfer.LENGTHS,
        sights("walk, small", 0.5),
    )
    return numbers


def powers(kept: Kept) -> dict[str, Measured]:
    """Exponents of T until exactly the support is named, by method, and whether that of small steps is one power."""
    records, numbers = kept["complexity"], {}
    for name, words, way in (
        ("end", "small steps, to their end", ("small steps", "ended")),
        ("look", "small steps, looked at on their way", ("small steps", "named")),
        ("step", "one large step", ("large step", "named")),
        ("half", "a known direction with $c = 0.5$", ("transfer", "named")),
        ("screen", "moment screen", ("screen", "named")),
    ):
        lengths, samples = complexity.table(records, *way, "seq_len", 0.5 if name == "half" else 1.0)
        law = power_law(lengths, samples, level=LEVEL, draws=DRAWS)
        numbers[name] = Measured(f"{words}: exponent of $T$", law.exponent, law.low, law.high)
        if name == "end":
            numbers["bend"] = Measured(
                "the same: slope over the upper lengths less that over the lower", law.bend, law.bend_low, law.bend_high
            )
    return numbers


def second_powers(kept: Kept) -> dict[str, Measured]:
    """Exponents of T, N and S in the samples of the second stage."""
    records, numbers = select(kept["complexity"], what="second stage"), {}
    epsilon = max(complexity.EPSILONS)
    plain = [record for record in records if "step_size" not in record["settings"]]
    slow = [record for record in records if "step_size" in record["settings"]]
    for name, axis, words, chosen in (
        ("T", "seq_len", "$T$", select(plain, vocab_size=3, sparsity=2)),
        ("N", "vocab_size", "$N$", select(plain, seq_len=complexity.SHORT, sparsity=2)),
        ("S", "sparsity", "$S$", select(plain, seq_len=complexity.SHORT, vocab_size=3)),
        ("S_slow", "sparsity", f"$S$ with step size {complexity.SLOW}", slow),
    ):
        chosen = sorted(chosen, key=lambda record, axis=axis: record["settings"][axis])  # type: ignore[misc]
        sizes = [record["settings"][axis] for record in chosen]

        def slope(tasks: np.ndarray, chosen: Any = chosen, sizes: Any = sizes) -> float:
            values = [complexity.for_error(record, epsilon, tasks.astype(int)) for record in chosen]
            return float(np.polyfit(np.log(sizes), np.log(np.minimum(values, 1e6)), 1)[0])

        words = f"exponent of {words} in the samples of stage 2 for a median error of {epsilon}"
        numbers[name] = bootstrap(words, slope, np.arange(complexity.TASKS))
    return numbers


def odds(kept: Kept) -> dict[str, Measured]:
    """Exponents of T in the samples with which one large step succeeds in a share of the tasks."""
    records = select(kept["complexity"], what="support", **complexity.LOUD)
    lengths = [record["settings"]["seq_len"] for record in records]
    samples = records[0]["result"]["samples"]
    letters = np.array([[list(seen) for seen in record["result"]["seen"]] for record in records])  # (T, tasks, sizes)
    numbers = {}
    for name, share, good in (
        ("quarter", 0.25, "n"),
        ("even", 0.5, "n"),
        ("sure", 0.9, "n"),
        ("turned", 0.9, "nd"),
    ):
        named = np.isin(letters, list(good)).astype(float)

        def slope(tasks: np.ndarray, named: np.ndarray = named, share: float = share) -> float:
            place = (named[:, tasks.astype(int)].mean(1) < share).sum(1)
            needed = np.append(samples, 2**0.5 * samples[-1])[place]  # or the next size
            return float(np.polyfit(np.log(lengths), np.log(needed), 1)[0])

        words = "either way, " if good == "nd" else ""
        numbers[name] = bootstrap(
            f"{words}in {share:.0%} of the tasks: exponent of $T$", slope, np.arange(named.shape[1])
        )
    return numbers


def one_dial(kept: Kept) -> dict[str, Measured]:
    """How far apart runs of different step sizes end, at the same number of samples and the same time."""
    records, numbers = select(kept["complexity"], what="rates"), {}
    for name, words, rates in (
        ("small", "step sizes up to 0.2", (0.025, 0.05, 0.1, 0.2)),
        ("large", "step sizes of 0.05 and 1.6", (0.05, 1.6)),
    ):
        ends = {
            (record["settings"]["time"], record["settings"]["step_size"]): record["result"]["alpha_V"]
            for record in records
            if record["settings"]["step_size"] in rates and record["settings"]["time"] in (10, 20, 40)
        }
        table = np.array(
            [[[np.inf if v is None else v for v in ends[t, rate]] for rate in rates] for t in (10, 20, 40)]
        )
        numbers[name] = bootstrap(
            rf"{words}: largest difference of the medians of $\alpha_V$ at times 10, 20 and 40",
            lambda values: np.ptp(np.median(values, axis=2), axis=1).max(),
            table,
            format=".3f",
        )
    return numbers


# The claims

FAMILY = "three tokens, uniform $\\mu$, two positions for each query with weights of at least $1/4$, $K_P = 0.3$"

EVEN = (
    "Three tokens, uniform $\\mu$, two positions for each query with equal weights, $K_P = 0.3$, if not said otherwise"
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="recovery",
        title="Both matrices are learned from samples",
        text="A linear transformer with one layer learns the sparse contextual bigram from samples alone. It "
        "recovers both where to look, $Q$, and what follows what, $P$.",
        of="the paper",
        chapter="stage_two",
        setting=f"The default recipe on {bar.TASKS} fresh tasks of each of {len(bar.SIZES)} sizes, with $T$ from "
        f"{min(bar.SIZES)[0]} to {max(bar.SIZES)[0]}, $N$ from 3 to 10, and two or three positions for each "
        "query; half of the runs know $\\mu$, the others estimate it. The family leaves out very weak "
        "positions, rare tokens and weak $P$, for which the samples would not do.",
        experiments=("bar",),
        measure=recovery,
        bounds=(Bound("exact", least=95), Bound("error_V", most=0.03), Bound("error_A", most=0.03)),
        verdict="holds",
    ),
    Claim(
        name="first-stage",
        title="The first stage needs more samples for a longer context",
        text="Training from scratch begins with a stage that is hungry for samples: what it takes to lift the "
        "correlation with the truth from zero grows like a power of the context length $T$.",
        of="the paper",
        chapter="stage_one",
        setting=f"Stage 1 on {stage_one.TASKS} tasks for each of {len(price.LENGTHS)} lengths from $T = {SHORTEST}$ "
        f"to {LONGEST}: {FAMILY}. Small steps, the paper's kind, with the batch in proportion to $T$, "
        f"counted to their end and from $T = {price.LENGTHS[1]}$ on; large steps, ours, counted until "
        "entries of $A$ stand out.",
        experiments=("stage_one", "price"),
        measure=first_stage,
        bounds=(Bound("slope_small", least=0.5), Bound("slope_large", least=0.25), Bound("hungry_small", least=2)),
        verdict="holds",
    ),
    Claim(
        name="second-stage",
        title="The second stage does not know the context length",
        text="After the first stage comes one that is efficient: the samples that it takes do not depend on $T$.",
        of="the paper",
        chapter="stage_two",
        setting="The default recipe, whose second stage takes the same number of samples at every $T$: its errors "
        f"for a short and a long context. And second stages of {len(price.PASSES)} lengths, after the same "
        f"large steps, on {ONCE} tasks for each of {len(price.LENGTHS)} lengths from $T = {SHORTEST}$ to "
        f"{LONGEST}: {FAMILY}.",
        experiments=("bar", "price"),
        measure=second_stage,
        bounds=(
            Bound("ratio_3", 2 / 3, 1.5),
            Bound("ratio_10", 2 / 3, 1.5),
            Bound("slope_samples", -0.2, 0.2),
            Bound("slope_error", -0.2, 0.2),
        ),
        verdict="holds",
    ),
    Claim(
        name="transfer",
        title="A related task saves the first stage",
        text="With a non-trivial correlation between two tasks, even a weak one, training that starts from the model "
        "of the first skips the stage that is hungry for samples.",
        of="the paper",
        chapter="transfer",
        setting=f"Pairs of tasks that share $\\mu$, with $K_P = {transfer.SIZE['K_P']}$ for both and a new $Q$: three "
        f"tokens, two positions for each query; {len(transfer.CONFIRMING)} pairs for each of {len(transfer.LENGTHS)} "
        f"lengths from $T = {transfer.LENGTHS[0]}$ to {transfer.LENGTHS[-1]}. Listening reads the gradients of $A$ at "
        "the pretrained $V$, in both directions; small steps walk from it, with a dial chosen on "
        f"{len(transfer.TUNING)} other pairs.",
        experiments=("transfer", "support"),
        measure=transferred,
        bounds=(
            Bound("slope_half", -0.25, 0.25, core=True),
            Bound("slope_fifth", -0.25, 0.25, core=True),
            Bound("sooner_half", least=2, core=True),
            Bound("mirrored", 0.5, 2, core=True),
            Bound("slope_walk", -0.25, 0.25),
        ),
        verdict="holds within a stated range",
        range="if gradients are read before they are walked along. Small steps from the pretrained model keep a power "
        "of $T$; and at 0.2 what is read pays, against large steps from scratch, at longer contexts only.",
    ),
    Claim(
        name="small-batches",
        title="Preconditioned and $\\ell_1$-regularised training recovers nearly perfectly",
        text="Descent that is preconditioned, projected and regularised by $\\ell_1$ recovers $P$ and $Q$ nearly "
        "perfectly with small batches.",
        of="the paper",
        chapter="against_sgd",
        setting="Small steps in two stages, the second with a soft threshold. First, at the best of three step "
        f"sizes, on {ablation.TASKS} tasks with $T = {ablation.SIZE['seq_len']}$ and $N = "
        f"{ablation.SIZE['vocab_size']}$. Then on {len(rivals.CONFIRMING)} with $T = "
        f"{rivals.SIZE['seq_len']}$ and $N = {rivals.SIZE['vocab_size']}$, where batch and step size were "
        f"chosen on {len(rivals.TUNING)} others.",
        experiments=("ablation", "rivals"),
        measure=small_batches,
        bounds=(
            Bound("careful", most=0.03, core=True),
            Bound("careful_near", least=75, core=True),
            Bound("tuned", most=0.03),
            Bound("tuned_near", least=80),
            Bound("no_penalty", least=2, core=True),
            Bound("no_preconditioning", least=2),
        ),
        verdict="holds",
    ),
    Claim(
        name="large-rate",
        title="Plain SGD fails at a large step size",
        text="At a large step size plain SGD has too much variance to come close.",
        of="the paper",
        chapter="against_sgd",
        setting=f"SGD with batches of 32, constant step sizes of {LARGE_V} for $V$ and {LARGE_A} for $A$, and "
        f"{rivals.BUDGET:,} samples, on {len(rivals.CONFIRMING)} tasks: $T = {rivals.SIZE['seq_len']}$, "
        f"three tokens, the most frequent {rivals.FAMILY['mu_ratio']} times as frequent as the rarest, two "
        "positions for each query. How often the largest step size for $A$ diverges is from runs on the "
        f"{len(rivals.TUNING)} tasks for tuning.",
        experiments=("rivals",),
        measure=large_rate,
        bounds=(
            Bound("fails", least=80, core=True),
            Bound("excess", least=3, core=True),
            Bound("diverged_128", most=25),
        ),
        verdict="holds within a stated range",
        range="where training is stable. There it is noise that keeps it away: nearly all of the error in $A$ is "
        "gone when what does not stand out is removed. Beyond, large batches diverge as small ones do, "
        "which is a matter of curvature and not of variance.",
    ),
    Claim(
        name="small-rate",
        title="Plain SGD is slow at a small step size",
        text="At a small step size plain SGD is far slower than the preconditioned method.",
        of="the paper",
        chapter="against_sgd",
        setting=f"As for the large step size, but with step sizes of {SMALL_V} for $V$ and {SMALL_A} for $A$.",
        experiments=("rivals",),
        measure=small_rate,
        bounds=(Bound("left", least=0.5), Bound("ratio", least=10), Bound("slower", least=2)),
        verdict="holds",
    ),
    Claim(
        name="links",
        title="Softmax and linear transformers learn alike",
        text="Softmax and linear transformers learn similar attention maps and value matrices, and end at a similar "
        "loss.",
        of="the paper",
        chapter="softmax_link",
        setting=f"For $T = {links.LENGTHS[0]}$ and $T = {links.LENGTHS[1]}$ {len(links.CONFIRMING)} tasks: {FAMILY}. "
        f"Softmax attention by Adam and linear attention by SGD, {links.BUDGET:,} samples each, step sizes tuned on "
        f"{len(links.TUNING)} other tasks; linear attention by the default recipe, which takes twice as many.",
        experiments=("links",),
        measure=links_alike,
        bounds=(
            Bound("two_V", least=0.95, core=True),
            Bound("two_A", least=0.95, core=True),
            Bound("two_loss", most=0.01, core=True),
            Bound("two_variation", most=0.1, core=True),
            Bound("plain_V", least=0.95),
            Bound("plain_A", least=0.95),
            Bound("plain_loss", most=0.01),
            Bound("plain_variation", most=0.1),
        ),
        verdict="holds within a stated range",
        range="where both come to their end: the linear one by two stages. By plain SGD it does not.",
    ),
    Claim(
        name="powers",
        title="Which power of the context length",
        text="What the first stage takes, from scratch and in small steps, is polynomial in $T$; with a correlation to "
        "start from it is not.",
        of="the paper",
        chapter="sample_complexity",
        setting=f"{EVEN}; {complexity.TASKS} tasks for each of {len(complexity.LENGTHS)} lengths from $T = "
        f"{complexity.LENGTHS[0]}$ to {complexity.LENGTHS[-1]}, and to {complexity.LONGEST} for the last two. Samples "
        "until exactly the support is named, by each method's own rule. The paper names no power that we know of.",
        experiments=("complexity",),
        measure=powers,
        bounds=(
            Bound("end", 0.5, 1.5, core=True),
            Bound("half", -0.2, 0.2, core=True),
            Bound("screen", -0.2, 0.2, core=True),
            Bound("bend", -0.05, 0.05),
        ),
        verdict="holds within a stated range",
        range="for the growth, on this range of $T$. It is that of $T \\log T$, and no power: its slope falls as $T$ "
        "grows. And the same steps, looked at on their way, name the support much sooner, with a smaller exponent.",
    ),
    Claim(
        name="second-powers",
        title="The second stage against tokens and positions",
        text="What the second stage takes is polynomial in $N$ and $S$, and free of $T$.",
        of="the paper",
        chapter="sample_complexity",
        setting=f"{EVEN}; {complexity.TASKS} tasks for each size. Stage 2 starts from the support, and a $V$ whose "
        f"correlation with $P$ is {complexity.CORRELATION}: $T$ from {complexity.LENGTHS_SECOND[0]} to "
        f"{complexity.LENGTHS_SECOND[-1]}; then $N$ up to {complexity.VOCABULARIES[-1]}, or $S$ up to "
        f"{complexity.SPARSITIES[-1]}, with $T = {complexity.SHORT}$.",
        experiments=("complexity",),
        measure=second_powers,
        bounds=(
            Bound("T", -0.2, 0.2, core=True),
            Bound("N", 0.5, 1.5, core=True),
            Bound("S", 0.5, 2.5, core=True),
        ),
        verdict="holds",
    ),
    Claim(
        name="rivals",
        title="Tuning does not save plain descent",
        text="SGD, momentum and Adam do not recover $P$ and $Q$ either when their step sizes, batches, decay and "
        "averaging are tuned.",
        of="this book",
        chapter="against_sgd",
        setting=f"Each rival at its best of a grid on {len(rivals.TUNING)} tasks, then on {len(rivals.CONFIRMING)} "
        f"others with {rivals.BUDGET:,} samples, about what the default recipe takes. As training leaves it; "
        "trimmed to what stands out in $A$; and, with half of the samples, trimmed and followed by a second "
        "stage.",
        experiments=("rivals",),
        measure=fair_rivals,
        bounds=(Bound("untouched", least=3, core=True), Bound("trimmed", least=3), Bound("exact", most=50)),
        verdict="holds within a stated range",
        range="for $P$ and $Q$ as training leaves them. Which positions matter the rivals do find. Trimmed, and with a "
        "second stage behind them, they do as well as the default recipe.",
    ),
    Claim(
        name="price",
        title="Gradient training is not the limit",
        text="A moment screen, followed by expectation maximisation on the positions that it keeps, needs fewer "
        "samples than gradient training does.",
        of="this book",
        chapter="limit",
        setting=f"For each $T$ {price.TASKS} tasks: {FAMILY}. Gradient training is the better of small and large "
        "steps, each followed by a second stage. Where it sees each sample once, the best of its dials is chosen on "
        f"{price.CHOOSING} other tasks.",
        experiments=("price",),
        measure=against_screening,
        bounds=(
            Bound("once_0.05", least=1.25, core=True),
            Bound("once_0.02", least=1.25, core=True),
            Bound("short_0.05", least=1.25),
            Bound("short_0.02", least=1.25),
        ),
        verdict="holds within a stated range",
        range="for training that sees each sample once. If it may repeat its samples, it needs no more at $T = 500$.",
    ),
    Claim(
        name="probes",
        title="A learned direction is not what a long context asks for",
        text="Gradients that listen along directions of $V$ which are drawn, and not learned, see what matters after a "
        "number of samples that hardly grows with the length of the context.",
        of="this book",
        chapter="probes",
        setting=f"{probes.TASKS} tasks for each $T$: {FAMILY}. All four directions, squared and added, and a second "
        "look along the $V$ that they give; or one direction, in either sign. For an error, a second stage follows; "
        f"there are {price.TASKS} tasks, and the size of a look is chosen on {price.CHOOSING} others.",
        experiments=("price", "probes"),
        measure=drawn_directions,
        bounds=(
            Bound("slope", most=0.2, core=True),
            Bound("large", least=1.25, core=True),
            Bound("small", least=1.25, core=True),
            Bound("screen", most=5, core=True),
            Bound("one", most=2),
        ),
        verdict="holds within a stated range",
        range="for all $(N-1)^2$ directions together, each of which is a gradient of its own. A single one is deaf to "
        "some tasks, and the number of tokens still counts.",
    ),
    Claim(
        name="real-layer",
        title="A standard layer finds the same two things",
        text="A standard transformer layer, trained by Adam on the cross-entropy, finds $Q$ in its attention and $P$ "
        "in its answers, and a task with the same $P$ that was learned before saves it samples.",
        of="this book",
        chapter="real_layer",
        setting="Token and position embeddings, one softmax head, residuals, layer norms and an MLP, width "
        f"{layer.WIDTH}, on {len(layer.CONFIRMING)} tasks with three tokens and two positions for each query, after "
        f"{layer.STEPS * layer.BATCH_SIZE:,} samples with $T = {layer.SEQ_LEN}$ and $K_P = {layer.K_P}$. Transfer with "
        f"$T = {layer.TRANSFER_LEN}$ and $K_P = {layer.TRANSFER_K_P}$, to tasks with a new $Q$: samples until half of "
        f"the prediction has been found. Step sizes were chosen on {len(layer.TUNING)} other tasks.",
        experiments=("layer",),
        measure=real_layer,
        bounds=(
            Bound("attention", most=0.15, core=True),
            Bound("tokens", most=0.05, core=True),
            Bound("nats", most=1, core=True),
            Bound("what", least=1.25),
            Bound("everything", least=1.25),
        ),
        verdict="holds within a stated range",
        range="for what it finds. That transfer saves a fifth of the samples or more is so in the median; with what "
        "follows what carried, the interval begins a little below.",
    ),
    Claim(
        name="odds",
        title="The power depends on how sure one wants to be",
        text="One large step of $V$ names the support after samples that hardly grow with $T$ in a quarter of the "
        "tasks, like its root in half of them, and nearly like $T$ in nine of ten.",
        of="this book",
        chapter="sample_complexity",
        setting=f"Three tokens, uniform $\\mu$, one position for each query, $K_P = {complexity.LOUD['K_P']}$; "
        f"{complexity.LOUD_TASKS} tasks for each of {len(complexity.LENGTHS)} lengths from $T = "
        f"{complexity.LENGTHS[0]}$ to {complexity.LENGTHS[-1]}. Half of the samples make the direction of $V$, half "
        "listen along it, upwards only or either way.",
        experiments=("complexity",),
        measure=odds,
        bounds=(Bound("quarter", most=0.45), Bound("even", 0.35, 0.65), Bound("sure", least=0.6)),
        verdict="holds",
    ),
    Claim(
        name="one-dial",
        title="At equal samples, step size and batch size are one dial",
        text="Where descent on all positions ends depends, at a given number of samples, on the ratio of step size and "
        "batch size alone.",
        of="this book",
        chapter="sample_complexity",
        setting=f"{EVEN}; $T = {complexity.SEQ_LEN}$, {complexity.SAMPLES:,} samples, {complexity.RUNS} tasks for each "
        f"step size from {complexity.STEP_SIZES[0]} to {complexity.STEP_SIZES[-1]} and each of "
        f"{len(complexity.TIMES)} times (steps times step size).",
        experiments=("complexity",),
        measure=one_dial,
        bounds=(Bound("small", most=0.1, core=True), Bound("large", most=0.1)),
        verdict="holds within a stated range",
        range="for step sizes well below the limit of stability. Large ones grow more slowly, and then leave the path.",
    ),
)

# The rows


def load(names: Sequence[str]) -> dict[str, list[Record]]:
    """Return the kept results of the runs that these experiments ask for today, those of their tuning included.

    Raises
    ------
    FileNotFoundError
        If results are missing, in part or altogether: which, and what makes them.
    """
    kept: dict[str, list[Record]] = {}
    for name in names:
        module = importlib.import_module(f"experiments.{name}")
        wanted = {f"{name}_tuning": module.tuning_settings} if hasattr(module, "tuning_settings") else {}
        for part, settings in (wanted | {name: module.settings}).items():
            try:
                found = {store.key(record["settings"]): record for record in store.kept(part)}
            except FileNotFoundError:
                found = {}
            keys = [store.key(each) for each in settings()] if found else [""]
            missing = sum(each not in found for each in keys)
            if missing:
                what = f"{missing} of {len(keys)} runs" if found else "all runs"
                raise FileNotFoundError(f"{part}: {what} are missing; python -m experiments.{name} does them")
            kept[part] = [found[each] for each in keys]
    return kept


def digests(names: Sequence[str]) -> dict[str, str]:
    """Return the digests of today's code of these experiments."""
    return {name: store.code_digest(importlib.import_module(f"experiments.{name}").run) for name in names}


def row(claim: Claim, kept: Kept, code: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of the table, in plain types, with infinite numbers as None; ``code`` has the digests of today."""
    numbers = claim.measure(kept)
    used = {part: records for part, records in kept.items() if part.removesuffix("_tuning") in claim.experiments}
    origins = [record["origin"] for records in used.values() for record in records]
    outdated = []
    for part, records in used.items():
        old = sum(record["origin"]["code"] != code[part.removesuffix("_tuning")] for record in records)
        if old:
            outdated.append(f"{part}: {old} of {len(records)} runs are older than the code")
    return {
        "name": claim.name,
        "title": claim.title,
        "claim": claim.text,
        "of": claim.of,
        "chapter": claim.chapter,
        "setting": claim.setting,
        "measured": {name: plain_number(number) for name, number in numbers.items()},
        "verdict": claim.verdict,
        "range": claim.range,
        "rule": {"words": claim.rule(), "bounds": [plain_bound(bound) for bound in claim.bounds]},
        "follows": claim.follows(numbers),
        "commands": [f"python -m experiments.{name} --fresh" for name in claim.experiments],
        "runs": {part: len(records) for part, records in used.items()},
        "dates": sorted({each["date"][:10] for each in origins}),
        "commits": sorted({each["commit"][:7] for each in origins}),
        "minutes": round(sum(each["seconds"] for each in origins) / 60),
        "current": not outdated,
        "outdated": outdated,
    }


def plain_number(number: Measured) -> dict[str, Any]:
    """Return a number in plain types."""
    ends = {name: float(f"{getattr(number, name):.4g}") for name in ("value", "low", "high")}
    finite = {name: end if np.isfinite(end) else None for name, end in ends.items()}
    return {"what": number.what, **finite, "words": number.words()}


def plain_bound(bound: Bound) -> dict[str, Any]:
    """Return a bound in plain types."""
    ends = {"at least": bound.least, "at most": bound.most}
    finite = {word: float(f"{end:.6g}") for word, end in ends.items() if np.isfinite(end)}
    return {"of": bound.name, **finite, "core": bound.core, "words": bound.words()}


def rows(claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """Return all rows.

    Raises
    ------
    FileNotFoundError
        If results are missing.
    """
    names = sorted({name for claim in claims for name in claim.experiments})
    kept, code = load(names), digests(names)
    return [row(claim, kept, code) for claim in claims]


def faults(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the rows: a line for each that is out of date, or whose verdict does not follow."""
    found = [f"{each['name']}: {reason}" for each in table for reason in each["outdated"]]
    return found + [
        f"{each['name']}: the verdict is '{each['verdict']}', but what follows from the numbers is '{each['follows']}'"
        for each in table
        if each["verdict"] != each["follows"]
    ]


def twin(table: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as JSON."""
    return (
        json.dumps(
            {"level": LEVEL, "verdicts": VERDICTS, "claims": table}, indent=1, ensure_ascii=False, allow_nan=False
        )
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and say what is wrong with it."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the table to this file as well")
    options = parser.parse_args(arguments)
    try:
        table = rows()
    except FileNotFoundError as error:
        print(f"claims: {error}", file=sys.stderr)
        return 1
    for each in table:
        print(f"{each['name']} ({each['of']}): {each['verdict']}")
        for name, number in each["measured"].items():
            print(f"    {name:<20} {number['words']}")
    if options.json:
        write_whole(options.json, twin(table).encode())
    wrong = faults(table)
    for line in wrong:
        print(f"claims: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
