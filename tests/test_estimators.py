"""Estimators that are no gradient methods: each against its slow form, what it promises, and what must not matter."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from scb_nb import Batch, SCBTask, align, estimators
from scb_nb.estimators import Estimate, chi_squared, expectation_maximisation, moment_screen, screened_estimate
from scb_nb.model import predict
from tests.helpers import SEEDS, every_sample, few_samples, skewed_task, tasks

TASK = SCBTask.random(3, 200, 2, K_P=0.4, q_floor=0.6, mu_ratio=2, seed=0)


def without_signal(seq_len: int) -> SCBTask:
    """A task whose answers ignore the context; all tokens and answers are equally frequent."""
    return SCBTask.random(3, seq_len, 2, K_P=0.0, seed=0)


def sparse_columns(rng: np.random.Generator, rows: int, columns: int, zeros: float) -> np.ndarray:
    """Random columns that sum to one, some of their entries zero."""
    kept = rng.random((rows, columns)) >= zeros
    kept[rng.integers(rows, size=columns), np.arange(columns)] = True
    weights = rng.exponential(size=(rows, columns)) * kept
    return weights / weights.sum(axis=0)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Batch, np.ndarray, np.ndarray]:
    """A few samples of a task, and a start that has nothing to do with it; zeros in its Q, none in its P."""
    task, seed = draw(tasks()), draw(SEEDS)
    rng = np.random.default_rng(seed)
    P = sparse_columns(rng, task.vocab_size, task.vocab_size, 0.0)
    Q = sparse_columns(rng, task.seq_len, task.vocab_size, draw(st.sampled_from([0.0, 0.3, 0.8])))
    return few_samples(task, draw(st.integers(1, 40)), seed), P, Q


def relabelled(batch: Batch, tokens: np.ndarray, positions: np.ndarray) -> Batch:
    """The same samples where token n is called ``tokens[n]`` and position t is that of ``positions[t]`` before."""
    name = torch.tensor(tokens)
    return Batch(name[batch.tokens[:, positions]], name[batch.query], name[batch.target], batch.vocab_size)


def on_cpu(batch: Batch) -> Batch:
    return Batch(*(tensor.cpu() for tensor in batch), batch.vocab_size)


def some_of(batch: Batch, chosen: torch.Tensor) -> Batch:
    return Batch(*(tensor[chosen] for tensor in batch), batch.vocab_size)


@st.composite
def renamings(draw: st.DrawFn) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A situation, and other names for tokens and positions."""
    batch, P, Q = draw(situations())
    rng = np.random.default_rng(draw(SEEDS))
    return batch, P, Q, rng.permutation(batch.vocab_size), rng.permutation(batch.tokens.shape[1])


# Pearson's statistic


def slow_chi_squared(batch: Batch) -> np.ndarray:
    """Table by table; without the answers and tokens that do not occur, of which scipy wants to hear nothing."""
    N, T = batch.vocab_size, batch.tokens.shape[1]
    statistic = np.zeros((T, N))
    for k in range(N):
        of_query = batch.query == k
        for t in range(T):
            table = np.zeros((N, N))
            for answer, token in zip(batch.target[of_query].tolist(), batch.tokens[of_query, t].tolist(), strict=True):
                table[answer, token] += 1
            table = table[table.any(axis=1)][:, table.any(axis=0)]
            if table.size:
                statistic[t, k] = stats.chi2_contingency(table, correction=False).statistic
    return statistic


@settings(max_examples=40)
@given(situations(), st.sampled_from([1, 7, 1_000]))
def test_chi_squared_against_the_obvious_form(situation: tuple[Batch, np.ndarray, np.ndarray], block: int) -> None:
    """However the samples are cut into blocks; tokens, answers and queries that do not occur are no exception."""
    batch, _, _ = situation
    with mock.patch.object(estimators, "BLOCK_TOKENS", block):
        statistic = chi_squared(batch)
    assert statistic.dtype == torch.float64
    assert statistic.shape == (batch.tokens.shape[1], batch.vocab_size)
    assert statistic.isfinite().all()
    np.testing.assert_allclose(statistic, slow_chi_squared(batch), rtol=1e-12, atol=1e-12)


def test_chi_squared_of_a_table_by_hand() -> None:
    """Answers that are the token at position 0, whatever is at position 1: the number of samples, and none."""
    tokens = [[0, 0], [0, 1], [1, 0], [1, 1]] * 5
    batch = Batch(tokens, [2] * 20, [first for first, _ in tokens], vocab_size=3)
    np.testing.assert_allclose(chi_squared(batch), [[0, 0, 20], [0, 0, 0]], atol=1e-12)


