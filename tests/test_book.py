"""What the chapters say of themselves: claims outside the package, exercises, figures, references to tests."""

import ast
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scb_nb import Batch, SCBTask, batch_gradients, checks, fit, geometry, proximal, screening
from scb_nb.chains import stationary_distribution
from scb_nb.checks import EXERCISES, check
from scb_nb.rivals import Trim
from scb_nb.stages import Descent, State
from scb_nb.stream import Source
from scb_nb.transfer import warm_start

ROOT = Path(__file__).parents[1]
CHAPTERS = [
    ROOT / "book" / f"{name}.md"
    for name in (
        "bigrams",
        "sparse_contextual_bigrams",
        "linear_transformer",
        "population_picture",
        "stage_one",
        "stage_two",
        "against_sgd",
        "transfer",
        "softmax_link",
        "limit",
        "probes",
        "real_layer",
        "sample_complexity",
    )
]
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)

ODD = ["none", "ellipsis", "empty", "text", "number", "function"]

# What a reader might answer: right answers, and typical wrong ones.
RIGHT_CHOICES = {
    "bigram-predict": "b",
    "scb-predict": "b",
    "transformer-predict": "b",
    "population-predict": "c",
    "stage-one-predict": "b",
    "stage-two-predict": "c",
    "against-sgd-predict": "b",
    "softmax-link-predict": "c",
    "transfer-predict": "b",
    "limit-predict": "c",
    "probes-predict": "c",
    "real-layer-predict": "a",
    "complexity-predict": "c",
}


