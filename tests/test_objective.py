"""The loss and its gradients: fast against obvious, closed form against autodiff, enumeration and samples."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scb_nb import (
    Batch,
    Gradients,
    LinearTransformer,
    SCBTask,
    batch_gradients,
    geometry,
    population_gradients,
    population_loss,
)
from scb_nb.model import predict
from scb_nb.objective import reference_gradients
from tests.helpers import SEEDS, double, every_sample, few_samples, parameters, skewed_task, tasks


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Arbitrary samples of arbitrary sizes, from no task at all."""
    N, T, B = draw(st.integers(1, 6)), draw(st.integers(1, 7)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(SEEDS))
    return Batch(rng.integers(N, size=(B, T)), rng.integers(N, size=B), rng.integers(N, size=B), N)


def fitting(batch: Batch, seed: int, like: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return parameters(batch.vocab_size, batch.tokens.shape[1], seed, like)


def assert_gradients_close(left: Gradients, right: Gradients, tolerance: float) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Predictions


@given(batches(), SEEDS)
def test_prediction_is_V_X_a(batch: Batch, seed: int) -> None:
    """Sample by sample, with X (N, T) written out."""
    V, A = fitting(batch, seed)
    rows = predict(V, A, batch)
    assert rows.shape == (len(batch), batch.vocab_size)
    for row, tokens, query in zip(rows, batch.tokens, batch.query, strict=True):
        X = torch.zeros(batch.vocab_size, len(tokens), dtype=torch.float64)
        for position, token in enumerate(tokens):
            X[token, position] = 1
        torch.testing.assert_close(row, V @ X @ A[:, query], rtol=0, atol=1e-13)


@given(tasks(), SEEDS)
def test_predictions_at_P_and_Q_are_distributions(task: SCBTask, seed: int) -> None:
    P, Q, _ = double(task)
    prediction = predict(P, Q, few_samples(task, 20, seed))
    torch.testing.assert_close(prediction.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (prediction >= 0).all()


def test_model_predicts_and_autograd_gives_the_gradients(device: torch.device) -> None:
    batch = skewed_task().sample(50, seed=0, device=device)
    V, A = parameters(4, 3, seed=1)
    model = LinearTransformer(V.to(device), A.to(device))
    torch.testing.assert_close(model(batch), predict(model.V, model.A, batch), rtol=0, atol=0)
    answers = torch.nn.functional.one_hot(batch.target, 4)
    loss = 0.5 * (answers - model(batch)).square().sum(1).mean()
    loss.backward()
    assert model.V.grad is not None
    assert model.A.grad is not None
    by_hand = Gradients(loss.detach(), model.V.grad, model.A.grad)
    assert_gradients_close(by_hand, batch_gradients(model.V, model.A, batch), 1e-12)


def test_uniform_model() -> None:
    model = LinearTransformer.uniform([0.2, 0.3, 0.5], 4, dtype=torch.float64, device="cpu")
    expected = torch.tensor([[0.2] * 3, [0.3] * 3, [0.5] * 3], dtype=torch.float64)
    torch.testing.assert_close(model.V.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.A.detach(), torch.full((4, 3), 0.25, dtype=torch.float64), rtol=0, atol=0)
    assert model.V.requires_grad
    assert model.A.requires_grad


# On a batch: the fast form against the obvious one


@given(batches(), SEEDS)
def test_fast_gradients_match_the_reference(batch: Batch, seed: int) -> None:
    V, A = fitting(batch, seed)
    assert_gradients_close(batch_gradients(V, A, batch), reference_gradients(V, A, batch), 1e-10)


@given(tasks(), st.integers(1, 30), SEEDS)
def test_fast_gradients_match_the_reference_on_samples_of_a_task(task: SCBTask, size: int, seed: int) -> None:
    batch = few_samples(task, size, seed)
    V, A = fitting(batch, seed)
    assert_gradients_close(batch_gradients(V, A, batch), reference_gradients(V, A, batch), 1e-10)


@given(batches(), SEEDS)
def test_fast_gradients_match_the_reference_in_float32(batch: Batch, seed: int) -> None:
    V, A = fitting(batch, seed, like=torch.empty((), dtype=torch.float32))
    assert_gradients_close(batch_gradients(V, A, batch), reference_gradients(V, A, batch), 1e-4)


@given(batches(), SEEDS, st.lists(st.integers(0, 9), max_size=4))
def test_parts_of_a_batch_count_as_the_batch(batch: Batch, seed: int, cuts: list[int]) -> None:
    """Whatever the cuts, empty parts included, and whether the parts come in a list or are made on the way."""
    V, A = fitting(batch, seed)
    ends = sorted([0, *(min(cut, len(batch)) for cut in cuts), len(batch)])
    parts = [batch[start:stop] for start, stop in pairwise(ends)]
    whole = reference_gradients(V, A, batch)
    assert_gradients_close(batch_gradients(V, A, parts), whole, 1e-10)
    assert_gradients_close(batch_gradients(V, A, iter(parts)), whole, 1e-10)


def test_chunks_of_a_stream_count_as_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scb_nb.stream.BLOCK_TOKENS", 40)  # ten samples a block
    task = skewed_task()
    V, A = parameters(4, 3, seed=1)
    chunked = batch_gradients(V, A, task.stream(7, device="cpu").chunks(123))
    assert_gradients_close(chunked, reference_gradients(V, A, task.sample(123, seed=7, device="cpu")), 1e-10)


def test_loss_and_gradients_worked_out_by_hand() -> None:
    """One sample: w = (A[0,1], A[1,1]) = (0.5, 0.25), V w = (0.5, 1.5), r = V w - onehot(1) = (0.5, 0.5)."""
    V, A = torch.tensor([[1.0, 0.0], [2.0, 2.0]]), torch.tensor([[9.0, 0.5], [9.0, 0.25]])
    loss, gradient_V, gradient_A = batch_gradients(V, A, Batch([[0, 1]], [1], [1], 2))
    assert float(loss) == 0.25
    assert gradient_V.tolist() == [[0.25, 0.125], [0.25, 0.125]]
    assert gradient_A.tolist() == [[0.0, 1.5], [0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_dtype_and_device(dtype: torch.dtype, device: torch.device) -> None:
    task = skewed_task()
    like = torch.empty((), dtype=dtype, device=device)
    V, A = parameters(4, 3, seed=0, like=like)
    batch = task.sample(200, seed=0, device=device)
    results = [
        (predict(V, A, batch),),
        batch_gradients(V, A, batch),
        reference_gradients(V, A, batch),
        (population_loss(V, A, task),),
        population_gradients(V, A, task),
    ]
    for tensor in (tensor for result in results for tensor in result):
        assert (tensor.dtype, tensor.device) == (dtype, V.device)
    assert_gradients_close(results[1], results[2], 1e-4 if dtype == torch.float32 else 1e-10)


def test_parameters_are_left_alone() -> None:
    """No gradient is left behind, no entry changed, and parameters of a model serve as well as plain tensors."""
    task = skewed_task()
    batch = task.sample(10, seed=0, device="cpu")
    model = LinearTransformer(*parameters(4, 3, seed=0))
    before = model.V.detach().clone(), model.A.detach().clone()
    for gradients in (batch_gradients(model.V, model.A, batch), reference_gradients(model.V, model.A, batch)):
        assert not any(tensor.requires_grad for tensor in gradients)
    assert model.V.grad is None
    assert model.A.grad is None
    assert torch.equal(model.V, before[0])
    assert torch.equal(model.A, before[1])


# In the population: closed form against autodiff, enumeration, samples


@given(tasks(), SEEDS)
def test_population_gradients_match_autodiff(task: SCBTask, seed: int) -> None:
    V, A = parameters(task.vocab_size, task.seq_len, seed)
    V.requires_grad_()
    A.requires_grad_()
    loss = population_loss(V, A, task)
    loss.backward()
    assert V.grad is not None
    assert A.grad is not None
    exact = population_gradients(V.detach(), A.detach(), task)
    assert_gradients_close(exact, Gradients(loss.detach(), V.grad, A.grad), 1e-12)


TINY = [
    pytest.param(SCBTask.random(2, 3, 2, seed=0, mu_ratio=4), id="N=2 T=3"),
    pytest.param(SCBTask.random(3, 2, 2, seed=1, mu_ratio=10), id="N=3 T=2 dense"),
    pytest.param(SCBTask.random(3, 1, 1, seed=2, mu_ratio=2), id="T=1"),
    pytest.param(SCBTask.random(1, 3, 2, seed=3), id="N=1"),
    pytest.param(skewed_task(), id="skewed"),
]


@pytest.mark.parametrize("task", TINY)
def test_population_loss_against_every_sample(task: SCBTask) -> None:
    batch, weights = every_sample(task)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    V, A = fitting(batch, seed=4)
    answers = torch.nn.functional.one_hot(batch.target, task.vocab_size)
    losses = 0.5 * (answers - predict(V, A, batch)).square().sum(1)
    assert float(population_loss(V, A, task)) == pytest.approx(float(weights @ losses), abs=1e-12)


@pytest.mark.parametrize("task", TINY)
def test_batch_gradients_are_unbiased(task: SCBTask) -> None:
    """Weighted by their probabilities, the gradients of all single samples add up to the population's."""
    batch, weights = every_sample(task)
    V, A = fitting(batch, seed=5)
    mean = [torch.zeros(()), torch.zeros_like(V), torch.zeros_like(A)]
    for index, weight in enumerate(weights):
        single = batch_gradients(V, A, batch[index : index + 1])
        mean = [total + weight * part for total, part in zip(mean, single, strict=True)]
    assert_gradients_close(Gradients(*mean), population_gradients(V, A, task), 1e-12)


def test_population_loss_and_gradients_against_samples() -> None:
    """Means over 200 batches, each entry in standard errors (of the spread among batches); the seed is fixed."""
    task = SCBTask.random(6, 30, 3, seed=6, mu_ratio=5)
    V, A = parameters(6, 30, seed=7)
    stream = task.stream(8, device="cpu")
    results = [batch_gradients(V, A, stream.draw(500)) for _ in range(200)]
    for name, limit in (("loss", 5), ("V", 6), ("A", 6)):
        values = torch.stack([getattr(result, name) for result in results])
        exact = getattr(population_gradients(V, A, task), name)
        scores = (values.mean(0) - exact) / (values.std(0) / np.sqrt(len(results)))
        assert scores.abs().max() < limit


@given(tasks())
def test_gradients_vanish_at_P_and_Q(task: SCBTask) -> None:
    P, Q, _ = double(task)
    _, gradient_V, gradient_A = population_gradients(P, Q, task)
    assert gradient_V.abs().max() < 1e-14
    assert gradient_A.abs().max() < 1e-14


@given(tasks(), SEEDS)
def test_no_parameters_beat_P_and_Q(task: SCBTask, seed: int) -> None:
    P, Q, _ = double(task)
    V, A = parameters(task.vocab_size, task.seq_len, seed)
    for size in (1e-3, 0.1, 1.0):
        assert float(population_loss(P + size * V, Q + size * A, task)) >= task.bayes_risk - 1e-13


# At the start of training


@given(tasks(), st.integers(1, 20), SEEDS)
def test_projected_gradient_in_A_vanishes_on_every_batch_at_the_start(task: SCBTask, size: int, seed: int) -> None:
    """At V = mu 1^T every token pulls alike, so no batch, however noisy, says where to look, whatever A is."""
    batch = few_samples(task, size, seed)
    _, _, mu = double(task)
    _, A = fitting(batch, seed)
    V = mu[:, None].repeat(1, len(mu))
    assert geometry.centre_A(batch_gradients(V, A, batch).A).abs().max() < 1e-12
    assert geometry.centre_A(population_gradients(V, A, task).A).abs().max() < 1e-12


@given(tasks())
def test_gradient_in_V_at_the_start_is_the_signal_over_seq_len(task: SCBTask) -> None:
    """At V = mu 1^T, A = 1 1^T / T the preconditioned, projected direction is -(P - mu 1^T) / T, and nothing in A."""
    P, Q, mu = double(task)
    V, A = mu[:, None].expand_as(P), torch.full_like(Q, 1 / task.seq_len)
    gradients = population_gradients(V, A, task)
    step_V, step_A = geometry.preconditioned(gradients.V, gradients.A, mu)
    torch.testing.assert_close(step_V, -(P - mu[:, None]) / task.seq_len, rtol=0, atol=1e-12)
    assert step_A.abs().max() < 1e-12
