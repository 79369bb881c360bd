"""The stages of training: a step against its formula written out, what stays put, and what each stage finds."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scb_nb import Batch, Gradients, SCBTask, Stream, fit, population_gradients, proximal, screening, theory
from scb_nb.objective import batch_gradients, reference_gradients
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent, State
from scb_nb.stream import BatchStream
from scb_nb.training import Diverged
from tests.helpers import SEEDS, double, few_samples, parameters, small_stream, start_of, tasks

TASK = SCBTask.random(3, 40, 2, K_P=0.4, mu_ratio=2, seed=0)
RATES = st.floats(0, 1)


def at(task: SCBTask, V: torch.Tensor, A: torch.Tensor, support: torch.Tensor | None = None) -> State:
    """A state in float64 that knows mu; every position is allowed unless a support is given."""
    return replace(start_of(task), V=V, A=A, **({} if support is None else {"support": support}))


def copy(state: State) -> State:
    return replace(state, V=state.V.clone(), A=state.A.clone(), support=state.support.clone(), memory={})


def unchanged(stage: Descent, state: State, gradients: Gradients, tolerance: float = 1e-12) -> bool:
    V, A = state.V.clone(), state.A.clone()
    stage.update(state, gradients)
    return float((state.V - V).abs().max()) <= tolerance and float((state.A - A).abs().max()) <= tolerance


def true_support(task: SCBTask) -> torch.Tensor:
    return torch.tensor(task.support)


@st.composite
def situations(draw: st.DrawFn) -> tuple[SCBTask, State, Gradients]:
    """A task, a state that has nothing to do with it but knows mu, and the gradients of a noisy batch there."""
    task = draw(tasks())
    seed = draw(SEEDS)
    V, A = parameters(task.vocab_size, task.seq_len, seed)
    support = torch.tensor(np.random.default_rng(seed).random(task.Q.shape) < 0.6)
    batch = few_samples(task, draw(st.integers(1, 30)), seed)
    return task, at(task, V, A, support), reference_gradients(V, A, batch)


# The state


def test_the_start_knows_mu_and_nothing_else(device: torch.device) -> None:
    mu = torch.tensor([0.5, 0.2, 0.3], device=device, dtype=torch.float64)
    state = State.uniform(mu, 4)
    assert state.V.tolist() == [[0.5] * 3, [0.2] * 3, [0.3] * 3]
    assert state.A.tolist() == [[0.25] * 3] * 4
    assert state.support.tolist() == [[True] * 3] * 4
    assert np.isnan(state.loss)
    assert (state.stage, state.step, state.memory, state.failure) == (0, 0, {}, "")
    assert {tensor.device.type for tensor in (state.V, state.A, state.mu, state.support)} == {device.type}
    state.V[0, 0] = 9  # a matrix of its own, not one column seen three times
    assert state.V[0].tolist() == [9, 0.5, 0.5]


def test_memory_adds_up() -> None:
    state = start_of(TASK)
    first = torch.tensor([1.0, 2.0])
    assert state.add("x", first).tolist() == [1, 2]
    assert state.add("x", first).tolist() == [2, 4]
    assert state.add("y", first).tolist() == [1, 2]
    assert state.memory["x"].tolist() == [2, 4]
    assert first.tolist() == [1, 2]


# Descent: one step


@settings(max_examples=50)
@given(tasks(), st.floats(-1, 2), st.floats(-1, 2), RATES, RATES)
def test_exact_gradients_give_a_step_of_the_trajectory(
    task: SCBTask, alpha_V: float, alpha_A: float, rate_V: float, rate_A: float
) -> None:
    """Both matrices, so the coordinates and that nothing is left beside them."""
    V, A = theory.on_plane(alpha_V, alpha_A, task)
    state = at(task, V, A)
    Descent(steps=1, batch_size=1, step_size=rate_V, step_size_A=rate_A).update(state, population_gradients(V, A, task))
    [_, there] = theory.trajectory(task, 1, step_size_V=rate_V, step_size_A=rate_A, start=(alpha_V, alpha_A))
    for found, expected in zip((state.V, state.A), theory.on_plane(*there, task), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@settings(max_examples=10)
@given(tasks())
def test_one_step_size_serves_both(task: SCBTask) -> None:
    V, A = theory.on_plane(0.3, 0.4, task)
    exact = population_gradients(V, A, task)
    one, two = at(task, V, A), at(task, V, A)
    Descent(steps=1, batch_size=1, step_size=0.7).update(one, exact)
    Descent(steps=1, batch_size=1, step_size=0.7, step_size_A=0.7).update(two, exact)
    assert torch.equal(one.V, two.V)
    assert torch.equal(one.A, two.A)
    assert one.loss == float(exact.loss)


def test_a_step_size_of_zero_freezes_one_of_them() -> None:
    V, A = parameters(3, 40, seed=0)
    gradients = reference_gradients(V, A, few_samples(TASK, 50, seed=0))
    for rates, moves in (((0.1, 0.0), (True, False)), ((0.0, 0.1), (False, True))):
        state = at(TASK, V, A)
        Descent(steps=1, batch_size=1, step_size=rates[0], step_size_A=rates[1]).update(state, gradients)
        assert (not torch.equal(state.V, V), not torch.equal(state.A, A)) == moves


FIXED = [
    pytest.param({"sparsity": "none"}, id="none"),
    pytest.param({"sparsity": "none", "project": False}, id="none, not projected"),
    pytest.param({"sparsity": "none", "precondition": False}, id="none, not preconditioned"),
    pytest.param({"sparsity": "support"}, id="support"),
    pytest.param({"sparsity": "support", "project": False}, id="support, not projected"),
    pytest.param({"sparsity": "simplex"}, id="simplex"),
    pytest.param({"sparsity": "l1", "l1": 0.0}, id="l1 of strength 0"),
    pytest.param({"sparsity": "l1", "l1": 0.0, "project": False}, id="l1 of strength 0, not projected"),
]


@pytest.mark.parametrize("chosen", FIXED)
@settings(max_examples=15)
@given(task=tasks(), rate=RATES)
def test_nothing_moves_at_P_and_Q(chosen: dict, task: SCBTask, rate: float) -> None:
    P, Q, _ = double(task)
    state = at(task, P, Q, true_support(task))
    stage = Descent(steps=1, batch_size=1, step_size=rate, **chosen)
    assert unchanged(stage, state, population_gradients(P, Q, task))


def centred(direction: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Column by column: minus the mean over what is allowed, and zero elsewhere."""
    result = np.zeros_like(direction)
    for column, chosen, out in zip(direction.T, allowed.T, result.T, strict=True):
        if chosen.any():
            out[chosen] = column[chosen] - column[chosen].mean()
    return result


