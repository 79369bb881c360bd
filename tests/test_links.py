"""The links: Jacobians and descent against autograd and PyTorch's own loop, heads against loops written by hand."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from scb_nb import SCBTask, fit, links, proximal
from scb_nb.links import HEADS, LINKS, LinkDescent, attention, logits, pull_back
from scb_nb.model import predict
from scb_nb.objective import reference_gradients
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import SparseDescent, Stage, State
from tests.helpers import SEEDS, double, every_sample, parameters, small_stream, start_of

TASK = SCBTask.random(3, 40, 2, K_P=0.4, mu_ratio=2, seed=0)
RATES = {
    ("linear", "sgd"): (0.2, 0.01),
    ("softmax", "sgd"): (0.2, 30.0),
    ("sparsemax", "sgd"): (0.2, 0.05),
    ("linear", "momentum"): (0.05, 0.001),
    ("softmax", "momentum"): (0.05, 5.0),
    ("sparsemax", "momentum"): (0.05, 0.01),
    ("linear", "adam"): (0.02, 0.01),
    ("softmax", "adam"): (0.02, 0.1),
    ("sparsemax", "adam"): (0.02, 0.01),
}
MAKE = {
    "sgd": torch.optim.SGD,
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adam": torch.optim.Adam,
}
every_link = pytest.mark.parametrize("link", LINKS)


def descent(link: str, optimizer: str, **changes: Any) -> LinkDescent:
    V, W = RATES[link, optimizer]
    settings = {"steps": 8, "batch_size": 11, "step_size": V, "step_size_W": W, **changes}
    return LinkDescent(link=link, optimizer=optimizer, **settings)  # type: ignore[arg-type]


def somewhere(dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> State:
    """A state with nothing special about it whose attention all links can make, in part zero."""
    start = State.uniform(torch.tensor(TASK.mu, dtype=dtype, device=device), TASK.seq_len)
    V, A = parameters(3, 40, 0, like=start.V)
    return replace(start, V=V, A=proximal.project_simplex(A / 4))


def like_torch(W: torch.Tensor, link: str) -> torch.Tensor:
    """Attention that autograd can go through: for sparsemax, the projection onto the support that it has."""
    if link == "linear":
        return W
    if link == "softmax":
        return torch.softmax(W, dim=0)
    support = proximal.project_simplex(W.detach()) > 0
    return (W + (1 - (W * support).sum(0)) / support.sum(0)) * support


# Over positions


@every_link
def test_attention_and_its_logits(link: str, device: torch.device) -> None:
    _, W = parameters(3, 40, 1, like=torch.empty((), dtype=torch.float64, device=device))
    A = attention(W, link)
    torch.testing.assert_close(A, like_torch(W, link))
    torch.testing.assert_close(attention(logits(A, link), link), A)
    if link != "linear":
        assert (A >= 0).all()
        torch.testing.assert_close(A.sum(0), torch.ones_like(A[0]))
        torch.testing.assert_close(attention(W + torch.arange(3, device=device), link), A)
        uneven = A * torch.tensor([1.01, 0.99, 1.0], device=device)
        for wrong in (W, 2 * A, A / 2, 2 * A - 1 / 40, uneven, A - 1 / 40 + 1e-2 * W, A * math.nan):
            with pytest.raises(ValueError, match="A must have probability vectors"):
                logits(wrong, link)
    assert ((A == 0).any()) == (link == "sparsemax")


@every_link
@given(seed=SEEDS, spread=st.sampled_from([0.01, 1.0, 5.0]))
def test_pull_back_is_the_transposed_jacobian(link: str, seed: int, spread: float) -> None:
    gradient, W = (parameters(3, 6, seed + each)[1] for each in (0, 1))
    W = (spread * W).requires_grad_()
    if link == "sparsemax":
        heights = proximal.project_simplex(W.detach())
        gap = (W.detach() - heights).max(0).values - W.detach()  # how far below the shift
        if (gap.abs() < 1e-6).any():
            return  # on a kink
    (expected,) = torch.autograd.grad(like_torch(W, link), W, gradient)
    found = pull_back(gradient, attention(W.detach(), link), link)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize(("link", "optimizer"), RATES)
def test_descent_is_the_loop_of_torch(
    link: str, optimizer: str, decay: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Autograd goes through model and link; one optimiser for all steps."""
    stage, start = descent(link, optimizer, decay=decay), somewhere(dtype, device)

    if link == "softmax":
        start = replace(start, A=(start.A + 0.01) / (start.A + 0.01).sum(0))
    V, W = (torch.nn.Parameter(matrix.clone()) for matrix in (start.V, logits(start.A, link)))
    optimiser = MAKE[optimizer]([{"params": [V], "lr": RATES[link, optimizer][0]}, {"params": [W], "lr": 0.0}])
    stream, state, own = small_stream(TASK, 3, device=device), start, small_stream(TASK, 3, device=device)
    for done in range(stage.steps):
        left = 2 * (stage.steps - done) / stage.steps if decay and done > stage.steps / 2 else 1.0
        for group, rate in zip(optimiser.param_groups, RATES[link, optimizer], strict=True):
            group["lr"] = left * rate
        A = like_torch(W, link)
        optimiser.zero_grad()
        gradients = reference_gradients(V.detach(), A.detach(), own.draw(11))
        V.grad = gradients.V
        A.backward(gradients.A)
        optimiser.step()
        before = (state.V, state.A, state.V.clone(), state.A.clone())
        assert stage.step(state, stream) == (done + 1 == stage.steps)
        state.step += 1
        assert torch.equal(before[0], before[2])
        assert torch.equal(before[1], before[3])
        assert state.loss == pytest.approx(float(gradients.loss), rel=1e-4)
        tolerance = 1e-10 if dtype == torch.float64 else 2e-3
        torch.testing.assert_close(state.V, V.detach(), rtol=0, atol=tolerance)
        torch.testing.assert_close(state.A, like_torch(W, link).detach(), rtol=0, atol=tolerance)
    assert state.V.dtype == state.A.dtype == dtype
    assert stream.position == 88
    assert torch.equal(state.mu, somewhere(dtype, device).mu)


