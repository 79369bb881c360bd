"""The task: its stationary distribution, its constants, random tasks, the best predictor, and files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scb_nb import SCBTask, population_loss
from scb_nb.chains import stationary_distribution
from scb_nb.model import predict
from tests.helpers import SEEDS, double, every_sample, skewed_task, tasks


def same(left: SCBTask, right: SCBTask) -> bool:
    """Whether two tasks are equal to the last bit."""
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ("P", "Q", "mu"))


# The stationary distribution


@given(tasks(max_vocab_size=8))
def test_mu_is_the_eigenvector_of_P(task: SCBTask) -> None:
    values, vectors = np.linalg.eig(task.P)
    vector = vectors[:, np.abs(values - 1).argmin()].real
    np.testing.assert_allclose(task.mu, vector / vector.sum(), atol=1e-10)
    np.testing.assert_allclose(task.P @ task.mu, task.mu, atol=1e-15)
    assert task.mu.sum() == pytest.approx(1, abs=1e-15)
    assert (task.mu > 0).all()


@given(st.integers(2, 8), SEEDS)
def test_mu_of_a_sparse_chain(size: int, seed: int) -> None:
    """A random walk with one random step of its own besides a cycle: irreducible, not symmetric, most entries zero."""
    rng = np.random.default_rng(seed)
    stay = rng.uniform(0.01, 0.99, size)
    P = np.diag(stay) + np.roll(np.diag(1 - stay), 1, axis=0)
    weights = 1 / (1 - stay)
    np.testing.assert_allclose(stationary_distribution(P), weights / weights.sum(), rtol=1e-13)


@pytest.mark.parametrize("rare", [1e-6, 1e-12, 1e-100])
def test_mu_is_precise_for_the_rarest_token(rare: float) -> None:
    P = np.array([[1 - rare, 0.2, 0.0], [rare, 0.3, 0.5], [0.0, 0.5, 0.5]])
    mu = stationary_distribution(P)
    np.testing.assert_allclose(mu[1:] / mu[0], [5 * rare, 5 * rare], rtol=1e-13)


def test_mu_of_a_periodic_chain() -> None:
    np.testing.assert_allclose(SCBTask(np.roll(np.eye(4), 1, axis=0), np.ones((1, 4))).mu, 0.25, rtol=1e-15)


# K_P and K_Q


@given(tasks())
def test_signals_match_their_norms(task: SCBTask) -> None:
    P_norm, Q_norm = ((matrix**2 * task.mu).sum() for matrix in (task.P, task.Q))
    assert pytest.approx(P_norm - (task.mu**2).sum(), abs=1e-14) == task.K_P
    assert pytest.approx(Q_norm - 1 / task.seq_len, abs=1e-14) == task.K_Q


@given(tasks())
def test_signals_stay_within_their_limits(task: SCBTask) -> None:
    assert -1e-15 <= task.K_P <= 1 - task.mu @ task.mu + 1e-14
    assert -1e-15 <= task.K_Q <= 1 - 1 / task.seq_len + 1e-14


def test_largest_signals() -> None:
    """A permutation P and one position for each query have all the signal there can be."""
    task = SCBTask(np.roll(np.eye(4), 1, axis=0), np.eye(6)[:, [1, 1, 0, 5]])
    assert pytest.approx(1 - 1 / 4, abs=1e-15) == task.K_P
    assert pytest.approx(1 - 1 / 6, abs=1e-15) == task.K_Q


def test_no_signal() -> None:
    task = SCBTask([[0.3, 0.3], [0.7, 0.7]], np.full((4, 2), 0.25))
    assert pytest.approx(0, abs=1e-15) == task.K_P
    assert task.K_Q == 0
    np.testing.assert_allclose(task.mu, [0.3, 0.7], rtol=1e-15)


def test_sizes_support_and_repr() -> None:
    task = skewed_task()
    assert (task.vocab_size, task.seq_len, task.sparsity) == (4, 3, 3)
    assert np.array_equal(task.support, [[0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1]])
    np.testing.assert_allclose(task.mu, np.array([1, 50, 2, 10]) / 63, rtol=1e-14)
    assert repr(task) == f"SCBTask(vocab_size=4, seq_len=3, sparsity=3, K_P={task.K_P:.3g}, K_Q={task.K_Q:.3g})"


# Random tasks


@st.composite
def settings(draw: st.DrawFn) -> dict[str, float]:
    vocab_size, seq_len = draw(st.integers(1, 12)), draw(st.integers(1, 15))
    return {
        "vocab_size": vocab_size,
        "seq_len": seq_len,
        "sparsity": draw(st.integers(1, seq_len) | st.just(seq_len)),
        "seed": draw(SEEDS),
        "q_floor": draw(st.floats(0, 1)),
        "mu_ratio": draw(st.floats(1, 200)),
    }


@given(settings())
def test_random_task_has_the_asked_sizes_and_mu_ratio(asked: dict) -> None:
    task = SCBTask.random(**asked)
    N = asked["vocab_size"]
    assert (task.vocab_size, task.seq_len, task.sparsity) == (N, asked["seq_len"], asked["sparsity"])
    ratio = asked["mu_ratio"] if N > 1 else 1
    assert task.mu.max() / task.mu.min() == pytest.approx(ratio, rel=1e-9)
    assert task.mu.min() >= 1 / (ratio * N) - 1e-9


@given(settings())
def test_random_task_keeps_every_weight_of_Q_above_its_floor(asked: dict) -> None:
    task = SCBTask.random(**asked)
    assert (task.support.sum(axis=0) == asked["sparsity"]).all()
    assert task.Q[task.support].min() >= asked["q_floor"] / asked["sparsity"] - 1e-15
    even = SCBTask.random(**{**asked, "q_floor": 1.0})
    np.testing.assert_allclose(even.Q[even.support], 1 / asked["sparsity"], rtol=1e-14)


@given(settings(), st.floats(0, 0.98) | st.sampled_from([0.0, 0.98]))
def test_random_task_has_exactly_the_asked_K_P(asked: dict, fraction: float) -> None:
    mu = SCBTask.random(**asked).mu
    K_P = fraction * max(0.0, 1 - float(mu @ mu)) * (1 - 1e-12)
    task = SCBTask.random(**asked, K_P=K_P)
    assert pytest.approx(K_P, abs=1e-9) == task.K_P
    np.testing.assert_allclose(task.mu, mu, rtol=1e-9)


@given(settings())
def test_same_seed_same_task_different_seed_different_task(asked: dict) -> None:
    first, again = SCBTask.random(**asked), SCBTask.random(**asked)
    other = SCBTask.random(**{**asked, "seed": asked["seed"] + 1})
    assert same(first, again)
    assert asked["vocab_size"] == 1 or not np.array_equal(first.P, other.P)


def test_random_positions_and_weights_are_spread_evenly() -> None:
    """Each position is as likely as any other, and so is each part of the weight."""
    task = SCBTask.random(500, 5, 2, seed=0, K_P=0.0, q_floor=0.0)
    read = task.support.sum(axis=1) / 500
    np.testing.assert_allclose(read, 2 / 5, atol=6 * np.sqrt(0.24 / 500))
    largest = task.Q.max(axis=0)  # uniform on [1/2, 1]
    assert largest.mean() == pytest.approx(0.75, abs=6 * np.sqrt(1 / 48 / 500))


def test_default_floor_and_mu() -> None:
    task = SCBTask.random(6, 20, 4, seed=1)
    assert task.Q[task.support].min() >= 0.3 / 4
    np.testing.assert_allclose(task.mu, 1 / 6, rtol=1e-9)


# The best predictor


def bayes_predictions(task: SCBTask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every sample there is: its probability, the prediction P X q, and its answer."""
    batch, weights = every_sample(task)
    P, Q, _ = double(task)
    X = torch.nn.functional.one_hot(batch.tokens, task.vocab_size).double()  # (B, T, N)
    prediction = torch.einsum("mn,btn,tb->bm", P, X, Q[:, batch.query])  # (B, N)
    return weights, prediction, batch.target


