"""The chapter "How far from the limit?", proposition by proposition; tests/test_estimators.py holds the estimators."""

import ast
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import double, every_sample, few_samples, start_of
from test_book import cells, source

from scb_nb import Batch, SCBTask, align, batch_gradients, fit, geometry, screening
from scb_nb.estimators import chi_squared, expectation_maximisation, screened_estimate

CHAPTER = Path(__file__).parents[1] / "book" / "limit.md"


def chapter_function(name: str) -> Any:
    """Return a function that the chapter defines, run here on other data."""
    for cell in cells(CHAPTER):
        for node in ast.parse(source(cell)).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                names: dict[str, Any] = {"np": np, "math": math, "product": product, "torch": torch}
                exec(compile(ast.Module([node], []), str(CHAPTER), "exec"), names)
                return names[name]
    raise AssertionError(f"the chapter defines no {name}")


def contingency(task: SCBTask) -> float:
    return float((task.mu * (task.P - task.mu[:, None]) ** 2 / task.mu[:, None]).sum())


def tables(batch: Batch, mu: torch.Tensor) -> torch.Tensor:
    """The matrices D_t^(k) of a batch, from their definition; shape (T, N, N, N): position, query, answer, token."""
    N = len(mu)
    one_hot = torch.eye(N, dtype=torch.float64)
    answers, tokens = one_hot[batch.target] - mu, one_hot[batch.tokens] / mu - 1  # (B, N), (B, T, N)
    queries = one_hot[batch.query] / mu / len(batch)  # (B, N)
    return torch.einsum("bk,bm,btn->tkmn", queries, answers, tokens)