@pytest.mark.parametrize("optimizer", MAKE)
@pytest.mark.parametrize("decay", [False, True])
def test_linear_link_is_plain_descent(optimizer: str, decay: bool) -> None:
    rates = {"step_size": 0.05, "optimizer": optimizer, "decay": decay, "steps": 9, "batch_size": 11}
    one = fit(small_stream(TASK, 1), [LinkDescent(link="linear", step_size_W=0.003, **rates)], record_every=1)  # type: ignore[arg-type]
    two = fit(small_stream(TASK, 1), [PlainDescent(step_size_A=0.003, **rates)], record_every=1)  # type: ignore[arg-type]
    assert torch.equal(one.V, two.V)
    assert torch.equal(one.A, two.A)
    assert np.array_equal(one.history["loss"], two.history["loss"], equal_nan=True)


def test_exponentiated_gradient_multiplies_and_normalises() -> None:
    """Each entry by exp(-rate * gradient), on the same batches."""
    stage = descent("softmax", "sgd", mirror=True, step_size_W=2.0)
    state, source, own = start_of(TASK), small_stream(TASK, 2), small_stream(TASK, 2)
    V, A = state.V, state.A
    for _ in range(stage.steps):
        gradients = reference_gradients(V, A, own.draw(11))
        V, A = V - stage.step_size * gradients.V, A * torch.exp(-2.0 * gradients.A)
        A = A / A.sum(0)
        stage.step(state, source)
        state.step += 1
        torch.testing.assert_close(state.A, A, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.V, V, rtol=0, atol=1e-12)
    plain = fit(small_stream(TASK, 2), [replace(stage, mirror=False)], dtype=torch.float64)
    assert not torch.allclose(plain.A, A, rtol=0, atol=1e-5)