TINY = [
    pytest.param(SCBTask.random(2, 4, 2, seed=0, mu_ratio=3), id="N=2 T=4"),
    pytest.param(SCBTask.random(3, 3, 3, seed=1, mu_ratio=10), id="N=3 T=3 dense"),
    pytest.param(SCBTask.random(1, 3, 2, seed=2), id="N=1"),
    pytest.param(SCBTask.random(5, 1, 1, seed=3, mu_ratio=2), id="T=1"),
    pytest.param(skewed_task(), id="skewed"),
    pytest.param(SCBTask(np.roll(np.eye(3), 1, axis=0), np.eye(3)), id="noiseless"),
]


@pytest.mark.parametrize("task", TINY)
def test_bayes_risk_against_every_sample(task: SCBTask) -> None:
    weights, prediction, answer = bayes_predictions(task)
    right = prediction.gather(1, answer[:, None])[:, 0]
    risk = 0.5 * weights @ (1 - 2 * right + prediction.square().sum(1))
    assert task.bayes_risk == pytest.approx(float(risk), abs=1e-14)


@pytest.mark.parametrize("task", TINY)
def test_bayes_cross_entropy_against_every_sample(task: SCBTask) -> None:
    weights, prediction, answer = bayes_predictions(task)
    right = prediction.gather(1, answer[:, None])[:, 0]
    cross_entropy = -(weights[weights > 0] @ right[weights > 0].log())
    assert task.bayes_cross_entropy() == pytest.approx(float(cross_entropy), abs=1e-14)


@given(tasks())
def test_bayes_risk_is_the_loss_at_P_and_Q(task: SCBTask) -> None:
    P, Q, _ = double(task)
    assert task.bayes_risk == pytest.approx(float(population_loss(P, Q, task)), abs=1e-14)


