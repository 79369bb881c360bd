"""The chapter "Is stage 1 necessary?", proposition by proposition; tests/test_probes.py holds the stage."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers import double, few_samples, start_of
from scipy import special, stats
from test_limit import tables

from experiments import price, probes
from scb_nb import Batch, SCBTask, batch_gradients, geometry, store
from scb_nb.estimators import chi_squared
from scb_nb.probes import random_probes
from scb_nb.theory import align


def random_units(d: int, count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("N", [3, 4])
def test_how_much_one_draw_hears(N: int) -> None:
    """The distribution of c^2 for drawn probes, the tail at zero, and a mean of 1 / c^2 that does not exist."""
    d = (N - 1) ** 2
    task = SCBTask.random(N, 5, 2, K_P=0.3, seed=1)
    P, _, mu = double(task)
    D_P = P - mu[:, None]
    squares = np.array(
        [
            float(geometry.inner(random_probes(mu, 1, seed)[0], D_P, mu) / geometry.norm(D_P, mu)) ** 2
            for seed in range(400)
        ]
    )
    law = stats.beta(0.5, (d - 1) / 2)
    assert stats.kstest(squares, law.cdf).pvalue > 0.01
    assert law.mean() == pytest.approx(1 / d)
    for x in (1e-4, 1e-6):
        assert law.cdf(x) == pytest.approx(2 * math.sqrt(x) / special.beta(0.5, (d - 1) / 2), rel=d * x)
    cuts = [1e-4, 1e-8, 1e-12]
    parts = [law.expect(lambda x: 1 / x, lb=cut, ub=2 * cut) for cut in cuts]
    assert parts[1] > 50 * parts[0]  # each stretch towards zero adds more
    assert parts[2] > 50 * parts[1]


def centred(batch: Batch, mu: torch.Tensor, k: int, t: int) -> np.ndarray:
    """The centred table of one query and position, entry by entry."""
    N = len(mu)
    table = np.zeros((N, N))
    for tokens, query, target in zip(*batch, strict=True):
        if query == k:
            for m, n in product(range(N), repeat=2):
                table[m, n] += (float(target == m) - float(mu[m])) * (float(tokens[t] == n) - float(mu[n]))
    return table


@pytest.mark.parametrize("seed", range(4))
def test_all_probes_together_are_the_screen(seed: int) -> None:
    """Squared and summed, for any samples and any mu, and any basis."""
    N = 3 + seed % 2
    task = SCBTask.random(N, 4, 2, mu_ratio=1 + 2 * (seed // 2), seed=seed)
    _, _, mu = double(task)
    batch = few_samples(task, 90, seed)
    covariance = torch.diag(mu) - torch.outer(mu, mu)
    basis = random_probes(mu, (N - 1) ** 2, seed)
    for k, t in product(range(N), (0, 3)):
        chosen = batch.query == k
        answers = torch.eye(N).double()[batch.target[chosen]] - mu
        total = 0.0
        for D in basis:
            pull = float((answers * D.T[batch.tokens[chosen, t]]).sum(1).mean())
            unit = math.sqrt(float((mu * (D * (covariance @ D)).sum(0)).sum()) / int(chosen.sum()))
            total += (pull / unit) ** 2
        C = centred(batch, mu, k, t)
        expected = (C**2 / np.outer(mu, mu)).sum() / int(chosen.sum())
        assert total == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(6, 6, 6), (3, 6, 9)])
def test_centred_tables_are_pearson_s_where_margins_are_as_expected(counts: tuple[int, int, int]) -> None:
    """For uniform and skewed mu: a table with margins n mu and n mu, one query, the other positions whatever."""
    mu = np.array(counts) / sum(counts)
    rng = np.random.default_rng(0)
    tokens = np.repeat(np.arange(3), counts)
    for _ in range(5):
        target = np.sort(tokens)[rng.permutation(len(tokens))]
        batch = Batch(np.stack([tokens, rng.permutation(tokens)], axis=1), np.zeros_like(tokens), target, 3)
        C = centred(batch, torch.tensor(mu), 0, 0)
        with np.errstate(all="ignore"):
            statistic = chi_squared(batch)[0, 0]
        assert (C**2 / np.outer(mu, mu)).sum() / len(tokens) == pytest.approx(float(statistic))


def test_sums_of_squares_are_close_to_the_screen_on_samples() -> None:
    """By gradients, with the noise that is read off: nearly Pearson's statistic, for positions read and not read."""
    for mu_ratio in (1.0, 3.0):
        task = SCBTask.random(3, 400, 2, K_P=0.3, q_floor=0.5, mu_ratio=mu_ratio, seed=3)
        _, _, mu = double(task)
        batch, start = task.sample(3_000, 1, device="cpu"), start_of(task)
        queries = torch.bincount(batch.query, minlength=3)
        total = torch.zeros(400, 3, dtype=torch.float64)
        for D in random_probes(mu, 4, seed=2):
            pull = -batch_gradients(start.V + D, start.A, batch).A / queries
            omega = (mu * (D * ((torch.diag(mu) - torch.outer(mu, mu)) @ D)).sum(0)).sum().sqrt()
            total += ((pull - pull.mean(0)) * len(batch) / omega * queries.sqrt()).square()
        ratio = total / chi_squared(batch)
        assert float(ratio.median()) == pytest.approx(1, abs=0.03)
        support = torch.tensor(task.support)
        torch.testing.assert_close(ratio[support], torch.ones_like(ratio[support]), rtol=0, atol=0.15)
        assert np.corrcoef(total.flatten(), chi_squared(batch).flatten())[0, 1] > 0.99