def test_blocks_do_not_matter(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = TASK.sample(700, 1, device=device)
    whole = chi_squared(batch)
    assert whole.device.type == device.type
    np.testing.assert_allclose(whole.cpu(), slow_chi_squared(on_cpu(batch)), rtol=1e-12, atol=1e-12)
    for block in (1, 999, 200 * 699, 200 * 700):
        monkeypatch.setattr(estimators, "BLOCK_TOKENS", block)
        assert torch.equal(chi_squared(batch), whole)


@settings(max_examples=30)
@given(renamings())
def test_names_do_not_matter_to_chi_squared(renaming: tuple) -> None:
    batch, _, _, tokens, positions = renaming
    renamed = chi_squared(relabelled(batch, tokens, positions))
    np.testing.assert_allclose(renamed[:, tokens], chi_squared(batch)[positions], rtol=1e-12, atol=1e-12)


def test_without_a_dependence_it_is_distributed_as_chi_squared() -> None:
    """With (N - 1)^2 degrees of freedom, over 1,200 positions and queries: mean, variance and the whole."""
    statistic = chi_squared(without_signal(400).sample(4_000, 1, device="cpu")).numpy().ravel()
    assert statistic.mean() == pytest.approx(4, abs=4 * math.sqrt(8 / 1_200))
    assert statistic.var() == pytest.approx(8, rel=0.3)
    assert stats.kstest(statistic, stats.chi2(4).cdf).pvalue > 0.01


# The screen


@settings(max_examples=30)
@given(tasks(), st.integers(1, 500), SEEDS, st.floats(0.001, 0.9))
def test_the_screen_written_out(task: SCBTask, size: int, seed: int, false_alarms: float) -> None:
    batch = few_samples(task, size, seed)
    found = moment_screen(batch, false_alarms)
    assert found.dtype == torch.bool
    freedom = (task.vocab_size - 1) ** 2
    if freedom == 0:
        assert not found.any()
    else:
        chance = stats.chi2.sf(chi_squared(batch).numpy(), freedom)
        assert np.array_equal(found.numpy(), chance < false_alarms / chance.size)


def test_screen_keeps_its_false_alarms() -> None:
    """No answer depends on anything: 300 repetitions at a promise of one in five; a standard error is 2.3%.

    What is expected of independent entries is 1 - exp(-1/5) = 18%.
    """
    task = without_signal(100)
    named = [bool(moment_screen(task.sample(600, seed, device="cpu"), 0.2).any()) for seed in range(300)]
    assert 0.11 < np.mean(named) < 0.27


def test_screen_names_few_at_its_default() -> None:
    task = without_signal(100)
    assert sum(bool(moment_screen(task.sample(600, seed, device="cpu")).any()) for seed in range(100)) <= 5


@pytest.mark.parametrize("seed", range(4))
def test_screen_finds_the_support(seed: int, device: torch.device) -> None:
    task = SCBTask.random(2 + seed, 200, 2, K_P=0.4, q_floor=0.6, mu_ratio=1 + seed % 2, seed=seed)
    found = moment_screen(task.sample(20_000, seed, device=device), 0.001)
    assert found.device.type == device.type
    assert np.array_equal(found.cpu().numpy(), task.support)


def test_screen_names_nothing_where_there_is_one_token() -> None:
    task = SCBTask.random(1, 5, 2, seed=0)
    assert moment_screen(few_samples(task, 50, seed=0)).tolist() == [[False]] * 5


def test_screen_names_nothing_for_a_query_that_does_not_occur() -> None:
    batch = TASK.sample(8_000, 1, device="cpu")
    rest = some_of(batch, batch.query != 1)
    found, whole = moment_screen(rest), moment_screen(batch)
    assert not found[:, 1].any()
    assert torch.equal(found[:, [0, 2]], whole[:, [0, 2]])
    assert whole[:, 1].any()


# Expectation maximisation


def likelihood_of(batch: Batch, P: np.ndarray | torch.Tensor, Q: np.ndarray | torch.Tensor) -> float:
    """The mean logarithm of the answers' probabilities, by the model itself."""
    V, A = (matrix if isinstance(matrix, torch.Tensor) else torch.tensor(matrix) for matrix in (P, Q))
    probabilities = predict(V, A, batch)
    return float(probabilities.gather(1, batch.target[:, None]).log().mean())


def slow_iteration(batch: Batch, P: np.ndarray, Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One iteration, a sample and a position at a time."""
    new_P, new_Q = np.zeros_like(P), np.zeros_like(Q)
    for tokens, query, answer in zip(*(tensor.tolist() for tensor in batch), strict=True):
        shares = [Q[t, query] * P[answer, token] for t, token in enumerate(tokens)]
        for t, token in enumerate(tokens):
            new_P[answer, token] += shares[t] / sum(shares)
            new_Q[t, query] += shares[t] / sum(shares)
    for new, old in ((new_P, P), (new_Q, Q)):
        for column in range(new.shape[1]):
            total = new[:, column].sum()
            new[:, column] = new[:, column] / total if total > 0 else old[:, column]
    return new_P, new_Q


@settings(max_examples=40)
@given(situations())
def test_an_iteration_against_the_obvious_form(situation: tuple[Batch, np.ndarray, np.ndarray]) -> None:
    batch, P, Q = situation
    estimate = expectation_maximisation(batch, P, Q, iterations=1)
    expected_P, expected_Q = slow_iteration(batch, P, Q)
    np.testing.assert_allclose(estimate.P, expected_P, rtol=0, atol=1e-13)
    np.testing.assert_allclose(estimate.Q, expected_Q, rtol=0, atol=1e-13)
    assert estimate.P.dtype == estimate.Q.dtype == torch.float64
    assert estimate.iterations == 1
    assert estimate.log_likelihood == pytest.approx(likelihood_of(batch, expected_P, expected_Q), abs=1e-12)


@settings(max_examples=40)
@given(situations())
def test_em_never_lowers_the_likelihood(situation: tuple[Batch, np.ndarray, np.ndarray]) -> None:
    """From any start; columns stay distributions, what is zero stays zero, what did not occur stays as it was."""
    batch, P, Q = situation
    start = likelihood_of(batch, P, Q)
    unseen_tokens = [n for n in range(batch.vocab_size) if not (batch.tokens == n).any()]
    unseen_queries = [k for k in range(batch.vocab_size) if not (batch.query == k).any()]
    estimate = Estimate(torch.tensor(P), torch.tensor(Q), start, 0)
    for _ in range(12):
        before, estimate = estimate, expectation_maximisation(batch, estimate.P, estimate.Q, iterations=1)
        assert estimate.log_likelihood >= before.log_likelihood - 1e-12
        assert estimate.log_likelihood == pytest.approx(likelihood_of(batch, *estimate[:2]), abs=1e-12)
        for matrix in estimate[:2]:
            assert (matrix >= 0).all()
            np.testing.assert_allclose(matrix.sum(0), 1, rtol=0, atol=1e-12)
        assert not estimate.Q[torch.tensor(Q == 0)].any()
        np.testing.assert_allclose(estimate.P[:, unseen_tokens], P[:, unseen_tokens], rtol=0, atol=1e-15)
        np.testing.assert_allclose(estimate.Q[:, unseen_queries], Q[:, unseen_queries], rtol=0, atol=1e-15)


@settings(max_examples=30)
@given(situations(), st.integers(1, 8))
def test_many_iterations_are_many_times_one(situation: tuple[Batch, np.ndarray, np.ndarray], iterations: int) -> None:
    batch, P, Q = situation
    whole = expectation_maximisation(batch, P, Q, iterations=iterations, tolerance=0)
    estimate = Estimate(torch.tensor(P), torch.tensor(Q), 0.0, 0)
    for _ in range(whole.iterations):
        estimate = expectation_maximisation(batch, estimate.P, estimate.Q, iterations=1)
    torch.testing.assert_close(whole.P, estimate.P, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.Q, estimate.Q, rtol=0, atol=1e-12)
    assert whole.log_likelihood == pytest.approx(estimate.log_likelihood, abs=1e-12)
    assert whole.iterations <= iterations


@settings(max_examples=30)
@given(situations(), st.sampled_from([1e-1, 1e-2, 1e-4]))
def test_it_stops_at_the_first_rise_below_the_tolerance(
    situation: tuple[Batch, np.ndarray, np.ndarray], tolerance: float
) -> None:
    batch, P, Q = situation
    estimate = expectation_maximisation(batch, P, Q, iterations=60, tolerance=tolerance)
    path = [likelihood_of(batch, P, Q)]
    for count in range(1, estimate.iterations + 1):
        path.append(expectation_maximisation(batch, P, Q, iterations=count, tolerance=0).log_likelihood)
    rises = np.diff(path)
    assert len(rises) >= 1
    assert (rises[:-1] >= tolerance - 1e-12).all()
    assert rises[-1] < tolerance + 1e-12 or estimate.iterations == 60
    assert path[-1] == pytest.approx(estimate.log_likelihood, abs=1e-12)


def test_iterations_are_at_most_a_thousand_unless_told_otherwise() -> None:
    """And a tolerance of zero goes on as long as anything rises."""
    batch = few_samples(skewed_task(), 300, seed=0)
    P, Q = (sparse_columns(np.random.default_rng(0), rows, 4, 0) for rows in (4, 3))
    short, long = (expectation_maximisation(batch, P, Q, tolerance=tolerance) for tolerance in (1e-7, 1e-10))
    assert 10 < short.iterations < long.iterations < 1_000
    assert expectation_maximisation(batch, P, Q, iterations=short.iterations).iterations == short.iterations
    assert expectation_maximisation(batch, P, Q, iterations=short.iterations - 1).iterations == short.iterations - 1
    with mock.patch.object(estimators, "_columns", side_effect=lambda counts, otherwise: otherwise):  # nothing moves
        assert expectation_maximisation(batch, P, Q, tolerance=0).iterations == 1_000
        assert expectation_maximisation(batch, P, Q).iterations == 1


def test_a_fixed_point_stops_at_once() -> None:
    """With one position P is a matter of counting; and where it came to its end, it stays."""
    tokens, answers = [0, 0, 0, 1, 1, 2], [0, 0, 1, 2, 2, 0]
    batch = Batch([[token] for token in tokens], [0, 1, 2, 0, 1, 2], answers, vocab_size=3)
    P = np.array([[2 / 3, 0, 1], [1 / 3, 0, 0], [0, 1, 0]])
    there = expectation_maximisation(batch, P, np.ones((1, 3)))
    assert there.iterations == 1
    np.testing.assert_allclose(there.P, P, rtol=0, atol=1e-15)
    assert there.log_likelihood == pytest.approx((2 * math.log(2 / 3) + math.log(1 / 3)) / 6)
    found = expectation_maximisation(batch, np.full((3, 3), 1 / 3), np.ones((1, 3)))
    np.testing.assert_allclose(found.P, P, rtol=0, atol=1e-15)
    assert found.iterations == 2
    samples = few_samples(skewed_task(), 100, seed=1)
    rng = np.random.default_rng(1)
    end = expectation_maximisation(samples, *(sparse_columns(rng, rows, 4, 0) for rows in (4, 3)), tolerance=1e-10)
    again = expectation_maximisation(samples, end.P, end.Q, tolerance=1e-9)
    assert again.iterations == 1
    torch.testing.assert_close(again.Q, end.Q, rtol=0, atol=1e-3)


def test_started_at_the_truth_it_stays_near(device: torch.device) -> None:
    """And the likelihood is at least that of the truth, on these samples."""
    for task in (SCBTask.random(3, 5, 2, K_P=0.4, seed=0), skewed_task(), SCBTask.random(4, 60, 3, K_P=0.3, seed=1)):
        batch = task.sample(40_000, 1, device=device)
        estimate = expectation_maximisation(batch, task.P, task.Q)
        assert estimate.P.device.type == estimate.Q.device.type == device.type
        estimate = estimate._replace(P=estimate.P.cpu(), Q=estimate.Q.cpu())
        alignment = align(estimate.P, estimate.Q, task)
        assert alignment.error_V < 0.02
        assert alignment.error_A < 0.02
        assert np.array_equal(estimate.Q > 0, task.support)
        truth = likelihood_of(on_cpu(batch), task.P, task.Q)
        assert truth <= estimate.log_likelihood < truth + 0.001
        assert estimate.log_likelihood == pytest.approx(-task.bayes_cross_entropy(), abs=0.01)


def test_the_truth_is_a_fixed_point_over_every_sample() -> None:
    """Each sample there is, as often as its probability says: a multiple of 1 / 1296."""
    task = SCBTask([[0.5, 0.25], [0.5, 0.75]], [[0.5, 0.0], [0.5, 0.75], [0.0, 0.25]])  # mu is (1/3, 2/3)
    samples, weights = every_sample(task)
    copies = (1_296 * weights).round().long()
    np.testing.assert_allclose(copies / 1_296, weights, rtol=0, atol=1e-8)
    batch = Batch(*(tensor.repeat_interleave(copies, dim=0) for tensor in samples), 2)
    estimate = expectation_maximisation(batch, task.P, task.Q)
    np.testing.assert_allclose(estimate.P, task.P, rtol=0, atol=1e-12)
    np.testing.assert_allclose(estimate.Q, task.Q, rtol=0, atol=1e-12)
    assert estimate.iterations == 1
    assert estimate.log_likelihood == pytest.approx(-task.bayes_cross_entropy(), abs=1e-12)


@settings(max_examples=30)
@given(renamings())
def test_names_and_order_do_not_matter_to_em(renaming: tuple) -> None:
    """Nor does it matter whether all samples are there twice."""
    batch, P, Q, tokens, positions = renaming
    plain = expectation_maximisation(batch, P, Q, iterations=6, tolerance=0)
    other_P, other_Q = np.zeros_like(P), np.zeros_like(Q)
    other_P[np.ix_(tokens, tokens)], other_Q[:, tokens] = P, Q[positions]
    renamed = expectation_maximisation(
        relabelled(batch, tokens, positions), other_P, other_Q, iterations=6, tolerance=0
    )
    backwards = Batch(*(tensor.flip(0).repeat(2, *[1] * (tensor.ndim - 1)) for tensor in batch), batch.vocab_size)
    twice = expectation_maximisation(backwards, P, Q, iterations=6, tolerance=0)
    assume(plain.iterations == renamed.iterations == twice.iterations)  # at rest, rounding decides when it stops
    np.testing.assert_allclose(renamed.P[np.ix_(tokens, tokens)], plain.P, rtol=0, atol=1e-11)
    np.testing.assert_allclose(renamed.Q[:, tokens], plain.Q[positions], rtol=0, atol=1e-11)
    np.testing.assert_allclose(twice.P, plain.P, rtol=0, atol=1e-11)
    np.testing.assert_allclose(twice.Q, plain.Q, rtol=0, atol=1e-11)
    assert renamed.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-12)
    assert twice.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-12)


def test_answers_that_cannot_occur_are_refused() -> None:
    """At the start; also where only a position that the query may not read allows them."""
    batch = Batch([[0, 1], [1, 1]], [0, 0], [0, 1], vocab_size=2)
    for P, Q in (
        ([[1, 0], [0, 1]], [[0, 0], [1, 1]]),
        ([[1, 1], [0, 0]], [[0.5, 0.5], [0.5, 0.5]]),
    ):
        with pytest.raises(ValueError, match="P and Q must allow every answer of the batch, but some have probability"):
            expectation_maximisation(batch, P, Q)
    assert expectation_maximisation(batch, [[1, 0], [0, 1]], [[1, 0], [0, 1]]).log_likelihood == 0


def test_the_start_is_left_alone() -> None:
    batch = few_samples(skewed_task(), 100, seed=0)
    P, Q = (torch.tensor(sparse_columns(np.random.default_rng(0), rows, 4, 0)) for rows in (4, 3))
    copies = P.clone(), Q.clone()
    estimate = expectation_maximisation(batch, P, Q)
    assert torch.equal(P, copies[0])
    assert torch.equal(Q, copies[1])
    single = expectation_maximisation(batch, P.float(), Q.float())
    assert single.P.dtype == torch.float64
    assert single.log_likelihood == pytest.approx(estimate.log_likelihood, abs=1e-6)


# Screen, then EM


@pytest.mark.parametrize("seed", range(4))
def test_a_few_thousand_samples_are_enough(seed: int, device: torch.device) -> None:
    task = SCBTask.random(3, 200, 2, K_P=0.4, q_floor=0.6, mu_ratio=1 + seed % 2, seed=seed)
    estimate = screened_estimate(task.sample(6_000, seed, device=device))
    assert {tensor.dtype for tensor in estimate[:2]} == {torch.float64}
    assert {tensor.device.type for tensor in estimate[:2]} == {device.type}
    P, Q = (tensor.cpu() for tensor in estimate[:2])
    assert np.array_equal(Q > 0, task.support)
    alignment = align(P, Q, task)
    assert alignment.error_V < 0.04
    assert alignment.error_A < 0.04
    for matrix in (P, Q):
        np.testing.assert_allclose(matrix.sum(0), 1, rtol=0, atol=1e-12)


def test_it_is_the_screen_and_then_em_from_the_frequencies() -> None:
    batch = TASK.sample(6_000, 1, device="cpu")
    for false_alarms in (0.01, 0.9):
        found = moment_screen(batch, false_alarms).numpy()
        assert found.any(axis=0).all()
        frequencies = np.bincount(batch.target, minlength=3) / 6_000
        P, Q = np.tile(frequencies[:, None], 3), found / found.sum(axis=0)
        expected = expectation_maximisation(batch, P, Q)
        estimate = screened_estimate(batch, false_alarms)
        torch.testing.assert_close(estimate.P, expected.P, rtol=0, atol=1e-9)
        torch.testing.assert_close(estimate.Q, expected.Q, rtol=0, atol=1e-9)
        assert estimate.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-9)
    assert not np.array_equal(moment_screen(batch, 0.01), moment_screen(batch, 0.9))


def test_without_a_signal_answers_are_counted(device: torch.device) -> None:
    """Also if some answer never occurs."""
    batch = without_signal(50).sample(900, 7, device=device)
    two = Batch(batch.tokens, batch.query, batch.target % 2, 3)
    for samples in (batch, two):
        estimate = screened_estimate(samples, 1e-6)
        frequencies = np.bincount(samples.target.cpu(), minlength=3) / 900
        assert estimate.P.dtype == estimate.Q.dtype == torch.float64
        assert estimate.P.device.type == estimate.Q.device.type == device.type
        np.testing.assert_allclose(estimate.P.cpu(), np.tile(frequencies[:, None], 3), rtol=0, atol=1e-15)
        assert (estimate.Q == 1 / 50).all()
        assert estimate.iterations == 0
        seen = frequencies[samples.target.cpu()]
        assert estimate.log_likelihood == pytest.approx(np.log(seen).mean(), abs=1e-12)


def test_a_query_without_a_position_attends_everywhere_alike() -> None:
    """Its samples do not count, but for the frequencies from which P starts; the other queries are estimated."""
    whole = TASK.sample(12_000, 1, device="cpu")
    rare = (whole.query == 1).nonzero()[:30, 0]  # of query 1 only thirty samples are left
    kept = whole.query != 1
    kept[rare] = True
    batch = some_of(whole, kept)
    estimate = screened_estimate(batch)
    assert (estimate.Q[:, 1] == 1 / 200).all()
    others = [0, 2]
    assert np.array_equal(estimate.Q[:, others] > 0, TASK.support[:, others])
    error = ((estimate.Q.numpy() - TASK.Q)[:, others] ** 2).sum(axis=0)
    assert (error < 0.04**2).all()
    assert float((estimate.P - torch.tensor(TASK.P)).abs().max()) < 0.04
    tokens = batch.tokens.clone()
    tokens[batch.query == 1] = 2 - tokens[batch.query == 1]
    again = screened_estimate(Batch(tokens, batch.query, batch.target, 3))
    assert torch.equal(again.P, estimate.P)
    assert torch.equal(again.Q, estimate.Q)
    assert again[2:] == estimate[2:]
    seen = some_of(batch, batch.query != 1)
    assert estimate.log_likelihood == pytest.approx(likelihood_of(seen, estimate.P, estimate.Q))


def test_a_query_that_does_not_occur_attends_everywhere_alike() -> None:
    whole = TASK.sample(8_000, 1, device="cpu")
    estimate = screened_estimate(some_of(whole, whole.query != 0))
    assert (estimate.Q[:, 0] == 1 / 200).all()
    assert np.array_equal(estimate.Q[:, 1:] > 0, TASK.support[:, 1:])


@pytest.mark.parametrize("seed", range(3))
def test_names_do_not_matter_to_the_estimate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch, tokens, positions = TASK.sample(5_000, seed, device="cpu"), rng.permutation(3), rng.permutation(200)
    plain, renamed = screened_estimate(batch), screened_estimate(relabelled(batch, tokens, positions))
    np.testing.assert_allclose(renamed.P[np.ix_(tokens, tokens)], plain.P, rtol=0, atol=1e-9)
    np.testing.assert_allclose(renamed.Q[:, tokens], plain.Q[positions], rtol=0, atol=1e-9)
    assert renamed.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-11)
    assert renamed.iterations == plain.iterations


def test_one_token_says_nothing() -> None:
    estimate = screened_estimate(few_samples(SCBTask.random(1, 4, 2, seed=0), 20, seed=0))
    assert estimate.P.tolist() == [[1]]
    assert estimate.Q.tolist() == [[0.25]] * 4
    assert (estimate.log_likelihood, estimate.iterations) == (0, 0)
