"""The rivals: plain descent against PyTorch's own loop, what it remembers, and what trimming keeps of A."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scb_nb import SCBTask, Stream, fit
from scb_nb.objective import reference_gradients
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import Descent, SparseDescent, Stage, State
from scb_nb.training import Diverged, Fit
from tests.helpers import SEEDS, parameters, small_stream, start_of

TASK = SCBTask.random(3, 40, 2, K_P=0.4, mu_ratio=2, seed=0)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups),
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adam": lambda groups: torch.optim.Adam(groups),
}
RATES = {"sgd": (0.2, 0.1), "momentum": (0.05, 0.03), "adam": (0.01, 0.02)}


def descent(optimizer: str, **changes: object) -> PlainDescent:
    V, A = RATES[optimizer]
    settings = {"steps": 8, "batch_size": 11, "step_size": V, "step_size_A": A, **changes}
    return PlainDescent(optimizer=optimizer, **settings)  # type: ignore[arg-type]


def somewhere(dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu", seed: int = 0) -> State:
    """A state with nothing special about it, so that no gradient is nearly zero."""
    start = State.uniform(torch.tensor(TASK.mu, dtype=dtype, device=device), TASK.seq_len)
    V, A = parameters(3, 40, seed, like=start.V)
    return replace(start, V=V, A=A / 8)


def loop_of_torch(stage: PlainDescent, state: State, stream: Stream) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The loop that one writes with PyTorch: a single optimiser for all steps; V and A after each of them."""
    V, A = (torch.nn.Parameter(matrix.clone()) for matrix in (state.V, state.A))
    rates = (stage.step_size, stage.step_size if stage.step_size_A is None else stage.step_size_A)
    optimizer = OPTIMIZERS[stage.optimizer](
        [{"params": [matrix], "lr": rate} for matrix, rate in zip((V, A), rates, strict=True)]
    )
    path: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for done in range(stage.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            late = stage.decay and done > stage.steps / 2
            group["lr"] = rate * 2 * (stage.steps - done) / stage.steps if late else rate
        gradients = reference_gradients(V, A, stream.draw(stage.batch_size))
        V.grad, A.grad = gradients.V, gradients.A
        optimizer.step()
        for matrices, matrix in zip(path, (V, A), strict=True):
            matrices.append(matrix.detach().clone())
    return path


def same(left: Fit, right: Fit) -> bool:
    """Whether two runs came to the same, bit by bit."""
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("V", "A", "support")]
    pairs += [(torch.tensor(left.history[name]), torch.tensor(right.history[name])) for name in ("samples", "step")]
    losses = np.array_equal(left.history["loss"], right.history["loss"], equal_nan=True)
    return losses and left.outcome == right.outcome and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# Plain descent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_plain_descent_is_the_loop_of_torch(optimizer: str, dtype: torch.dtype, device: torch.device) -> None:
    """Whether the step sizes shrink or not, whether the mean is taken or not, for few steps and more."""
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for steps, decay, average in product((1, 2, 7, 8), (False, True), (False, True)):
        stage = descent(optimizer, steps=steps, decay=decay, average=average)
        state, stream = somewhere(dtype, device), small_stream(TASK, 3, device=device)
        Vs, As = loop_of_torch(stage, somewhere(dtype, device), small_stream(TASK, 3, device=device))
        samples = small_stream(TASK, 3, device=device).draw(11 * steps)
        for done in range(steps):
            before = state.V, state.A, state.V.clone(), state.A.clone()
            over = stage.step(state, stream)
            state.step += 1
            assert over == (done + 1 == steps)
            assert stream.position == 11 * (done + 1)
            assert torch.equal(before[0], before[2])  # tensors that others may hold are left alone
            assert torch.equal(before[1], before[3])
            batch = samples[11 * done : 11 * done + 11]
            loss = float(reference_gradients(before[0], before[1], batch).loss)
            assert state.loss == pytest.approx(loss, rel=tolerance)
            if not (over and average):
                torch.testing.assert_close(state.V, Vs[done], rtol=0, atol=tolerance)
                torch.testing.assert_close(state.A, As[done], rtol=0, atol=tolerance)
        if average:
            V, A = (torch.stack(matrices[steps // 2 :]).mean(0) for matrices in (Vs, As))
            torch.testing.assert_close(state.V, V, rtol=0, atol=tolerance)
            torch.testing.assert_close(state.A, A, rtol=0, atol=tolerance)
        assert not any(name.startswith("sum") for name in state.memory)
        assert state.V.dtype == state.A.dtype == dtype
        assert state.support.all()
        assert torch.equal(state.mu, somewhere(dtype, device).mu)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_step_size_serves_both(optimizer: str) -> None:
    one, two = (
        fit(small_stream(TASK, 1), [descent(optimizer, step_size=0.07, step_size_A=rate)], dtype=torch.float64)
        for rate in (None, 0.07)
    )
    assert same(one, two)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("rates", "moves"), [((0.1, 0.0), (True, False)), ((0.0, 0.1), (False, True))], ids=["V", "A"])
def test_a_step_size_of_zero_freezes_one_of_them(
    optimizer: str, rates: tuple[float, float], moves: tuple[bool, bool]
) -> None:
    start = somewhere()
    end = fit(small_stream(TASK, 1), [descent(optimizer, step_size=rates[0], step_size_A=rates[1])], start=start)
    assert (not torch.equal(end.V, start.V), not torch.equal(end.A, start.A)) == moves


def test_plain_sgd_is_descent_without_all_that_the_book_adds() -> None:
    """Which divides the gradients by 1 / N where it does not divide them by mu."""
    sizes = {"steps": 20, "batch_size": 16}
    plain = PlainDescent(optimizer="sgd", step_size=0.3, step_size_A=0.15, **sizes)  # type: ignore[arg-type]
    bare = Descent(step_size=0.1, step_size_A=0.05, precondition=False, project=False, **sizes)  # type: ignore[arg-type]
    one, two = (fit(small_stream(TASK, 1), [stage], start=somewhere()) for stage in (plain, bare))
    torch.testing.assert_close(one.V, two.V, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.A, two.A, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_plain_descent_learns(optimizer: str) -> None:
    """At the step sizes that suit it, from uniform attention, until what stands out is the support."""
    rates = {"sgd": (1.6, 0.03), "momentum": (0.16, 0.003), "adam": (0.01, 0.003)}[optimizer]
    task = SCBTask.random(3, 100, 2, K_P=0.5, q_floor=0.8, seed=1)
    first = descent(optimizer, steps=1_500, batch_size=32, step_size=rates[0], step_size_A=rates[1], decay=True)
    result = fit(small_stream(task, 1), [first, Trim()])
    assert result.finished
    assert result.samples == 48_000
    assert np.array_equal(result.support.numpy(), task.support)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_too_large_steps_are_told(optimizer: str) -> None:
    with pytest.raises(Diverged, match=rf"stage 1, \d+ samples, with PlainDescent\(optimizer='{optimizer}', "):
        fit(small_stream(TASK, 0), [descent(optimizer, steps=200, step_size=1e3)])


# What it remembers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_can_be_stopped_and_resumed_at_every_step(
    optimizer: str, dtype: torch.dtype, device: torch.device, tmp_path: Path
) -> None:
    """Bit by bit; also where one stage follows another, and with sums for the mean under way."""
    stages: tuple[Stage, ...] = (
        descent(optimizer, steps=5, average=True),
        descent(optimizer, steps=6, decay=True, average=True),
        Trim(false_alarms=0.5),
        SparseDescent(steps=4, batch_size=11, step_size=0.1, passes=1),
    )
    options: dict[str, Any] = {"record_every": 1, "dtype": dtype}
    whole = fit(small_stream(TASK, 1, device=device), stages, **options)
    path, samples, pieces = tmp_path / "run.npz", 0, 0
    while True:
        stream = small_stream(TASK, 1, device=device)
        part = fit(stream, stages, max_samples=samples + 1, checkpoint=path, **options)
        pieces += 1
        if part.finished:
            break
        assert part.samples == samples + 11
        samples = part.samples
    assert pieces == 15
    assert same(part, whole)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_what_it_remembers_matters(optimizer: str) -> None:
    """So that the tests above can fail: two runs of four steps are not one of eight."""
    one = fit(small_stream(TASK, 1), [descent(optimizer, steps=8)], dtype=torch.float64)
    two = fit(small_stream(TASK, 1), [descent(optimizer, steps=4)] * 2, dtype=torch.float64)
    assert one.samples == two.samples
    assert not torch.allclose(one.V, two.V, rtol=0, atol=1e-4)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_remembered_between_stages(optimizer: str, average: bool) -> None:
    stage = descent(optimizer, average=average)
    both = fit(small_stream(TASK, 1), [stage, stage], dtype=torch.float64)
    stream = small_stream(TASK, 1)
    first = fit(stream, [stage], dtype=torch.float64)
    assert first.state.memory == {}
    second = fit(stream, [stage], start=first.state)
    assert torch.equal(second.V, both.V)
    assert torch.equal(second.A, both.A)
    # A stage with its own optimiser begins anew: it is the loop of torch from where the first ended.
    stream.position = 88
    Vs, As = loop_of_torch(stage, first.state, stream)
    V, A = (torch.stack(each[4:]).mean(0) if average else each[-1] for each in (Vs, As))
    torch.testing.assert_close(both.V, V, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.A, A, rtol=0, atol=1e-12)


def test_a_start_is_not_changed() -> None:
    start = somewhere()
    V, A = start.V.clone(), start.A.clone()
    fit(small_stream(TASK, 1), [descent("adam"), Trim()], start=start)
    assert torch.equal(start.V, V)
    assert torch.equal(start.A, A)
    assert start.memory == {}


# Trimming


def trimmed(A: torch.Tensor, false_alarms: float = 0.01) -> State:
    """What is left of A; mu tells nothing of its noise, V is a mark."""
    T, N = A.shape
    mu = torch.arange(1, N + 1, dtype=A.dtype, device=A.device)
    state = replace(State.uniform(mu / mu.sum(), T), A=A, V=A.new_full((N, N), 7.0))
    task = SCBTask.random(N, T, 1, seed=0)
    stream = small_stream(task, 0, device=A.device)
    stream.position = 5
    assert Trim(false_alarms=false_alarms).step(state, stream)
    assert stream.position == 5
    assert (state.V == 7).all()
    assert state.failure == ""
    return state


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 4), st.integers(1, 60), st.floats(0.01, 0.5))
def test_trimming_written_out(seed: int, N: int, T: int, false_alarms: float) -> None:
    """Each column by its own median and its own noise, all of them together with this chance of a false alarm."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(T, N)) * rng.choice([0.01, 1.0, 30.0], N) + rng.normal(size=N)
    A[rng.integers(T, size=N), np.arange(N)] += rng.choice([0.0, 5.0, 100.0], N)
    state = trimmed(torch.tensor(A), false_alarms)
    critical = stats.norm.isf(false_alarms / (N * T))
    for k, column in enumerate(A.T):
        height = column - np.sort(column)[(T - 1) // 2]
        found = height > critical * 1.4826 * np.sort(np.abs(height))[(T - 1) // 2]
        assert np.array_equal(state.support[:, k].numpy(), found)
        expected = found * height / (found * height).sum() if found.any() else np.full(T, 1 / T)
        np.testing.assert_allclose(state.A[:, k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_trimming_keeps_what_is_clear(dtype: torch.dtype, device: torch.device) -> None:
    """Exactly the support, in the proportions of Q, however loud each column is; a column of noise becomes uniform."""
    task = SCBTask.random(4, 500, 3, q_floor=0.6, seed=0)
    rng = np.random.default_rng(0)
    Q = task.Q.copy()
    Q[:, 2] = 0
    A = (1 + Q + 0.001 * rng.normal(size=Q.shape)) * [0.01, 1.0, 5.0, 300.0]
    state = trimmed(torch.tensor(A, dtype=dtype, device=device), false_alarms=0.01)
    assert state.A.dtype == dtype
    assert state.A.device.type == state.support.device.type == device.type
    assert np.array_equal(state.support.cpu().numpy(), Q > 0)
    assert not state.support[:, 2].any()
    assert (state.A[:, 2] == 1 / 500).all()
    others = [0, 1, 3]
    np.testing.assert_allclose(state.A.cpu().numpy()[:, others], Q[:, others], rtol=0, atol=0.005)
    assert not state.A[:, others][~state.support[:, others]].any()
    torch.testing.assert_close(state.A.sum(0), torch.ones(4, dtype=dtype, device=device), rtol=0, atol=1e-6)


def test_trimming_twice_is_trimming_once() -> None:
    """Where something stands out: the rest is zero, so nothing else does. By default it may err once in a hundred."""
    assert Trim() == Trim(false_alarms=0.01)
    task = SCBTask.random(3, 200, 2, q_floor=0.5, seed=0)
    once = trimmed(torch.tensor(task.Q + 0.001 * np.random.default_rng(0).normal(size=task.Q.shape)))
    twice = trimmed(once.A)
    assert torch.equal(once.support, twice.support)
    torch.testing.assert_close(once.A, twice.A, rtol=0, atol=1e-14)


def test_trimming_forgets_what_was_allowed_before() -> None:
    state = replace(start_of(TASK), support=torch.zeros(40, 3, dtype=torch.bool))
    state.A[7] = 1.0
    Trim().step(state, small_stream(TASK, 0))
    assert torch.equal(state.support.nonzero(), torch.tensor([[7, 0], [7, 1], [7, 2]]))


def test_noise_alone_stands_out_as_seldom_as_promised() -> None:
    """In columns of very different scales. 400 repetitions at a promise of one in five: a standard error is 2%.

    What is expected is 1 - exp(-1/5) = 18%, and 2% more since the noise level is itself uncertain.
    """
    rng = np.random.default_rng(0)
    task = SCBTask.random(3, 2_000, 1, seed=0)
    stage, stream = Trim(false_alarms=0.2), small_stream(task, 0)
    mu = torch.tensor(task.mu)
    named = np.zeros((400, 3), dtype=bool)
    for repetition in named:
        noise = torch.tensor(rng.normal(size=(2_000, 3)) * [0.001, 1.0, 50.0])
        state = replace(State.uniform(mu, 2_000), A=noise)
        stage.step(state, stream)
        repetition[:] = state.support.any(0).numpy()
    assert 0.12 < named.any(axis=1).mean() < 0.28
    assert (named.mean(axis=0) > 0.02).all()  # and each column has its share of them
    assert (named.mean(axis=0) < 0.12).all()
