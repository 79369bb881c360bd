"""Chapter 5: what it claims of the first stage, held against exact sums over all samples and against training."""

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import stage_one
from scb_nb import (
    SCBTask,
    align,
    batch_gradients,
    distances,
    fit,
    geometry,
    population_gradients,
    population_loss,
    screening,
    theory,
)
from scb_nb.model import attended_histogram
from scb_nb.stages import Descent, State
from tests.helpers import double, every_sample, parameters, skewed_task
from tests.test_book import cells, source

CHAPTER = Path(__file__).parents[1] / "book" / "stage_one.md"

SMALL = [
    pytest.param(SCBTask.random(3, 3, 2, seed=0, mu_ratio=4), id="skewed mu"),
    pytest.param(SCBTask.random(2, 4, 2, seed=1), id="two tokens"),
    pytest.param(SCBTask.random(3, 3, 1, seed=2, q_floor=1.0), id="uniform mu, one position"),
    pytest.param(skewed_task(), id="very skewed mu"),
]


def chapter() -> dict[str, Any]:
    """Return the functions that the chapter's cells define, those of the solutions in place of the stubs."""
    names: dict[str, Any] = {"np": np, "math": math, "torch": torch, "geometry": geometry, "screening": screening}
    names |= {"State": State, "batch_gradients": batch_gradients}
    for cell in cells(CHAPTER):
        for node in ast.parse(source(cell)).body:
            if isinstance(node, ast.FunctionDef):
                exec(compile(ast.Module([node], []), str(CHAPTER), "exec"), names)
    return names