@given(tasks())
def test_bayes_risk_and_cross_entropy_against_their_limits(task: SCBTask) -> None:
    entropy = -float(task.mu @ np.log(task.mu))
    assert -1e-14 <= task.bayes_risk <= 0.5 - 0.5 * float(task.mu @ task.mu) + 1e-14
    assert -1e-14 <= task.bayes_cross_entropy() <= entropy + 1e-14


def test_bayes_risk_and_cross_entropy_against_samples() -> None:
    """Means over 250,000 fixed samples, within five standard errors."""
    task = SCBTask.random(6, 20, 3, seed=4, mu_ratio=8)
    P, Q, _ = double(task)
    batch = task.sample(250_000, seed=5, device="cpu")
    prediction = predict(P, Q, batch)
    right = prediction.gather(1, batch.target[:, None])[:, 0]
    for measured, exact in (
        (0.5 * (1 - 2 * right + prediction.square().sum(1)), task.bayes_risk),
        (-right.log(), task.bayes_cross_entropy()),
    ):
        assert abs(float(measured.mean()) - exact) < 5 * float(measured.std()) / 500


def test_bayes_cross_entropy_says_when_it_would_take_too_much_memory() -> None:
    for vocab_size, sparsity in ((10, 7), (100, 4), (3, 10_000)):
        task = SCBTask.random(vocab_size, sparsity, sparsity, seed=0, K_P=0.0)
        with pytest.raises(ValueError, match=rf"must be at most 10000000 .* got {vocab_size} \*\* {sparsity + 1}"):
            task.bayes_cross_entropy()


# What must not matter


@given(tasks(), SEEDS)
def test_names_of_tokens_and_positions_do_not_matter(task: SCBTask, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, positions = rng.permutation(task.vocab_size), rng.permutation(task.seq_len)
    renamed = SCBTask(task.P[tokens][:, tokens], task.Q[positions][:, tokens])
    np.testing.assert_allclose(renamed.mu, task.mu[tokens], rtol=1e-12)
    for value, expected in (
        (renamed.K_P, task.K_P),
        (renamed.K_Q, task.K_Q),
        (renamed.bayes_risk, task.bayes_risk),
        (renamed.bayes_cross_entropy(), task.bayes_cross_entropy()),
    ):
        assert value == pytest.approx(expected, abs=1e-13)


def test_arrays_are_copies_and_read_only() -> None:
    P, Q = np.full((2, 2), 0.5), np.full((3, 2), 1 / 3)
    task = SCBTask(P, Q)
    P[0, 0], Q[0, 0] = 7, 7
    for array, expected in ((task.P, 0.5), (task.Q, 1 / 3), (task.mu, 0.5)):
        np.testing.assert_allclose(array, expected, rtol=1e-15)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        task.P = P  # type: ignore[misc]


def test_lists_arrays_and_tensors_make_the_same_task() -> None:
    P, Q = [[0.9, 0.2], [0.1, 0.8]], [[1.0, 0.0], [0.0, 1.0]]
    task = SCBTask(P, Q)
    assert same(task, SCBTask(np.array(P), np.array(Q, dtype=int)))
    assert same(task, SCBTask(np.asfortranarray(P), np.asfortranarray(Q)))
    assert same(task, SCBTask(torch.tensor(P, dtype=torch.float64, requires_grad=True), torch.tensor(Q).bfloat16()))


def test_columns_off_by_rounding_are_normalised() -> None:
    float32 = SCBTask.random(50, 300, 20, seed=0).tensors(like=torch.empty((), dtype=torch.float32))
    task = SCBTask(*float32[:2])
    for matrix in (task.P, task.Q):
        np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-14)


def test_tensors_follow_dtype_and_device(device: torch.device) -> None:
    task = skewed_task()
    like = torch.empty((), dtype=torch.float32, device=device)
    for tensor, array in zip(task.tensors(like), (task.P, task.Q, task.mu), strict=True):
        assert (tensor.dtype, tensor.device.type) == (torch.float32, device.type)
        assert np.array_equal(tensor.cpu().numpy(), array.astype(np.float32))


# Files


@given(tasks(max_vocab_size=12, max_seq_len=40))
def test_a_task_rebuilt_from_its_matrices_is_the_same_to_the_last_bit(task: SCBTask) -> None:
    assert same(task, SCBTask(task.P, task.Q))


@pytest.mark.parametrize("seed", range(20))
def test_save_and_load_to_the_last_bit(seed: int, tmp_path: Path) -> None:
    task = SCBTask.random(seed + 1, 30, 7, seed=seed, mu_ratio=20, q_floor=0.1)
    task.save(tmp_path / "task")
    loaded = SCBTask.load(str(tmp_path / "task"))
    assert same(task, loaded)
    assert np.array_equal(*(t.sample(50, seed=1, device="cpu").target.numpy() for t in (task, loaded)))
    assert not loaded.P.flags.writeable


def test_a_saved_task_needs_no_pickle(tmp_path: Path) -> None:
    task = skewed_task()
    task.save(tmp_path / "task.npz")
    with np.load(tmp_path / "task.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["P", "Q"]
        assert np.array_equal(archive["P"], task.P)
        assert np.array_equal(archive["Q"], task.Q)