def known_task(seed: int) -> SCBTask:
    return SCBTask.random(3, 4, 1 + seed % 3, mu_ratio=1 + 2 * (seed % 3), seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_how_loud_a_position_is(seed: int) -> None:
    """The joint distribution and the noncentrality, by summing over every sample there is."""
    task = known_task(seed)
    samples, weight = every_sample(task)
    for k, t in product(range(3), range(4)):
        joint = np.zeros((3, 3))
        chosen = (samples.query == k).numpy()
        np.add.at(joint, (samples.target[chosen], samples.tokens[chosen, t]), weight[chosen].numpy() / task.mu[k])
        q, independent = task.Q[t, k], np.outer(task.mu, task.mu)
        np.testing.assert_allclose(joint, independent * (1 + q * (task.P / task.mu[:, None] - 1)), atol=1e-14)
        noncentrality = ((joint - independent) ** 2 / independent).sum()
        assert noncentrality == pytest.approx(q**2 * contingency(task), abs=1e-13)
    if seed % 3 == 0:
        assert contingency(task) == pytest.approx(3 * task.K_P)


def test_noncentrality_is_what_the_statistic_gains() -> None:
    """Its mean over 200 batches, for skewed mu: degrees of freedom plus noncentrality, within 4 standard errors."""
    task = SCBTask.random(3, 5, 2, mu_ratio=3, K_P=0.2, q_floor=1.0, seed=4)
    batch = task.sample(200 * 3_000, seed=1, device="cpu")
    values = torch.stack([chi_squared(batch[start : start + 3_000]) for start in range(0, len(batch), 3_000)])
    noncentrality = 3_000 * task.mu * task.Q**2 * contingency(task)  # (T, N)
    errors = values.std(0).numpy() / math.sqrt(200)
    assert np.abs(values.mean(0).numpy() - 4 - noncentrality).max() < 4 * errors.max()


@pytest.mark.parametrize("seed", range(4))
def test_the_floor_does_not_know_the_length(seed: int) -> None:
    """Neither its formula nor the estimate itself: the same samples with other positions between those that count."""
    short = SCBTask.random(3, 3, 2, K_P=0.3, q_floor=0.5, seed=seed)
    moved = np.zeros((40, 3))
    moved[[5, 17, 30]] = short.Q
    long = SCBTask(short.P, moved)
    floor_constants = chapter_function("floor_constants")
    np.testing.assert_allclose(floor_constants(short, draws=500), floor_constants(long, draws=500))
    batch = long.sample(500, seed, device="cpu")
    part = Batch(batch.tokens[:, [5, 17, 30]], batch.query, batch.target, 3)
    ours, theirs = (expectation_maximisation(b, task.P, task.Q) for b, task in ((part, short), (batch, long)))
    torch.testing.assert_close(ours.P, theirs.P)
    torch.testing.assert_close(ours.Q, theirs.Q[[5, 17, 30]])


def test_floor_constants_against_many_batches() -> None:
    """The likelihood's errors on 200 batches, whose median is off by 4% or so, and those of descent on the squares."""
    task = SCBTask.random(3, 4, 2, K_P=0.3, q_floor=0.5, mu_ratio=2, seed=3)
    likelihood, squares = chapter_function("floor_constants")(task)
    batch = task.sample(200 * 4_000, seed=2, device="cpu")
    reached, squared = [], []
    P, Q, mu = double(task)
    support, size = torch.tensor(task.support), 4_000
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        estimate = expectation_maximisation(part, task.P, task.Q)
        reached.append(max(align(estimate.P, estimate.Q, task)[-2:]))
        if start >= 60 * size:
            continue
        V, A = P, Q
        for _ in range(60):
            gradients = batch_gradients(V, A, part)
            V = V - 0.7 * (gradients.V / mu - (gradients.V / mu).mean(0))
            A = A - 0.7 * geometry.centre_A(gradients.A / mu, support)
        squared.append(max(align(V, A, task)[-2:]))
    assert np.median(reached) ** 2 * size == pytest.approx(likelihood, rel=0.15)
    assert np.median(squared) ** 2 * size == pytest.approx(squares, rel=0.3)
    assert likelihood < squares < 1.3 * likelihood


@pytest.mark.parametrize("seed", range(4))
def test_one_projection_of_what_the_screen_hears(seed: int) -> None:
    """Mean, direction and pull, exactly."""
    task = known_task(seed)
    _, _, mu = double(task)
    batch = few_samples(task, 60, seed)
    own = tables(batch, mu)
    start = start_of(task)
    direction = -geometry.centre_V(batch_gradients(start.V, start.A, batch).V / mu, mu)
    torch.testing.assert_close(torch.einsum("tkmn,k->mn", own, mu) / 4, direction)

    D = geometry.centre_V(torch.tensor(np.random.default_rng(seed).normal(size=(3, 3))), mu)
    D = D - D.mean(0)
    torch.testing.assert_close(D @ mu, torch.zeros(3).double(), rtol=0, atol=1e-14)
    pull = -batch_gradients(start.V + D, start.A, batch).A / mu
    projected = torch.einsum("tkmn,mn,n->tk", own, D, mu)
    w = torch.eye(3).double()[batch.tokens].mean(1)  # (B, N)
    second = (w @ D.T) @ D  # (B, N): (D w)^T D
    queries = torch.eye(3).double()[batch.query] / mu / len(batch)
    projected -= queries.T.matmul(second.gather(1, batch.tokens)).T
    torch.testing.assert_close(geometry.centre_A(pull), geometry.centre_A(projected))

    samples, weight = every_sample(task)
    P, Q, _ = double(task)
    one_hot = torch.eye(3, dtype=torch.float64)
    mean = torch.einsum(
        "b,bk,bm,btn->tkmn",
        weight,
        one_hot[samples.query] / mu,
        one_hot[samples.target] - mu,
        one_hot[samples.tokens] / mu - 1,
    )
    torch.testing.assert_close(mean, Q[:, :, None, None] * (P - mu[:, None]), rtol=0, atol=1e-13)


def test_length_of_a_table_is_pearson_s_statistic() -> None:
    """For uniform mu and margins as expected; and no direction of length one hears more than all of it."""
    N, T = 3, 3
    contexts = np.array(list(product(range(N), repeat=T)))
    rows = [
        (context, k, answer)
        for k in range(N)
        for context in contexts
        for answer in (context[0], (context[k] + 1) % N, (2 * context[1] + context[2]) % N)
    ]
    tokens, query, target = zip(*rows, strict=True)
    batch = Batch(np.array(tokens), query, target, N)
    mu = torch.full((N,), 1 / N, dtype=torch.float64)
    own = tables(batch, mu)
    squares = torch.einsum("tkmn,tkmn,n->tk", own, own, mu)
    torch.testing.assert_close(len(batch) * squares, chi_squared(batch))
    assert squares.max() > 0.05
    rng = np.random.default_rng(0)
    for _ in range(50):
        D = geometry.centre_V(torch.tensor(rng.normal(size=(N, N))), mu)
        D = (D - D.mean(0)) / geometry.norm(D - D.mean(0), mu)
        assert (torch.einsum("tkmn,mn,n->tk", own, D, mu) ** 2 <= squares + 1e-12).all()


def test_listening_to_the_same_samples() -> None:
    """The mean of the term, over 4,000 batches within 4 standard errors; query 0 reads position 0, nobody reads 1."""
    task = SCBTask(SCBTask.random(3, 1, 1, mu_ratio=2, K_P=0.3, seed=1).P, np.eye(5)[:, [0, 2, 3]])
    _, _, mu = double(task)
    n, T, repetitions = 20, 5, 4_000
    batch = task.sample(n * repetitions, seed=3, device="cpu")
    terms = torch.zeros(repetitions, 3, dtype=torch.float64)
    for i in range(repetitions):
        own = tables(batch[n * i : n * (i + 1)], mu)[1]  # (query, answer, token)
        together = torch.einsum("k,kmn->mn", mu, own)
        terms[i] = torch.einsum("mn,kmn,n->k", together, own, mu) / T
    expected = 2 * (1 - float(mu @ mu)) / (n * T)
    errors = terms.std(0) / math.sqrt(repetitions)
    assert ((terms.mean(0) - expected).abs() < 4 * errors).all()


@pytest.mark.parametrize("seq_len", [200, 1_000])
def test_the_same_samples_are_as_good_as_fresh_ones(seq_len: int) -> None:
    """Heights of the pulls, less what the correlation of V makes them: no drift, and the noise that is claimed."""
    own = {True: [], False: []}
    levels = {True: [], False: []}
    for seed in range(16):
        task = SCBTask.random(3, seq_len, 2, K_P=0.3, q_floor=0.5, seed=seed)
        P, Q, mu = double(task)
        source, start = task.stream(seed, device="cpu"), start_of(task)
        batch = source.draw(1_500)
        D = -geometry.centre_V(batch_gradients(start.V, start.A, batch).V / mu, mu)
        D = D / geometry.norm(D, mu)
        signal = geometry.inner(D, P - mu[:, None], mu) * Q * math.sqrt(1_500)
        for same in (True, False):
            heard = batch if same else source.draw(1_500)
            pull = -batch_gradients(start.V + D, start.A, heard).A / mu
            level = screening.noise_level(pull, mu)
            levels[same].append(float(level.mean()) * math.sqrt(1_500))
            own[same].append((((pull - pull.median(0).values) / level) - signal)[torch.tensor(task.support)])
    for same in (True, False):
        heights = torch.cat(own[same])  # 96 of them
        assert abs(float(heights.mean())) < 0.4
        assert 0.8 < float(heights.std()) < 1.35
        assert np.mean(levels[same]) == pytest.approx(1.0, rel=0.05)


def test_em_from_anywhere_overfits_or_takes_the_wrong_sign() -> None:
    """Starts on all positions: above the floor in likelihood and far from the truth, or far below with alpha_V < 0."""
    above, below = [], []
    for seed in range(2):
        task = SCBTask.random(3, 30, 2, K_P=0.3, q_floor=0.5, seed=seed)
        batch = task.sample(3_000, 1, device="cpu")
        floor = expectation_maximisation(batch, task.P, task.Q)
        rng = np.random.default_rng(seed)
        for _ in range(6):
            start = [rng.dirichlet(np.ones(size), size=3).T for size in (3, 30)]
            end = expectation_maximisation(batch, *start, tolerance=1e-6)
            gain = end.log_likelihood - floor.log_likelihood
            (above if gain > 0 else below).append((gain, align(end.P, end.Q, task)))
        error = max(align(floor.P, floor.Q, task)[-2:])
        assert all(found.error_A > 2 * error for _, found in above)
    assert above
    assert below
    assert np.median([gain for gain, _ in above]) == pytest.approx(30 * 3 / (4 * 3_000), rel=0.35)
    assert all(gain < -0.05 and found.alpha_V < 0 for gain, found in below)


def test_training_on_your_own_samples_keeps_up() -> None:
    """The live comparison of the chapter, on other tasks: 4,000 samples, repeated, against screen and EM."""
    ratios, exact = [], []
    for seed in range(6):
        task = SCBTask.random(3, 500, 2, K_P=0.3, q_floor=0.5, seed=200 + seed)
        batch = task.sample(4_000, seed, device="cpu")
        trained, screened = fit(batch), screened_estimate(batch)
        ours = max(align(trained.V, trained.A, task)[-2:])
        ratios.append(ours / max(align(screened.P, screened.Q, task)[-2:]))
        exact.append(bool((trained.support.numpy() == task.support).all()))
    assert sum(exact) >= 5
    assert np.median(ratios) < 1.5