def cells(chapter: Path) -> list[str]:
    """Return the code cells of a chapter, options included."""
    return re.findall(r"^```\{code-cell\}.*?^```$", chapter.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def source(cell: str) -> str:
    """Return the Python of a cell: without its fences, its options and its tags."""
    return re.sub(r"\A```.*\n(---\n(.*\n)*?---\n|:.*\n)?|^```$", "", cell, flags=re.MULTILINE)


def posterior(P: np.ndarray, Q: np.ndarray, context: np.ndarray, query: int, answer: int) -> np.ndarray:
    joint = Q[:, query] * P[answer, context]
    return joint / joint.sum()


def loss_on_plane(
    alpha_V: float, alpha_A: float, K_P: float, K_Q: float, seq_len: int, mu_squared: float, price: float = 1.0
) -> float:
    product = K_Q * ((1 - alpha_V * alpha_A) ** 2 - 1)
    factor = ((1 - alpha_V) ** 2 - 1) / seq_len
    return 0.5 - 0.5 * mu_squared + 0.5 * K_P * (product + price * factor)


def landing_from(theta: float, K_P: float, K_Q: float, eta_V: float, eta_A: float) -> float:
    kappa = eta_V * K_Q / (eta_A * K_P)
    return float(np.sqrt((theta**2 + np.sqrt(theta**4 + 4 * kappa)) / 2))


def best_split(n: float, star: float) -> float:
    return float(np.sqrt(star**2 + n * star) - star)


def give_back(a: np.ndarray, threshold: float) -> np.ndarray:
    """Chapter 6's step, and what is right where nothing survives it."""
    found = proximal.sparse_sum_to_one(torch.tensor(a)[:, None], threshold)[:, 0].numpy()
    return found if (np.abs(a) > threshold).any() else checks.stage_two._minimiser(a, threshold)


def best_rates(m: int, h: float, u: float) -> np.ndarray:
    return 1 / (h * (np.arange(1, m + 1) + u))


def mend(state: State, source: Source, trim: bool = True, put_back: bool = True, steps: int = 64) -> tuple:
    """Chapter 7's exercise: trim A, put V back on its sums, fit V alone."""
    if trim:
        state = fit(source, [Trim()], start=state).state
    if put_back:
        start = state.mu[:, None]
        state = replace(state, V=start + geometry.centre_V(state.V - start, state.mu))
    if steps:
        rates = {"step_size": 0.3, "step_size_A": 0.0}
        stage = Descent(steps=steps, batch_size=128, sparsity="support", average=True, **rates)
        state = fit(source, [stage], start=state).state
    return state.V, state.A


def worth(c: float, star: float) -> float:
    return star * c**2 / (1 - c**2)


def votes(V: torch.Tensor, batch: Batch, mu: torch.Tensor, critical: float = 4.93) -> int:
    """The transfer chapter's exercise: which way round the V is by which something stands out."""
    start = warm_start(V, mu, batch.tokens.shape[1])
    pull = -batch_gradients(start.V, start.A, batch).A / mu
    height = (pull - pull.median(0).values) / screening.noise_level(pull, mu)
    return int(((height > critical).sum() - (height < -critical).sum()).sign())


def pooled_noncentrality(P: np.ndarray, mu: np.ndarray, weights: np.ndarray, n: int) -> float:
    average = mu @ np.broadcast_to(weights, mu.shape)
    return float(n * average**2 * (mu * (P - mu[:, None]) ** 2 / mu[:, None]).sum())


def mean_price(H: int, d: int, critical: Callable[[int], float]) -> float:
    """Chapter "Is stage 1 necessary?": samples of H of d probes in the mean, over those of all."""
    if d == H:
        return 1.0
    return (critical(H) - H) / (critical(d) - d) * (d - 2) / (H - 2) if H > 2 else np.inf


def score_gradient(weights: np.ndarray, outputs: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    pulls = outputs @ gradient
    return weights * (pulls - weights @ pulls)


def local_exponent(known: float, star: float) -> float:
    """Chapter "Sample complexity, measured": the slope of log n against log T for one large step."""
    return (1 - (1 + 4 * star / known) ** -0.5) / 2


def induced_move(a: np.ndarray, g: np.ndarray, rate: float) -> np.ndarray:
    pulled = a * (g - a @ g)
    return np.asarray(-rate * a * (pulled - a @ pulled))


@chapters
def test_every_chapter_has_goals_three_exercises_checks_and_solutions(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    for word in ("**You will**", "**You need**", "**Time**", "**Predict.**", "**Derive.**", "**Experiment.**"):
        assert word in text
    exercises = re.findall(r"\{exercise-start\}\n:label: (\S+)", text)
    assert len(exercises) >= 3
    assert re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", text) == exercises
    checked = re.findall(r'verdict = check\("([\w-]+)"', text)
    assert [f"ex-{name}" for name in checked] == exercises, "each solution must pass its own check"
    assert text.count("assert verdict") == len(exercises)
    for name in checked:
        assert f'\ncheck("{name}"' in text, "the reader's cell must call the check"


@chapters
def test_every_box_points_to_a_test_that_exists(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    boxes = re.findall(r"````\{prf:(?:definition|proposition|theorem|lemma)\}.*?^````$", text, re.MULTILINE | re.DOTALL)
    assert boxes
    for reference in re.findall(r"`(tests/[\w./]+(?:::\w+)?)`", text):
        path, _, function = reference.partition("::")
        assert (ROOT / path).is_file(), reference
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), reference
    claims = [box for box in boxes if "{prf:definition}" not in box.splitlines()[0]]
    assert all("*Held by*" in box for box in claims)


@chapters
def test_every_figure_has_number_caption_and_words(chapter: Path) -> None:
    drawn = [cell for cell in cells(chapter) if "plt.show()" in cell]
    assert drawn
    for cell in drawn:
        assert re.search(r'^    alt: "[^"]{40,}"$', cell, re.MULTILINE), cell[:200]
        assert re.search(r"^    name: fig-", cell, re.MULTILINE)
        assert re.search(r"^    caption: \|", cell, re.MULTILINE)


@chapters
def test_every_quoted_number_is_recorded(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    quoted = set(re.findall(r"\{glue:text\}`(\w+)", text))
    nodes = [node for cell in cells(chapter) for node in ast.walk(ast.parse(source(cell)))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "record"]
    recorded = {keyword.arg for call in calls for keyword in call.keywords}
    if chapter.stem == "bigrams":
        recorded |= {"words_unigram", "words_bigram", "words_manual"}  # recorded in a loop over the three texts
    assert quoted
    assert quoted <= recorded, quoted - recorded


@pytest.mark.parametrize("name", sorted(EXERCISES))
@pytest.mark.parametrize("answer", [None, ..., [], "nonsense", -1.0, lambda *_: None], ids=ODD)
def test_checks_tell_and_never_throw(name: str, answer: Any) -> None:
    verdict = check(name, answer)
    assert not verdict
    assert len(verdict.message) > 10


@pytest.mark.parametrize(("name", "letter"), RIGHT_CHOICES.items())
def test_choices_accept_one_letter(name: str, letter: str) -> None:
    verdicts = {each: check(name, each) for each in "abcd"}
    assert [each for each in "abcd" if verdicts[each]] == [letter]
    assert check(name, f" {letter.upper()} ")
    assert check(name, f"({letter})")


def test_derivations_accept_the_solution_and_refuse_near_misses() -> None:
    assert check("scb-derive", posterior)
    assert not check("scb-derive", lambda P, Q, x, k, y: Q[:, k])  # the prior
    assert not check("scb-derive", lambda P, Q, x, k, y: Q[:, k] * P[y, x])  # not normalised
    assert not check("scb-derive", lambda P, Q, x, k, y: posterior(P.T, Q, x, k, y))
    assert check("transformer-derive", loss_on_plane)
    without_price = check("transformer-derive", lambda *numbers: loss_on_plane(*numbers, price=0.0))
    assert not without_price
    assert "Bayes risk" in without_price.message
    assert check("population-derive", landing_from)
    for wrong, hint in (
        (lambda *numbers: landing_from(*numbers) ** 2, "square"),
        (lambda *numbers: 1 / landing_from(*numbers), "alpha_A"),
        (lambda theta, K_P, K_Q, eta_V, eta_A: (eta_V * K_Q / (eta_A * K_P)) ** 0.25, "head start"),
        (lambda theta, K_P, K_Q, eta_V, eta_A: landing_from(theta, K_P, K_Q, 1, 1), "step sizes"),
        (lambda theta, *numbers: 1.0, "theta = 0"),
    ):
        verdict = check("population-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("stage-one-derive", best_split)
    for wrong, hint in (
        (lambda n, star: n / 2, "only for few"),
        (lambda n, star: np.sqrt(n * star), "limit for many"),
        (lambda n, star: n - best_split(n, star), "left for A"),
        (lambda n, star: star, "nothing is at its best"),
        (lambda n, star: 1.01 * best_split(n, star), "Maximise"),
    ):
        verdict = check("stage-one-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    minimiser = checks.stage_two._minimiser
    assert check("stage-two-derive", minimiser)
    for wrong, hint in (
        (lambda a, threshold: np.sign(a) * np.maximum(np.abs(a) - threshold, 0), "without the constraint"),
        (lambda a, threshold: minimiser(a, 1e3), "may be negative"),
        (lambda a, threshold: 2 * minimiser(a, threshold), "sum is 2"),
        (lambda a, threshold: minimiser(a, threshold)[None], "shape"),
        (give_back, "shift first"),
    ):
        verdict = check("stage-two-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("against-sgd-derive", best_rates)
    for wrong, hint in (
        (lambda m, h, u: best_rates(m, h, 0), "nothing remains"),
        (lambda m, h, u: h * best_rates(m, h, u), "curvature"),
        (lambda m, h, u: best_rates(m, h, u - 1), "from one"),
        (lambda m, h, u: np.full(m, best_rates(m, h, u).mean()), "constant"),
        (lambda m, h, u: best_rates(m, h, 2 * u), "The bound is"),
        (lambda m, h, u: best_rates(m + 1, h, u), "shape"),
    ):
        verdict = check("against-sgd-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("transfer-derive", worth)
    for wrong, hint in (
        (lambda c, star: star * c**2, "small correlations"),
        (lambda c, star: star * (1 - c**2) / c**2, "Upside down"),
        (lambda c, star: star * abs(c) / (1 - abs(c)), "its square"),
        (lambda c, star: c**2 / (1 - c**2), "units of n_star"),
        (lambda c, star: 1.01 * worth(c, star), "off by"),
        (lambda c, star: [worth(c, star)], "one number"),
        (lambda c, star: worth(max(c, 0.0), star), "off by"),
    ):
        verdict = check("transfer-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("limit-derive", pooled_noncentrality)
    for wrong, hint in (
        (lambda P, mu, q, n: pooled_noncentrality(P, mu, np.sqrt(mu @ q**2), n), "separate tables"),
        (lambda P, mu, q, n: pooled_noncentrality(P, mu, np.sqrt(mu @ q), n), "the weight with it"),
        (lambda P, mu, q, n: pooled_noncentrality(P, mu, q.mean(), n), "equally frequent"),
        (lambda P, mu, q, n: pooled_noncentrality(P, mu, q, 1), "one sample"),
        (lambda P, mu, q, n: n * (mu @ q) ** 2 * (mu * (P - mu[:, None]) ** 2).sum(), "what its cell expects"),
        (lambda P, mu, q, n: pooled_noncentrality(P.T, mu, q, n), "off by"),
        (lambda P, mu, q, n: q, "one number"),
    ):
        verdict = check("limit-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("probes-derive", mean_price)
    for wrong, hint in (
        (lambda H, d, critical: (critical(H) - H) / (critical(d) - d) * d / H, "does not exist"),
        (lambda H, d, critical: mean_price(H, d, critical) if d > H else np.inf, "left to chance"),
        (lambda H, d, c: mean_price(H, d, c) if H in (1, 2, d) else (c(H) - H) / (c(d) - d) * d / H, "mean share"),
        (lambda H, d, c: mean_price(H, d, c) if H in (1, 2, d) else (d - 2) / (H - 2), "changes with H"),
        (lambda H, d, c: mean_price(H, d, c) if H in (1, 2, d) else c(H) / c(d) * (d - 2) / (H - 2), "sums to H"),
        (lambda H, d, c: mean_price(H, d, c) * (1 if H in (1, 2, d) else ((H - 2) / (d - 2)) ** 2), "wrong way up"),
        (lambda H, d, critical: 1.01 * mean_price(H, d, critical) if d > H else 1, "is off"),
        (lambda H, d, critical: [1.0], "one number"),
        (lambda H, d, critical: np.nan, "does not exist"),
    ):
        verdict = check("probes-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("real-layer-derive", score_gradient)
    for wrong, hint in (
        (lambda a, o, g: a * (o @ g), "sum to one"),
        (lambda a, o, g: o @ g - a @ o @ g, "through its weight"),
        (lambda a, o, g: a * (o @ g - (o @ g).mean()), "plain mean"),
        (lambda a, o, g: -score_gradient(a, o, g), "other way round"),
        (lambda a, o, g: score_gradient(a, o, g)[:3], "shape"),
        (lambda a, o, g: score_gradient(a, o, 2 * g), "off by"),
    ):
        verdict = check("real-layer-derive", wrong)
        assert not verdict
        assert hint in verdict.message

    assert check("complexity-derive", local_exponent)
    for wrong, hint in (
        (lambda known, star: 0.5, "where it ends"),
        (lambda known, star: 2 * local_exponent(known, star), "Twice too large"),
        (lambda known, star: (1 + 4 * star / known) ** -0.5, "vanish for short contexts"),
        (lambda known, star: star / known, "the beginning"),
        (lambda known, star: 2 * (1 + 4 * star / known) ** -0.5, "slope of n itself"),
        (lambda known, star: 1.01 * local_exponent(known, star), "is off"),
        (lambda known, star: local_exponent(star, known), "is off"),
        (lambda known, star: [0.25], "one number"),
    ):
        verdict = check("complexity-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("softmax-link-derive", induced_move)
    for wrong, hint in (
        (lambda a, g, rate: -induced_move(a, g, rate), "which way"),
        (lambda a, g, rate: induced_move(a, g, 1.0), "rate"),
        (lambda a, g, rate: -rate * a * (g - a @ g), "one Jacobian"),
        (lambda a, g, rate: -rate * a**2 * (g - a @ g), "sum of your move"),
        (lambda a, g, rate: -rate * a**2 * g, "common to all"),
        (lambda a, g, rate: -rate * (g - g.mean()), "linear link"),
        (lambda a, g, rate: 2 * induced_move(a, g, rate), "by hand"),
        (lambda a, g, rate: induced_move(a, g, rate)[:-1], "shape"),
    ):
        verdict = check("softmax-link-derive", wrong)
        assert not verdict
        assert hint in verdict.message


def test_experiments_accept_the_solution_and_refuse_near_misses() -> None:
    support = np.flatnonzero(checks.sparse_contextual_bigrams._unknown_task().Q[:, 2])
    assert check("scb-experiment", support)
    assert check("scb-experiment", list(reversed(support.tolist())))
    assert "from 0" in check("scb-experiment", support + 1).message
    assert "exactly two" in check("scb-experiment", range(12)).message
    task = SCBTask.random(4, 100_000, 2, mu_ratio=2, K_P=0.3, seed=53)
    slope = np.log(10) / (0.05 * np.sqrt(task.K_P * task.K_Q))
    assert check("transformer-experiment", slope)
    assert not check("transformer-experiment", 2 * slope)
    assert not check("transformer-experiment", 0)
    assert "one number" in check("transformer-experiment", [1.0, 2.0]).message
    assert check("population-experiment", [51, 1])
    assert "other way round" in check("population-experiment", (1, 51)).message
    assert "gap itself" in check("population-experiment", (186, 31)).message
    assert "first number" in check("population-experiment", (0, 0)).message
    assert "second number" in check("population-experiment", (51, 51)).message
    assert "two numbers" in check("population-experiment", 51).message
    assert check("stage-one-experiment", 24)
    assert "Which way" in check("stage-one-experiment", 8).message
    assert "too careful" in check("stage-one-experiment", 96).message
    assert "far more" in check("stage-one-experiment", 10**6).message
    assert "whole number" in check("stage-one-experiment", 24.5).message
    found = next(float(x) for x in np.geomspace(0.01, 0.5, 400) if check("stage-two-experiment", x))
    assert not check("stage-two-experiment", 0.7 * found)
    assert "too small" in check("stage-two-experiment", 0.5 * found).message
    assert "too large" in check("stage-two-experiment", 2 * found).message
    assert "between 0 and 1" in check("stage-two-experiment", 3).message
    assert "one number" in check("stage-two-experiment", [found]).message
    assert check("against-sgd-experiment", mend)
    for wrong, hint in (
        (lambda state, source: (state.V, state.A), "every position"),
        (lambda state, source: mend(state, source, trim=False), "every position"),
        (lambda state, source: mend(state, source, steps=0), "still fits"),
        (lambda state, source: mend(replace(state, V=1.2 * state.V), source, put_back=False), "Stage 2 keeps"),
        (lambda state, source: mend(state, source, steps=65), "8,320 samples"),
        (lambda state, source: (state.V, 2 * mend(state, source)[1]), "sum to"),
        (lambda state, source: tuple(reversed(mend(state, source))), "shape"),
        (lambda state, source: state.V, "in this order"),
    ):
        verdict = check("against-sgd-experiment", wrong)
        assert not verdict
        assert hint in verdict.message
    assert check("transfer-experiment", votes)
    for wrong, hint in (
        (lambda V, batch, mu: 1, "of no use"),
        (lambda V, batch, mu: max(0, votes(V, batch, mu)), "upside down"),
        (lambda V, batch, mu: -votes(V, batch, mu), "wrong way round"),
        (lambda V, batch, mu: votes(V, batch, mu, critical=3.2), "Noise alone"),
        (lambda V, batch, mu: votes(V, batch, mu, critical=30.0), "too much"),
        (lambda V, batch, mu: 0.5, "Return -1, 0 or 1"),
    ):
        verdict = check("transfer-experiment", wrong)
        assert not verdict
        assert hint in verdict.message
    task, attention = checks.softmax_link._trained()
    assert check("softmax-link-experiment", task.support)
    assert check("softmax-link-experiment", task.support.tolist())
    assert check("softmax-link-experiment", lambda found: task.support)
    height = np.abs(attention - np.median(attention, axis=0))
    on_A = attention - np.median(attention, axis=0) > 4 * 1.4826 * np.median(height, axis=0)
    assert on_A.sum() > 20, "or the obvious answer would do"
    assert "log A" in check("softmax-link-experiment", on_A).message
    assert "missing" in check("softmax-link-experiment", attention > 0.9).message
    assert "boolean" in check("softmax-link-experiment", attention).message
    assert "shape" in check("softmax-link-experiment", task.support.T).message
    upwards, either, _ = checks.limit._looks()
    assert upwards + 2 < either, "or there is nothing to see"
    assert check("limit-experiment", (upwards, either))
    assert check("limit-experiment", [upwards, either])
    assert "absolute value" in check("limit-experiment", (upwards, upwards)).message
    assert "smaller" in check("limit-experiment", (upwards, upwards - 1)).message
    assert "first number is off" in check("limit-experiment", (either, upwards)).message
    assert "second is off" in check("limit-experiment", (upwards, 24)).message
    assert "numbers of tasks" in check("limit-experiment", (0.4, 0.5)).message
    assert "two numbers" in check("limit-experiment", upwards).message
    three, nine = checks.probes._counts()
    assert three + 4 < nine, "or there is nothing to see"
    assert check("probes-experiment", (three, nine))
    assert check("probes-experiment", [three, nine])
    assert "other way round" in check("probes-experiment", (nine, three)).message
    assert "first number is off" in check("probes-experiment", (three - 4, nine)).message
    assert "second number is off" in check("probes-experiment", (three, three)).message
    assert "Both are off" in check("probes-experiment", (1, 2)).message
    assert "numbers of tasks" in check("probes-experiment", (0.4, 0.5)).message
    assert "two numbers" in check("probes-experiment", three).message
    slope = checks.sample_complexity._exponent()
    assert slope == pytest.approx(2, abs=0.25)
    assert check("complexity-experiment", slope)
    assert check("complexity-experiment", np.float64(slope + 0.01))
    assert "grows as the samples do" in check("complexity-experiment", -slope).message
    assert "Half of it" in check("complexity-experiment", slope / 2).message
    assert "is off" in check("complexity-experiment", 3).message
    assert "one number" in check("complexity-experiment", (2.0, 2.0)).message
    shorter = checks.real_layer._half(1, 1) / checks.real_layer._half(4, 4)
    assert check("real-layer-experiment", shorter)
    assert "other way round" in check("real-layer-experiment", 1 / shorter).message
    only = checks.real_layer._half(1, 1) / checks.real_layer._half(1, 4)
    assert "only the embedding" in check("real-layer-experiment", only).message
    assert "anew" in check("real-layer-experiment", 10 * shorter).message
    assert "positive" in check("real-layer-experiment", -2).message
    assert "one number" in check("real-layer-experiment", (7_000, 3_000)).message


@pytest.mark.parametrize(
    "name",
    [
        "bigram-derive",
        "scb-derive",
        "transformer-derive",
        "population-derive",
        "stage-one-derive",
        "stage-two-derive",
        "against-sgd-derive",
        "against-sgd-experiment",
        "transfer-derive",
        "transfer-experiment",
        "limit-derive",
        "probes-derive",
        "softmax-link-derive",
        "real-layer-derive",
        "complexity-derive",
    ],
)
def test_untouched_stub_counts_as_not_answered(name: str) -> None:
    assert check(name, lambda *_: ...) == checks.NOT_YET


def test_unknown_exercise_is_an_error() -> None:
    with pytest.raises(ValueError, match="exercise must be one of"):
        check("no-such-exercise", 1)


@pytest.mark.parametrize("seed", range(5))
def test_query_alone_says_nothing(seed: int) -> None:
    """Chapter 2: E[P X q] = mu for every query, here by summing over every context."""
    task = SCBTask.random(2, 5, 2, mu_ratio=3, seed=seed)
    contexts = np.stack(np.unravel_index(np.arange(2**5), (2,) * 5))  # (T, 2^T)
    probability = task.mu[contexts].prod(axis=0)
    for k in range(2):
        prediction = np.einsum("mtc,t->mc", task.P[:, contexts], task.Q[:, k]) @ probability
        np.testing.assert_allclose(prediction, task.mu, atol=1e-14)


def chapter_functions(chapter: Path) -> dict[str, Any]:
    """Return what the chapter's own cells define: its functions, run here on small data."""
    names: dict[str, Any] = {"np": np, "N": 5}
    for cell in cells(chapter):
        functions = [node for node in ast.parse(source(cell)).body if isinstance(node, ast.FunctionDef)]
        for function in functions:
            if function.name not in names:  # a solution may define an exercise's function again
                exec(compile(ast.Module([function], []), str(chapter), "exec"), names)
    return names


def test_bigram_functions_of_the_chapter() -> None:
    """Chapter 1, definitions: fit, cross_entropy and gain do what their formulas say, term by term."""
    chapter = chapter_functions(CHAPTERS[0])
    tokens = np.random.default_rng(0).choice(5, size=300, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    P = chapter["fit"](tokens, 0.5)
    pairs = list(itertools.pairwise(tokens))
    for n in range(5):
        followers = [later for earlier, later in pairs if earlier == n]
        expected = [(followers.count(m) + 0.5) / (len(followers) + 2.5) for m in range(5)]
        np.testing.assert_allclose(P[:, n], expected)
    assert chapter["cross_entropy"](P, tokens) == pytest.approx(np.mean([-np.log(P[m, n]) for n, m in pairs]))

    distance, weight = 3, 2.0
    counts = chapter["count_triples"](tokens, distance)
    places = [(tokens[t + 1], tokens[t], tokens[t + 1 - distance]) for t in range(distance - 1, len(tokens) - 1)]
    assert counts.sum() == len(places)
    saved = np.zeros(5)
    smoothed = counts.sum(axis=2) + 1
    for m, k, j in places:
        bigram = smoothed[m, k] / smoothed[:, k].sum()
        closer = (places.count((m, k, j)) + weight * bigram) / (counts[:, k, j].sum() + weight)
        saved[k] += np.log(closer / bigram)
    np.testing.assert_allclose(chapter["gain"](counts, counts, weight), saved)


def test_bigram_facts() -> None:
    """Chapter 1: entropy is the floor, counting reaches it, a circular text is stationary, a chain forgets."""
    rng = np.random.default_rng(0)
    tokens = rng.choice(5, size=400, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    counts = np.zeros((5, 5))
    np.add.at(counts, (np.roll(tokens, -1), tokens), 1)  # closed to a circle
    fitted = counts / counts.sum(axis=0)
    frequencies = np.bincount(tokens, minlength=5) / len(tokens)
    np.testing.assert_allclose(fitted @ frequencies, frequencies, atol=1e-15)

    logarithm = np.log(np.where(fitted > 0, fitted, 1))
    least = -(counts * logarithm).sum() / counts.sum()
    for _ in range(50):
        other = rng.dirichlet(np.ones(5), size=5).T
        cross = -(counts * np.log(other)).sum() / counts.sum()
        ratio = np.where(fitted > 0, fitted, 1) / np.where(fitted > 0, other, 1)
        divergence = (counts * np.log(ratio)).sum() / counts.sum()
        assert cross > least
        assert cross == pytest.approx(least + divergence)

    P = (counts + 1) / (counts + 1).sum(axis=0)
    mu, floor = stationary_distribution(P), 1 - 5 * P.min()
    assert np.sort(np.abs(np.linalg.eigvals(P)))[-2] <= floor
    for n in range(5):
        start = np.eye(5)[n]
        for t in (1, 2, 5):
            distance = np.abs(np.linalg.matrix_power(P, t) @ start - mu).sum()
            assert distance <= floor**t * np.abs(start - mu).sum() + 1e-15


def test_device_of_the_chapters_is_explicit_where_numpy_reads_samples() -> None:
    """A chapter that turns samples to NumPy must ask for the CPU, or it would fail where there is a GPU."""
    for chapter in CHAPTERS:
        for call in re.findall(r"(?:task|each|hidden)\.(?:sample|stream)\([^)]*\)", "\n".join(cells(chapter))):
            assert 'device="cpu"' in call, call
    assert torch.get_default_dtype() == torch.float32