@pytest.mark.parametrize(("H", "d"), [(1, 4), (3, 4), (4, 16), (27, 81)])
def test_the_share_that_probes_keep(H: int, d: int) -> None:
    units = random_units(d, 20_000, seed=H)
    share = (units[:, :H] ** 2).sum(axis=1)
    law = stats.beta(H / 2, (d - H) / 2)
    assert stats.kstest(share, law.cdf).pvalue > 0.01
    assert share.mean() == pytest.approx(H / d, rel=0.03)
    if H > 2:
        assert law.expect(lambda x: 1 / x) == pytest.approx((d - 2) / (H - 2), rel=1e-3)
    else:
        parts = [law.expect(lambda x: 1 / x, lb=cut, ub=2 * cut) for cut in (1e-6, 1e-10)]
        assert parts[1] > parts[0]


@pytest.mark.parametrize("count", [4, 2])
def test_what_the_probes_say_of_V(count: int) -> None:
    """The least of the squared loss by autograd, the direction of V with all probes, and the sign of a probe."""
    task = SCBTask.random(3, 6, 2, mu_ratio=3.0, seed=2)
    _, Q, mu = double(task)
    batch = few_samples(task, 200, 1)
    start, A = start_of(task), 0.7 * Q + 0.3 / 6
    own = tables(batch, mu)  # (T, N, N, N): position, query, answer, token

    def combine(basis: torch.Tensor) -> torch.Tensor:
        s = torch.einsum("k,tk,tkmn,hmn,n->h", mu, A, own, basis, mu)
        gram = torch.einsum("gmn,hmn,n->gh", basis, basis, mu)
        theta = torch.linalg.solve(gram, s) / geometry.norm(A, mu) ** 2
        return torch.einsum("h,hmn->mn", theta, basis)

    basis = random_probes(mu, count, seed=0)
    D = combine(basis)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).double()[:count, None, None]
    torch.testing.assert_close(combine(signs * basis), D)

    # The loss whose curvature is taken in expectation: its slope at mu 1^T is that of the samples.
    slope = batch_gradients(start.V, A, batch).V
    theta = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    V = torch.einsum("h,hmn->mn", theta, basis)
    loss = (slope * V).sum() + 0.5 * geometry.norm(A, mu) ** 2 * geometry.inner(V, V, mu)
    (at_zero,) = torch.autograd.grad(loss, theta)
    hessian = torch.autograd.functional.hessian(
        lambda each: (
            0.5
            * geometry.norm(A, mu) ** 2
            * geometry.inner(torch.einsum("h,hmn->mn", each, basis), torch.einsum("h,hmn->mn", each, basis), mu)
        ),
        torch.zeros(count, dtype=torch.float64),
    )
    least = torch.einsum("h,hmn->mn", torch.linalg.solve(hessian, -at_zero), basis)
    torch.testing.assert_close(D, least)
    direction = -geometry.centre_V(slope / mu, mu) / geometry.norm(A, mu) ** 2
    if count == 4:
        torch.testing.assert_close(D, direction)
    else:
        assert float(geometry.norm(D - direction, mu)) > 1e-3


def test_curvature_of_combinations_in_expectation() -> None:
    """1/2 ||D||^2 ||A||^2 over many samples, within 2%."""
    task = SCBTask.random(3, 6, 2, mu_ratio=3.0, seed=2)
    _, Q, mu = double(task)
    A = 0.7 * Q + 0.3 / 6
    D = random_probes(mu, 1, seed=1)[0]
    batch = task.sample(60_000, 2, device="cpu")
    one_hot = torch.eye(3, dtype=torch.float64)
    w = torch.einsum("btn,bt->bn", one_hot[batch.tokens], A.T[batch.query])
    measured = float((w @ D.T).square().sum(1).mean())
    assert measured == pytest.approx(float(geometry.norm(A, mu) ** 2), rel=0.02)