def test_mirror_sparsemax_remembers_what_it_excludes() -> None:
    """Lazy projection: logits move off the support too, and come back; with the Jacobian they never do."""
    task = SCBTask.random(3, 40, 2, K_P=0.6, q_floor=0.8, seed=1)
    P, Q, mu = double(task)
    wrong = torch.zeros_like(Q)
    wrong[(Q == 0).int().argmax(0), torch.arange(3)] = 1.0
    start = replace(State.uniform(mu, 40), V=P, A=wrong)
    for mirror in (False, True):
        stage = LinkDescent(
            link="sparsemax", optimizer="sgd", steps=400, batch_size=64, step_size=0.0, step_size_W=0.1, mirror=mirror
        )
        end = fit(small_stream(task, 1), [stage], start=start)
        if mirror:
            assert ((end.A > 0.1) == (Q > 0)).all()
        else:
            assert torch.equal(end.A, wrong)


@every_link
def test_descent_learns_and_goes_on_from_any_start(link: str) -> None:
    rates = {"linear": (0.8, 0.1), "softmax": (0.8, 100.0), "sparsemax": (0.8, 0.3)}[link]
    task = SCBTask.random(3, 60, 2, K_P=0.6, q_floor=0.8, seed=1)
    stage = LinkDescent(
        link=link,  # type: ignore[arg-type]
        optimizer="sgd",
        steps=400,
        batch_size=64,
        step_size=rates[0],
        step_size_W=rates[1],
        decay=True,
    )
    result = fit(small_stream(task, 1), [stage])
    assert (result.A.topk(2, dim=0).values.sum(0) > 0.7).all()
    truth = torch.tensor(task.support)
    assert ((result.A * truth).sum(0) > 0.7).all()
    if link != "linear":
        assert result.A.sum(0).sub(1).abs().max() < 1e-5
    again = fit(small_stream(task, 2), [replace(stage, steps=1, step_size_W=0.0)], start=result.state)
    torch.testing.assert_close(again.A, result.A, rtol=0, atol=1e-6)


def test_zero_attention_stays_zero_under_softmax(device: torch.device) -> None:
    """A logarithm of zero is a logit like others: nothing becomes NaN."""
    for optimizer, mirror in product(MAKE, (False, True)):
        start = somewhere(device=device)
        end = fit(small_stream(TASK, 1, device=device), [descent("softmax", optimizer, mirror=mirror)], start=start)
        assert torch.equal(end.A > 0, start.A > 0)
        assert not torch.equal(end.A, start.A)


def test_one_step_size_is_for_both() -> None:
    one, both = (descent("softmax", "sgd", step_size=0.5, step_size_W=rate) for rate in (None, 0.5))
    first, second = (fit(small_stream(TASK, 1), [stage]) for stage in (one, both))
    assert torch.equal(first.A, second.A)
    assert not torch.equal(first.A, start_of(TASK).A.float())


def test_a_start_that_no_logits_make_is_refused() -> None:
    start = replace(somewhere(), A=2 * somewhere().A)
    with pytest.raises(ValueError, match="A must have probability vectors"):
        fit(small_stream(TASK, 1), [descent("softmax", "sgd")], start=start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("link", "optimizer", "loss"), [(*pair, "squared") for pair in RATES] + [("softmax", "adam", "cross-entropy")]
)
def test_it_can_be_stopped_and_resumed_at_every_step(
    link: str, optimizer: str, loss: str, dtype: torch.dtype, device: torch.device, tmp_path: Path
) -> None:
    stages: tuple[Stage, ...] = (
        descent(link, optimizer, steps=4, mirror=True, loss=loss),
        descent(link, optimizer, steps=5, decay=True),
        Trim(false_alarms=0.5),
        SparseDescent(steps=2, batch_size=11, step_size=0.1, passes=1),
    )
    options: dict[str, Any] = {"record_every": 1, "dtype": dtype}
    whole = fit(small_stream(TASK, 1, device=device), stages, **options)
    path, samples = tmp_path / "run.npz", 0
    while True:
        part = fit(small_stream(TASK, 1, device=device), stages, max_samples=samples + 1, checkpoint=path, **options)
        if part.finished:
            break
        samples = part.samples
    assert torch.equal(part.V, whole.V)
    assert torch.equal(part.A, whole.A)
    assert torch.equal(part.support, whole.support)
    assert np.array_equal(part.history["loss"], whole.history["loss"], equal_nan=True)