def penalty_by_hand(direction: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """What 2 T N normal numbers (two tails) exceed once in a hundred times, times their deviation in each column."""
    middle = np.sort(direction, axis=0)[(len(direction) - 1) // 2]
    distances = np.sort((np.abs(direction - middle) * np.sqrt(mu)).ravel())[(direction.size - 1) // 2]
    return stats.norm.isf(0.01 / (2 * direction.size)) * distances / stats.norm.ppf(0.75) / np.sqrt(mu)


def step_by_hand(stage: Descent, state: State, gradients: Gradients) -> tuple[np.ndarray, np.ndarray]:
    """V and A after one step, written out from the settings."""
    V, A, mu, support = (tensor.numpy() for tensor in (state.V, state.A, state.mu, state.support))
    scale = mu if stage.precondition else np.full(len(mu), 1 / len(mu))
    D_V, D_A = gradients.V.numpy() / scale, gradients.A.numpy() / scale
    allowed = support if stage.sparsity == "support" else np.ones_like(support)
    if stage.project:
        D_V = D_V - D_V.mean(axis=0)
        D_V, D_A = D_V - (D_V @ mu)[:, None], centred(D_A, allowed)
    rate_A = stage.step_size if stage.step_size_A is None else stage.step_size_A
    V, A = V - stage.step_size * D_V, A - rate_A * D_A * allowed
    if stage.sparsity == "l1":
        threshold = rate_A * (penalty_by_hand(D_A, mu) if stage.l1 is None else stage.l1)
        A = np.sign(A) * np.maximum(np.abs(A) - threshold, 0)
        if stage.project:
            survives = (A != 0) | (A == 0).all(axis=0)
            A = A + (1 - A.sum(axis=0)) / survives.sum(axis=0) * survives
    if stage.sparsity == "simplex":
        A = proximal.project_simplex(torch.tensor(A)).numpy()  # held against brute force in test_proximal.py
    return V, A


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("precondition", [True, False])
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param({"sparsity": "none"}, id="none"),
        pytest.param({"sparsity": "support"}, id="support"),
        pytest.param({"sparsity": "simplex"}, id="simplex"),
        pytest.param({"sparsity": "l1", "l1": 2.0}, id="l1=2"),
        pytest.param({"sparsity": "l1"}, id="l1 from the data"),
    ],
)
@settings(max_examples=12)
@given(situation=situations(), rate=RATES, rate_A=st.none() | RATES)
def test_a_step_is_what_its_settings_say(
    chosen: dict,
    precondition: bool,
    project: bool,
    situation: tuple[SCBTask, State, Gradients],
    rate: float,
    rate_A: float | None,
) -> None:
    _, before, gradients = situation
    stage = Descent(
        steps=1,
        batch_size=1,
        step_size=rate,
        step_size_A=rate_A,
        precondition=precondition,
        project=project,
        **chosen,
    )
    after = copy(before)
    stage.update(after, gradients)
    V, A = step_by_hand(stage, before, gradients)
    np.testing.assert_allclose(after.V, V, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(after.A, A, rtol=1e-5, atol=1e-5 * max(1, np.abs(A).max()))  # 1.4826 is rounded
    if chosen["sparsity"] in ("l1", "simplex"):
        assert torch.equal(after.support, after.A != 0)
    else:
        assert torch.equal(after.support, before.support)


@settings(max_examples=40)
@given(situations(), RATES, st.booleans())
def test_positions_off_the_support_never_move(
    situation: tuple[SCBTask, State, Gradients], rate: float, project: bool
) -> None:
    _, before, gradients = situation
    after = copy(before)
    Descent(steps=1, batch_size=1, step_size=rate, sparsity="support", project=project).update(after, gradients)
    assert torch.equal(after.A[~before.support], before.A[~before.support])


@settings(max_examples=40)
@given(situations(), RATES)
def test_projection_keeps_the_constraints(situation: tuple[SCBTask, State, Gradients], rate: float) -> None:
    task, before, gradients = situation
    for sparsity in ("none", "support"):
        after = copy(before)
        Descent(steps=1, batch_size=1, step_size=rate, sparsity=sparsity).update(after, gradients)
        size = max(1, float(after.V.abs().max()), float(after.A.abs().max()))
        for left, right in (
            (after.V.sum(0), before.V.sum(0)),
            (after.V @ before.mu, before.V @ before.mu),
            (after.A.sum(0), before.A.sum(0)),
        ):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-12 * size * task.seq_len)


@settings(max_examples=40)
@given(tasks(), st.integers(1, 40), SEEDS)
def test_at_the_start_attention_hears_nothing(task: SCBTask, size: int, seed: int) -> None:
    """At V = mu 1^T the projected gradient of A is zero on every batch, noise included; that of V is not."""
    state = start_of(task)
    V, A = state.V, state.A
    Descent(steps=1, batch_size=1, step_size=1.0).update(state, batch_gradients(V, A, few_samples(task, size, seed)))
    torch.testing.assert_close(state.A, A, rtol=0, atol=1e-13)
    if task.vocab_size > 1:
        assert not torch.allclose(state.V, V, rtol=0, atol=1e-6)


# Descent: many steps


def test_steps_take_fresh_samples_and_tell_the_loss_before_the_step() -> None:
    stage, state, stream = Descent(steps=3, batch_size=7, step_size=0.1), start_of(TASK), small_stream(TASK, 5)
    samples = small_stream(TASK, 5).draw(21)
    for number in range(3):
        before = copy(state)
        batch = samples[7 * number : 7 * number + 7]
        over = stage.step(state, stream)
        state.step += 1
        gradients = reference_gradients(before.V, before.A, batch)
        V, A = step_by_hand(stage, before, gradients)
        np.testing.assert_allclose(state.V, V, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.A, A, rtol=0, atol=1e-12)
        assert state.loss == pytest.approx(float(gradients.loss), rel=1e-12)
        assert stream.position == 7 * (number + 1)
        assert over == (number == 2)


def averaged_by_hand(
    stage: Descent, state: State, batches: Iterator[Batch], support: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Full step sizes in the first half, falling linearly to zero in the second, whose mean is the result."""
    path = []
    for done in range(stage.steps):
        share = 1.0 if done < stage.steps / 2 else 2 * (stage.steps - done) / stage.steps
        step = replace(stage, average=False, step_size=share * stage.step_size)
        V, A = step_by_hand(step, state, reference_gradients(state.V, state.A, next(batches)))
        state = replace(state, V=torch.tensor(V), A=torch.tensor(A))
        if done >= stage.steps // 2:
            path.append((V, A))
    V, A = (np.mean(matrices, axis=0) for matrices in zip(*path, strict=True))
    if support is not None:
        A = proximal.restrict(torch.tensor(A), support).numpy()
    return V, A


@pytest.mark.parametrize("steps", [1, 2, 7, 8])
@pytest.mark.parametrize("sparsity", ["none", "support", "l1", "simplex"])
def test_averaging_ends_at_the_mean_over_the_second_half(steps: int, sparsity: str) -> None:
    V, A = theory.on_plane(0.8, 0.8, TASK)
    support = true_support(TASK)
    start = at(TASK, V, A * support if sparsity == "support" else A, support)
    stage = Descent(steps=steps, batch_size=30, step_size=0.2, sparsity=sparsity, average=True)  # type: ignore[arg-type]
    state, stream = copy(start), small_stream(TASK, 3)
    while not stage.step(state, stream):
        state.step += 1
    samples = small_stream(TASK, 3).draw(30 * steps)
    batches = iter([samples[30 * n : 30 * n + 30] for n in range(steps)])
    V_mean, A_mean = averaged_by_hand(stage, start, batches, state.support if sparsity == "l1" else None)
    np.testing.assert_allclose(state.V, V_mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(state.A, A_mean, rtol=0, atol=1e-6)
    if sparsity in ("support", "l1"):
        assert not state.A[~state.support].any()


def test_passes_begin_with_full_step_sizes_again() -> None:
    """A stage that goes on after its steps, as SparseDescent does, does the same in every pass."""
    V, A = theory.on_plane(0.8, 0.8, TASK)
    stage, batch = Descent(steps=4, batch_size=5, step_size=0.2, average=True), few_samples(TASK, 5, seed=0)
    first, later = at(TASK, V, A), replace(at(TASK, V, A), step=8)
    for _ in range(4):
        ends = [stage.step(state, BatchStream(batch)) for state in (first, later)]
        assert torch.equal(first.V, later.V)
        assert torch.equal(first.A, later.A)
        first.step, later.step = first.step + 1, later.step + 1
    assert ends == [True, True]


@pytest.mark.parametrize("sparsity", ["none", "support", "l1", "simplex"])
def test_too_large_steps_are_told(sparsity: str) -> None:
    stage = Descent(steps=200, batch_size=10, step_size=1e3, sparsity=sparsity)  # type: ignore[arg-type]
    with pytest.raises(
        Diverged, match=r"after step (\d+) of stage 1, (\d+) samples, with Descent\(steps=200, "
    ) as told:
        fit(small_stream(TASK, 0), (stage,))
    words = str(told.value).split()
    step, samples = int(words[words.index("step") + 1]), int(words[words.index("samples,") - 1])
    assert samples == 10 * step <= 2_000
    assert "step_size=1000.0" in str(told.value)


# Large steps


def twin(stage: LargeSteps, stream: Stream, start: State) -> tuple[State, int]:
    """The stage written out, with the obvious gradients; where it ends, and how often it looked at the start."""

    def direction(A: torch.Tensor, size: int) -> torch.Tensor:
        D = -reference_gradients(start.V, A, stream.draw(size)).V / start.mu
        D = D - D.mean(0)
        return D - (D @ start.mu)[:, None]

    def large_step(D: torch.Tensor) -> torch.Tensor:
        return start.V + D / (start.mu * D.square().sum(0)).sum().sqrt()

    def pull(V: torch.Tensor, size: int) -> torch.Tensor:
        return -reference_gradients(V, start.A, stream.draw(size)).A / start.mu

    directions, pulls, looks = torch.zeros_like(start.V), torch.zeros_like(start.A), 0
    found = torch.zeros_like(start.support)
    while found.any(0).double().mean() < stage.visible:
        directions += direction(start.A, stage.batch_size)
        pulls += pull(large_step(directions), -(-stage.batch_size // 2))
        found = screening.outstanding(pulls, start.mu, stage.false_alarms)
        looks += 1
    for _ in range(stage.rounds):
        V = large_step(direction(screening.attention_on(found, pulls), stage.round_size))
        pulls = pull(V, stage.round_size)
        found = screening.outstanding(pulls, start.mu, stage.false_alarms)
    return replace(start, V=V, A=screening.attention_on(found, pulls), support=found), looks


@pytest.mark.parametrize("seed", range(3))
def test_large_steps_against_their_twin(seed: int) -> None:
    stage = LargeSteps(batch_size=101, round_size=400, rounds=2, visible=0.9)
    state, stream = start_of(TASK), small_stream(TASK, seed)
    while not stage.step(state, stream):
        state.step += 1
    expected, looks = twin(stage, small_stream(TASK, seed), start_of(TASK))
    assert 1 < looks < 100
    assert state.step + 1 == looks + 2
    assert stream.position == looks * (101 + 51) + 2 * (400 + 400)
    torch.testing.assert_close(state.V, expected.V, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.A, expected.A, rtol=0, atol=1e-10)
    assert torch.equal(state.support, expected.support)


def test_large_steps_search_with_uniform_attention_and_keep_the_constraints() -> None:
    stage = LargeSteps(batch_size=100, round_size=200, rounds=3)
    state, stream = start_of(TASK), small_stream(TASK, 1)
    over, seen_uniform = False, 0
    while not over:
        over = stage.step(state, stream)
        state.step += 1
        uniform = bool((state.A == 1 / 40).all())
        seen_uniform += uniform
        assert uniform == bool(state.support.all())
        assert float((state.mu * (state.V - state.mu[:, None]).square().sum(0)).sum()) == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(state.V.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(state.V @ state.mu, state.mu, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.A.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert 1 <= seen_uniform == state.step - 4


def test_large_steps_on_nearly_exact_gradients_find_P_and_the_support(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look, then V is mu 1^T + (P - mu 1^T) / sqrt(K_P), and the weights are those of Q."""
    rng = np.random.default_rng(0)

    def nearly_exact(V: torch.Tensor, A: torch.Tensor, _: object) -> Gradients:
        gradients = population_gradients(V, A, TASK)
        return gradients._replace(A=gradients.A + 1e-7 * torch.tensor(rng.normal(size=A.shape) * TASK.mu**0.5))

    monkeypatch.setattr("scb_nb.stages.batch_gradients", nearly_exact)
    state, stage = start_of(TASK), LargeSteps(batch_size=1, round_size=1, rounds=2)
    ends = [stage.step(state, small_stream(TASK, 0)) for _ in range(3)]
    P, Q, mu = double(TASK)
    assert ends == [False, False, True]
    torch.testing.assert_close(state.V, mu[:, None] + (P - mu[:, None]) / TASK.K_P**0.5, rtol=0, atol=1e-12)
    assert torch.equal(state.support, true_support(TASK))
    torch.testing.assert_close(state.A, Q, rtol=0, atol=1e-5)


def test_large_steps_give_up_where_nothing_is_to_be_found() -> None:
    task = SCBTask.random(3, 40, 2, K_P=0.0, seed=0)
    result = fit(small_stream(task, 0), (LargeSteps(batch_size=100, round_size=100, max_steps=6), Descent(**SMALL)))
    assert result.outcome == "gave up in stage 1: no position stood out in 60% of the queries"
    assert not result.finished
    assert result.samples == 6 * 150
    assert result.history["step"][-1] == 6
    assert result.history["stage"][-1] == 0


# Small steps

SMALL = {"steps": 40, "batch_size": 16, "step_size": 0.05}


def test_small_steps_are_descent_until_the_support_stands_out() -> None:
    """The last step as well, and then A is in proportion to what stood out of it."""
    sizes = {"steps": 3_000, "batch_size": 64, "step_size": 0.1}
    stage, plain = SmallSteps(**sizes, visible=0.5), Descent(**sizes)
    state, twin, stream, same = start_of(TASK), start_of(TASK), small_stream(TASK, 2), small_stream(TASK, 2)
    over = False
    while not over:
        over = stage.step(state, stream)
        plain.step(twin, same)
        found = screening.outstanding(twin.A, twin.mu, 0.01)
        share = float(torch.where(found, twin.A, 0).sum() / 3)
        assert over == (share >= 0.5)
        assert torch.equal(state.V, twin.V)
        if not over:
            assert torch.equal(state.A, twin.A)
        state.step, twin.step = state.step + 1, twin.step + 1
    assert 10 < state.step < 3_000
    assert state.failure == ""
    assert torch.equal(state.support, found)
    assert torch.equal(state.support, true_support(TASK))
    torch.testing.assert_close(state.A, screening.attention_on(found, twin.A), rtol=0, atol=0)


def test_small_steps_give_up_where_nothing_is_to_be_found() -> None:
    task = SCBTask.random(3, 40, 2, K_P=0.0, seed=0)
    result = fit(small_stream(task, 0), (SmallSteps(**SMALL, visible=0.7), Descent(**SMALL)))
    assert result.outcome == "gave up in stage 1: what stands out in A holds 0% of the attention, not 70%"
    assert not result.finished
    assert result.samples == 40 * 16


# Sparse descent


def damaged(task: SCBTask, drop: int, add: int, seed: int) -> State:
    """V and A nearly right, but ``drop`` positions of the support are missing and ``add`` others are allowed."""
    rng = np.random.default_rng(seed)
    support = task.support.copy()
    for value, count in ((True, drop), (False, add)):
        rows, columns = np.nonzero(task.support == value)
        chosen = rng.choice(len(rows), count, replace=False)
        support[rows[chosen], columns[chosen]] = not value
    A = proximal.restrict(torch.tensor(task.Q), torch.tensor(support))
    V, _ = theory.on_plane(1.2, 0, task)
    return at(task, V, A, torch.tensor(support))


@pytest.mark.parametrize(("drop", "add"), [(0, 0), (1, 0), (0, 5), (1, 4), (2, 1)])
def test_sparse_descent_mends_the_support(drop: int, add: int) -> None:
    """Missing positions are admitted, and a pass with them follows; false ones are dropped."""
    for seed in range(3):
        task = SCBTask.random(3, 100, 2, K_P=0.3, seed=seed)
        stage = SparseDescent(steps=150, batch_size=128, step_size=0.3, passes=3)
        state = damaged(task, drop, add, seed)
        stream = small_stream(task, seed)
        result = fit(stream, (stage,), start=state)
        assert torch.equal(result.support, true_support(task))
        P, Q, mu = double(task)
        for found, truth in ((result.V, P), (result.A, Q)):
            assert float((mu * (found - truth).square().sum(0)).sum().sqrt()) < 0.05
        assert result.samples == 150 * 128 * (2 if drop else 1)


def test_sparse_descent_ends_after_its_passes() -> None:
    """Even if a position has just been admitted."""
    state = damaged(TASK, 2, 3, seed=0)
    result = fit(
        small_stream(TASK, 0), (SparseDescent(steps=100, batch_size=64, step_size=0.3, passes=1),), start=state
    )
    assert result.finished
    assert result.samples == 6_400
    assert (result.support & ~state.support).any()
    assert not result.A[~result.support].any()


@pytest.mark.parametrize("size_V", [0.5, 1.0, 2.0])
def test_the_review_is_one_proximal_step_that_ends_where_the_loss_is_least(size_V: float) -> None:
    """At rest, so that the mean gradient is that of the samples of the second half, and A far from where it belongs."""
    rng = np.random.default_rng(0)
    V, _ = theory.on_plane(size_V, 0, TASK)
    V = V + 0.1 * torch.tensor(rng.normal(size=(3, 3)))
    support = true_support(TASK)
    support[0] = True
    support[np.flatnonzero(TASK.support[:, 1])[0], 1] = False
    A = proximal.restrict(torch.tensor(rng.normal(size=(40, 3))), support)
    state = at(TASK, V, A, support.clone())
    stage, stream = (
        SparseDescent(steps=5, batch_size=400, step_size=0.0, passes=9, false_alarms=0.02),
        small_stream(TASK, 8),
    )
    for _ in range(5):
        over = stage.step(state, stream)
        state.step += 1
    second_half = small_stream(TASK, 8).draw(2_000)[800:]
    mu = TASK.mu
    pull = -reference_gradients(V, A, second_half).A.numpy() / mu
    v = V.numpy()
    curvature = (v**2).sum(axis=0) @ mu - ((v @ mu) ** 2).sum()
    newton = (pull - np.sort(pull, axis=0)[19]) / curvature
    middle = np.sort(newton, axis=0)[19]
    deviation = 1.4826 * np.sort((np.abs(newton - middle) * np.sqrt(mu)).ravel())[59] / np.sqrt(mu)
    threshold = stats.norm.isf(0.02 / 120) * deviation
    there = np.maximum(A.numpy() + newton, 0)
    expected = np.where(there > threshold, there - threshold, 0)
    expected += (1 - expected.sum(axis=0)) / (expected > 0).sum(axis=0) * (expected > 0)
    assert np.array_equal(state.support.numpy(), there > threshold)
    np.testing.assert_allclose(state.A, expected, rtol=0, atol=1e-12)
    assert not over
    assert (state.support & ~support).any()
    assert (support & ~state.support).any()
    # Where exact gradients lead from here: to the weights that this V gives the least loss, in proportion to Q.
    exact = -population_gradients(V, A, TASK).A.numpy() / mu
    there = A.numpy() + (exact - np.median(exact, axis=0)) / curvature
    assert np.abs(there[~TASK.support]).max() < 1e-12
    np.testing.assert_allclose(there[TASK.support] / TASK.Q[TASK.support], there.sum(axis=0)[0], rtol=1e-10)


def test_a_query_whose_positions_are_all_dropped_attends_everywhere_alike() -> None:
    """And not where the review has just said that there is nothing."""
    task = SCBTask.random(3, 40, 2, K_P=0.0, seed=0)
    state = damaged(task, 0, 0, seed=0)
    state.V, _ = parameters(3, 1, seed=0)
    state.V = state.V - state.V.mean(0) + 1 / 3
    result = fit(small_stream(task, 0), (SparseDescent(steps=20, batch_size=64, step_size=0.0, passes=1),), start=state)
    dropped = ~result.support.any(0)
    assert dropped.any()
    np.testing.assert_allclose(result.A[:, dropped], 1 / 40, atol=1e-12)