def allowed(task: SCBTask, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return V and A far off the plane that satisfy the constraints 1^T V = 1^T, V mu = mu, 1^T A = 1^T."""
    _, _, mu = double(task)
    V, A = parameters(task.vocab_size, task.seq_len, seed)
    return mu[:, None] + geometry.centre_V(V, mu), 1 / task.seq_len + geometry.centre_A(A)


@pytest.mark.parametrize("task", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_residuals_brake(task: SCBTask, seed: int) -> None:
    """A step on the mean gradient moves the coordinates as the proposition says, residuals included."""
    _, _, mu = double(task)
    V, A = allowed(task, seed)
    before, eta = align(V, A, task), 0.01
    gradients = population_gradients(V, A, task)
    G_V, G_A = geometry.preconditioned(gradients.V, gradients.A, mu)
    after = align(V - eta * G_V, A - eta * G_A, task)
    flow_V, flow_A = theory.flow(before.alpha_V, before.alpha_A, task.K_P, task.K_Q, task.seq_len)
    assert before.residual_A > 0.1
    assert before.residual_V > 0.1 or task.vocab_size == 2  # where V has one free direction, that of P
    speed_V, speed_A = ((a - b) / eta for a, b in zip(after[:2], before[:2], strict=True))
    assert speed_V == pytest.approx(flow_V - before.residual_A**2 * before.alpha_V, abs=1e-9)
    assert speed_A == pytest.approx(flow_A - before.residual_V**2 * before.alpha_A, abs=1e-9)


@pytest.mark.parametrize("task", SMALL)
@pytest.mark.parametrize("samples", [1, 7])
def test_attention_is_silent(task: SCBTask, samples: int) -> None:
    """At V = v 1^T the projected gradient in A is zero on every batch, whatever v and A are."""
    _, _, mu = double(task)
    random_V, A = parameters(task.vocab_size, task.seq_len, 3)
    V = random_V[:, :1].repeat(1, task.vocab_size)
    gradients = batch_gradients(V, A, task.sample(samples, seed=4, device="cpu"))
    assert gradients.A.abs().max() > 1e-3
    assert geometry.centre_A(gradients.A / mu).abs().max() < 1e-12


@pytest.mark.parametrize("task", SMALL)
def test_signal_and_noise_of_the_first_direction(task: SCBTask) -> None:
    """Direction of one sample, its mean, and its spread about it, over all samples with their probabilities."""
    P, Q, mu = double(task)
    N, T = task.vocab_size, task.seq_len
    start = mu[:, None].repeat(1, N)
    samples, probability = every_sample(task)
    for A in (torch.full_like(Q, 1 / T), Q, allowed(task, 5)[1]):
        w = attended_histogram(A.T.contiguous(), samples)  # (samples, N)
        r = mu - torch.eye(N, dtype=mu.dtype)[samples.target]
        directions = -r[:, :, None] * (w / mu - 1)[:, None, :]  # (samples, N, N)
        for i in (0, 17, len(samples) - 1):
            one = batch_gradients(start, A, samples[i : i + 1])
            torch.testing.assert_close(-geometry.centre_V(one.V / mu, mu), directions[i], rtol=0, atol=1e-12)
        C = geometry.inner(Q, A, mu)
        mean = (probability[:, None, None] * directions).sum(0)
        torch.testing.assert_close(mean, C * (P - mu[:, None]), rtol=0, atol=1e-12)
        spread = probability @ ((directions - mean).square().sum(1) @ mu)
        third = 2 * (mu @ P.sum(1) - N * mu @ mu) * ((Q * A.square()).sum(0) @ mu)
        expected = (N - 1) * (1 - mu @ mu) * geometry.inner(A, A, mu) - C**2 * task.K_P - third
        torch.testing.assert_close(spread, expected, rtol=1e-10, atol=1e-12)
    if np.ptp(task.mu) < 1e-12:
        assert abs(float(mu @ P.sum(1) - N * mu @ mu)) < 1e-12


def test_correlation_follows_the_formula_in_many_dimensions() -> None:
    """The median cosine of the first direction with that of P, against 1 / sqrt(1 + n_star / n)."""
    functions = chapter()
    task_of = [SCBTask.random(10, 60, 2, K_P=0.3, mu_ratio=2, seed=seed) for seed in range(12)]
    multiples = [0.3, 1.0, 3.0]
    measured = np.array([functions["correlations"](task, multiples, seed) for seed, task in enumerate(task_of)])
    expected = 1 / np.sqrt(1 + 1 / np.array(multiples))
    np.testing.assert_allclose(np.median(measured, axis=0), expected, atol=0.06)
    np.testing.assert_allclose(functions["median_in"](400, multiples), expected, atol=0.01)


def unit_direction(task: SCBTask, seed: int) -> torch.Tensor:
    _, _, mu = double(task)
    D = allowed(task, seed)[0] - mu[:, None]
    return D / geometry.norm(D, mu)


def spread_of(D: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Return omega_D^2."""
    return (mu * (D * ((torch.diag(mu) - torch.outer(mu, mu)) @ D)).sum(0)).sum()


@pytest.mark.parametrize("task", SMALL)
def test_what_the_attention_hears(task: SCBTask) -> None:
    """Exactly: the mean, and omega_D^2 as the mean square of what a position off the support hears."""
    P, Q, mu = double(task)
    D = unit_direction(task, 6)
    uniform = torch.full_like(Q, 1 / task.seq_len)
    pull = -geometry.centre_A(population_gradients(mu[:, None] + D, uniform, task).A / mu)
    c = geometry.inner(D, P - mu[:, None], mu) / task.K_P**0.5
    torch.testing.assert_close(pull, c * task.K_P**0.5 * (Q - uniform), rtol=0, atol=1e-12)

    samples, probability = every_sample(task)
    centred = torch.eye(task.vocab_size, dtype=mu.dtype)[samples.target] - mu  # (samples, N)
    heard = (centred @ D).gather(1, samples.tokens)  # (samples, T): D[:, x_t]^T (y - mu)
    for t, k in np.argwhere(~task.support):
        here = probability * (samples.query == k)
        torch.testing.assert_close(here @ heard[:, t].square() / mu[k], spread_of(D, mu))
    if np.ptp(task.mu) < 1e-12:
        assert float(spread_of(D, mu)) == pytest.approx(1 / task.vocab_size)


@pytest.mark.parametrize("mu_ratio", [1.0, 3.0])
def test_noise_level_is_read_off_the_gradient(mu_ratio: float) -> None:
    """At a length of a thousand the corrections are small: deviation, median estimate and formula agree."""
    task = SCBTask.random(3, 1_000, 2, mu_ratio=mu_ratio, K_P=0.3, seed=8)
    _, Q, mu = double(task)
    D, n = unit_direction(task, 7), 3_000
    batch = task.sample(n, seed=9, device="cpu")
    pull = -geometry.centre_A(batch_gradients(mu[:, None] + D, torch.full_like(Q, 1e-3), batch).A / mu)
    expected = (spread_of(D, mu) / (n * mu)).sqrt()
    noise = torch.stack([pull[Q[:, k] == 0, k].std() for k in range(3)])
    torch.testing.assert_close(noise, expected, rtol=0.08, atol=0)
    torch.testing.assert_close(screening.noise_level(pull, mu), expected, rtol=0.08, atol=0)


@pytest.mark.parametrize("task", SMALL)
def test_effective_length(task: SCBTask) -> None:
    _, Q, mu = double(task)

    def length(A: torch.Tensor) -> float:
        return float(geometry.inner(A, A, mu) / geometry.inner(Q, A, mu) ** 2)

    least = 1 / float(geometry.inner(Q, Q, mu))
    assert length(torch.full_like(Q, 1 / task.seq_len)) == pytest.approx(task.seq_len)
    assert length(Q) == pytest.approx(least)
    assert least <= task.sparsity + 1e-12
    for seed in range(10):
        assert length(allowed(task, seed)[1]) >= least - 1e-12


@pytest.mark.parametrize("task", SMALL)
def test_estimated_token_distribution(task: SCBTask) -> None:
    """With another distribution in place of mu, the mean direction is signal plus a bias of second order."""
    P, Q, mu = double(task)
    guess = mu * torch.linspace(0.7, 1.2, len(mu), dtype=mu.dtype)
    guess = guess / guess.sum()
    for A in (torch.full_like(Q, 1 / task.seq_len), allowed(task, 5)[1]):
        gradients = population_gradients(guess[:, None].repeat(1, len(mu)), A, task)
        mean = -geometry.centre_V(gradients.V / guess, guess)
        signal = geometry.inner(Q, A, mu) * (P - mu[:, None]) * (mu / guess)
        torch.testing.assert_close(mean, signal + torch.outer(mu - guess, mu / guess - 1), rtol=0, atol=1e-12)


def test_four_numbers_are_the_exact_path_without_noise() -> None:
    task = SCBTask.random(3, 50, 2, K_P=0.3, seed=1)
    path = chapter()["four_numbers"](task, 200, 0.2, batch_size=10**15)
    exact = theory.trajectory(task, 200, step_size_V=0.2, step_size_A=0.2)
    np.testing.assert_allclose(path[:, :2], exact, atol=1e-6)
    assert path[:, 2:].max() < 1e-5


def test_four_numbers_predict_training_on_batches() -> None:
    """Medians over six runs: coordinates, and the residual of A, which comes to rest where the brake formula says."""
    task, eta, batch_size = SCBTask.random(3, 100, 2, K_P=0.3, q_floor=0.5, seed=1), 0.2, 32
    recipe = Descent(steps=200, batch_size=batch_size, step_size=eta)
    ends = []
    for seed in range(6):
        source = task.stream(seed, device="cpu", share_mu=True)
        history = fit(source, (recipe,), observers=[distances(task)], record_every=200, progress=False).history
        ends.append([history[name][-1] for name in ("alpha_V", "alpha_A", "residual_A")])
    path = chapter()["four_numbers"](task, 200, eta, batch_size)
    np.testing.assert_allclose(np.median(ends, axis=0), path[-1, [0, 1, 3]], rtol=0.08)
    loss = float(population_loss(*theory.on_plane(*path[-1, :2], task), task))
    loss += 0.5 * task.K_P * path[-1, 0] ** 2 * path[-1, 3] ** 2  # what the residual of A adds
    assert path[-1, 3] ** 2 == pytest.approx(1.5 * loss * task.seq_len * eta / batch_size, rel=0.1)


@pytest.mark.parametrize("per_length", [0.2, 0.8])
def test_chance_of_the_wrong_sign(per_length: float) -> None:
    """The linear escape with noise in alpha_V, many times over, against the formula."""
    K_P, K_Q, T, N, eta = 0.3, 0.5, 1_000, 3, 0.05
    rng, runs, rho = np.random.default_rng(0), 20_000, math.sqrt(0.15)
    alpha_V, alpha_A = np.zeros(runs), np.zeros(runs)
    noise = math.sqrt(eta / (per_length * T * N * T * K_P))  # of one step, eta / sqrt(B N T K_P)
    for _ in range(300):
        push = eta * (K_Q * alpha_A + 1 / T) + noise * rng.normal(size=runs)
        alpha_V, alpha_A = alpha_V + push, alpha_A + eta * K_P * alpha_V
    wrong = np.mean(math.sqrt(K_P) * alpha_V + math.sqrt(K_Q) * alpha_A < 0)
    formula = 0.5 * math.erfc(math.sqrt(N * K_P * per_length / rho))
    assert wrong == pytest.approx(formula, abs=0.012)


def test_first_sight_is_predicted_to_grow_like_a_square_root() -> None:
    predicted = chapter()["predicted_first_sight"]
    assert 1.9 < predicted(40_000, 3) / predicted(10_000, 3) < 2.2


def test_best_split_is_the_best() -> None:
    best_split = chapter()["best_split"]
    for n, star in ((10.0, 1_000.0), (500.0, 20.0)):
        grid = np.linspace(0.001, 0.999, 999) * n
        units = grid * (n - grid) / (grid + star)
        assert best_split(n, star) == pytest.approx(grid[units.argmax()], abs=0.002 * n)


@pytest.mark.parametrize("method", [{"method": "large"}, {"method": "small", "ratio": 3.2}])
def test_experiment_reports_every_task(method: dict[str, Any]) -> None:
    size = {"seq_len": 40, "vocab_size": 3, "tasks": 2, "stream": 5}
    result = stage_one.run(**size, **method)
    assert result == stage_one.run(**size, **method)
    assert {len(column) for column in result.values()} == {2}
    assert all(result["finished"])
    assert all(first <= samples for first, samples in zip(result["first"], result["samples"], strict=True))
    if method["method"] == "large":
        assert all(len(rounds) == 4 for rounds in result["rounds"])  # at first sight, and after three rounds
        last = [rounds[-1][:2] for rounds in result["rounds"]]
        assert last == [list(pair) for pair in zip(result["hits"], result["false"], strict=True)]


def test_experiment_counts_failures_as_endless() -> None:
    record = {"result": {"first": [3, None], "samples": [10, 20], "exact": [True, False]}}
    assert stage_one.until(record, "first").tolist() == [3, math.inf]
    assert stage_one.until(record, "exact").tolist() == [10, math.inf]
    sizes = {(each["seq_len"], each["vocab_size"]) for each in stage_one.settings()}
    assert sizes == set(stage_one.SIZES)