# Over tokens


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_gradients_are_those_of_autograd(seed: int, device: torch.device) -> None:
    V, A = parameters(3, 40, seed, like=torch.empty((), dtype=torch.float64, device=device))
    batch = TASK.sample(50, seed, device=device)
    found = links.cross_entropy_gradients(V, A, batch)
    V.requires_grad_(), A.requires_grad_()
    loss = cross_entropy(predict(V, A, batch), batch.target)
    loss.backward()
    for each, expected in zip(found, (loss.detach(), V.grad, A.grad), strict=True):
        torch.testing.assert_close(each, expected)
        assert not each.requires_grad


def test_cross_entropy_descent_is_descent_on_it() -> None:
    stage = descent("softmax", "sgd", loss="cross-entropy", steps=1)
    state = start_of(TASK)
    stage.step(state, small_stream(TASK, 4))
    gradients = links.cross_entropy_gradients(
        *(getattr(start_of(TASK), n) for n in "VA"), small_stream(TASK, 4).draw(11)
    )
    assert state.loss == float(gradients.loss)
    torch.testing.assert_close(state.V, start_of(TASK).V - 0.2 * gradients.V)


@given(seed=SEEDS)
def test_probabilities_sum_to_one_and_stay_above_a_floor(seed: int) -> None:
    outputs = parameters(4, 9, seed)[1]
    for head in HEADS:
        found = links.probabilities(outputs, head, floor=0.01)
        torch.testing.assert_close(found.sum(1), torch.ones(9, dtype=torch.float64))
        assert found.min() > 0
    torch.testing.assert_close(links.probabilities(outputs, "softmax"), outputs.softmax(1))
    torch.testing.assert_close(links.probabilities(outputs, "raw"), links.probabilities(outputs, "raw", floor=1e-3))
    row, raised = outputs[0], [max(float(each), 0.01) for each in outputs[0]]
    np.testing.assert_allclose(links.probabilities(outputs, "raw", 0.01)[0], np.array(raised) / sum(raised))
    near = proximal.project_simplex(row[:, None])[:, 0].clamp_min(0.01)
    torch.testing.assert_close(links.probabilities(outputs, "simplex", 0.01)[0], near / near.sum())
    proper = outputs.softmax(1)
    for head in ("raw", "simplex"):
        torch.testing.assert_close(links.probabilities(proper, head, floor=1e-9), proper)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_accuracy_calibration_and_nats_by_hand(bins: int) -> None:
    rng = np.random.default_rng(0)
    predictions, bayes = rng.dirichlet(np.ones(4), (2, 300))
    predictions[0] = [1.0, 0.0, 0.0, 0.0]  # certain: in the last bin
    bayes[0] = [1.0, 0.0, 0.0, 0.0]
    target = np.array([rng.choice(4, p=row) for row in bayes])
    timid = predictions.max(1) < 0.5  # right more often than they say, so that gaps have both signs
    target[timid] = predictions.argmax(1)[timid]
    right = [row.argmax() == y for row, y in zip(predictions, target, strict=True)]
    tensors = torch.tensor(predictions), torch.tensor(target)
    assert links.accuracy(*tensors) == pytest.approx(np.mean(right))
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(predictions.max(1)) if min(int(p * bins), bins - 1) == b]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([predictions[i].max() for i in inside])
            total += len(inside) / 300 * abs(gap)
    assert links.calibration_error(*tensors, bins=bins) == pytest.approx(total)
    nats = links.nats_lost(tensors[0], torch.tensor(bayes))
    expected = kl_div(tensors[0][1:].log(), torch.tensor(bayes)[1:], reduction="sum") / 300
    assert nats == pytest.approx(float(expected))
    assert links.nats_lost(torch.tensor(bayes), torch.tensor(bayes)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("size", "seed"), [((2, 3, 2), 0), ((3, 3, 2), 1), ((3, 2, 2), 2), ((2, 4, 3), 3)])