# What was measured, and what is claimed of it


@pytest.fixture(scope="module")
def kept() -> list[store.Record]:
    return store.kept("probes")


def sight(kept: list[store.Record], method: str, T: int, N: int = 3, count: int = 4) -> np.ndarray:
    wanted = {"method": method, "seq_len": T, "vocab_size": N, "count": count, "mu_ratio": 1.0}
    (found,) = probes.select(kept, what="sight", **wanted)
    return probes.until(found["result"])


def test_first_sight_of_all_probes_hardly_grows_and_that_of_a_large_step_does(kept: list[store.Record]) -> None:
    def slope(method: str, count: int) -> float:
        medians = [np.median(sight(kept, method, T, count=count)) for T in price.LENGTHS]
        return float(np.polyfit(np.log(price.LENGTHS), np.log(medians), 1)[0])

    assert 0 < slope("again", 4) < 0.25
    assert slope("probes", 4) < 0.25
    assert slope("large step", 0) > 0.3
    longest = price.LENGTHS[-1]
    assert np.median(sight(kept, "large step", longest, count=0)) > 5 * np.median(sight(kept, "again", longest))
    assert sight(kept, "again", longest).max() < 1_000
    assert np.isinf(sight(kept, "probes", longest, count=1)).any()


def test_fewer_probes_need_more_samples(kept: list[store.Record]) -> None:
    for N, counts in probes.COUNTS.items():
        medians = [np.median(sight(kept, "probes", probes.MIDDLE, N, count)) for count in counts]
        assert medians[0] > 2 * medians[-1]
        assert all(later <= 1.3 * earlier for earlier, later in pairwise(medians))


def test_second_look_names_all_positions_earlier(kept: list[store.Record]) -> None:
    for N in (5, 10):
        d = (N - 1) ** 2
        medians = {}
        for method, count in (("again", d), ("probes", d), ("screen", 0)):
            wanted = {"method": method, "seq_len": probes.MIDDLE, "vocab_size": N, "count": count}
            (record,) = probes.select(kept, what="sight", **wanted)
            medians[method] = np.median(probes.until(record["result"], 2 * N))
        assert medians["again"] < 0.85 * min(medians["probes"], medians["screen"])


def test_probes_need_fewer_samples_for_a_small_error_than_large_steps(kept: list[store.Record]) -> None:
    reported = np.arange(price.CHOOSING, price.CHOOSING + price.TASKS)
    longest = price.LENGTHS[-1]
    ours = price.crossing(probes.best_curve(kept, longest, 0.05), 0.05, reported)
    theirs, _, _ = price.samples_for(store.kept("price"), "large steps, once", longest, 0.05)
    assert ours < theirs / 2


def test_kept_runs_are_of_today_and_can_be_done_again(kept: list[store.Record]) -> None:
    """One task of one setting, again: the same numbers."""
    assert {record["origin"]["code"] for record in kept} == {store.code_digest(probes.run)}
    (record,) = probes.select(kept, what="sight", method="again", seq_len=200, vocab_size=3)
    settings = {key: value for key, value in record["settings"].items() if key != "what"}
    row = probes.sight(**settings, number=3)
    assert {name: values[3] for name, values in record["result"].items()} == row


def test_live_run_agrees_with_the_kept_ones(kept: list[store.Record]) -> None:
    """On other tasks: the share of tasks with a first sight is zero well below what is kept, and one well above."""
    median = np.median(sight(kept, "again", 500))
    for factor, share in ((0.25, 0.0), (4.0, 1.0)):
        seen = []
        for seed in range(8):
            task = SCBTask.random(3, 500, 2, K_P=0.3, q_floor=0.5, seed=500 + seed)
            (row,) = probes.supports("again", task, 4, seed, [round(factor * median)])
            seen.append(bool(row[1].any(0).double().mean() >= 0.6))
        assert abs(np.mean(seen) - share) <= 0.13


def test_first_v_of_all_probes_points_along_P() -> None:
    task = SCBTask.random(3, 1_000, 2, K_P=0.3, q_floor=0.5, seed=77)
    state = start_of(task)
    assert probes.Probes(batch_size=1_500).step(state, task.stream(1, device="cpu"))
    found = align(state.V, state.A, task)
    assert found.alpha_V > 0.7
    assert found.residual_V < 0.2