def test_least_nats_lost_is_a_floor_for_every_attention(size: tuple[int, int, int], seed: int) -> None:
    """Against minimisation over V and all of A on every sample there is; equal where every position is read."""
    N, T, S = size
    task = SCBTask.random(N, T, S, K_P=0.4, q_floor=0.5, seed=seed)
    P, Q, _ = double(task)
    batch, weights = every_sample(task)
    bayes = predict(P, Q, batch)
    entropy = -(weights @ torch.log(bayes.gather(1, batch.target[:, None])[:, 0]))
    found = []
    for start in range(3):
        generator = torch.Generator().manual_seed(start)
        V = (P.log() + 0.3 * torch.randn(N, N, generator=generator)).requires_grad_()
        A = (Q + 0.1 * torch.randn(T, N, generator=generator)).requires_grad_()
        minimiser = torch.optim.LBFGS([V, A], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

        def closure(minimiser: Any = minimiser, V: torch.Tensor = V, A: torch.Tensor = A) -> torch.Tensor:
            minimiser.zero_grad()
            loss = weights @ cross_entropy(predict(V, A, batch), batch.target, reduction="none")
            loss.backward()
            return loss

        minimiser.step(closure)
        found.append(float(closure().detach() - entropy))
    least = links.least_nats_lost(task)
    assert 0 < least <= min(found) + 1e-6
    assert min(found) < 3 * least + 1e-4


@pytest.mark.parametrize("size", [(3, 2, 2), (3, 3, 3)])
def test_least_nats_lost_lets_each_query_add_its_multiple_of_mu(size: tuple[int, int, int]) -> None:
    """Where every position is read and tokens differ in frequency, against the same minimum over samples; and if m = 0.

    What A would put elsewhere is written out: m_k V mu, added to the outputs.
    """
    task = SCBTask.random(*size, K_P=0.3, mu_ratio=4, q_floor=0.2, seed=1)
    P, Q, mu = double(task)
    batch, weights = every_sample(task)
    entropy = -torch.xlogy(weights, predict(P, Q, batch).gather(1, batch.target[:, None])[:, 0]).sum()
    found = []
    for free in (True, False):
        V, A, m = (each.clone().requires_grad_() for each in (P.log(), Q, torch.zeros_like(mu)))
        minimiser = torch.optim.LBFGS(
            [V, A, m][: 2 + free], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10
        )

        def closure(
            minimiser: Any = minimiser, V: torch.Tensor = V, A: torch.Tensor = A, m: torch.Tensor = m
        ) -> torch.Tensor:
            minimiser.zero_grad()
            outputs = predict(V, A, batch) + m[batch.query][:, None] * (V @ mu)
            loss = weights @ cross_entropy(outputs, batch.target, reduction="none")
            loss.backward()
            return loss

        minimiser.step(closure)
        found.append(float(closure().detach() - entropy))
    assert links.least_nats_lost(task) == pytest.approx(found[0], rel=1e-5)
    assert found[0] < 0.999 * found[1]


def test_one_position_loses_nothing() -> None:
    for seed in range(3):
        assert abs(links.least_nats_lost(SCBTask.random(4, 10, 1, seed=seed, K_P=0.3))) < 1e-8
