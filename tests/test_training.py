"""Training: it finds P, Q and the support; nothing but the samples moves it; it can be watched, stopped and killed."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scb_nb import Batch, SCBTask, align, distances, fit
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent, Stage, State
from scb_nb.stream import BatchStream, Source
from scb_nb.training import Diverged, Fit, default_stages, estimate_mu
from tests.helpers import SEEDS, Terminal, double, few_samples, parameters, small_stream, start_of, tasks

ROOT = Path(__file__).parents[1]
TASK = SCBTask.random(3, 30, 2, K_P=0.5, mu_ratio=2, seed=0)
# All kinds of stages, each with a few steps, and most with something to remember from one to the next.
STAGES: tuple[Stage, ...] = (
    LargeSteps(batch_size=60, round_size=120, rounds=2, visible=0.9),
    Descent(steps=6, batch_size=20, step_size=0.1, sparsity="l1", average=True),
    SmallSteps(steps=9, batch_size=20, step_size=0.1),
    SparseDescent(steps=11, batch_size=20, step_size=0.2, passes=2),
)


def same(left: Fit, right: Fit) -> bool:
    """Whether two runs came to the same, bit by bit, but for the seconds and what observers saw."""
    for name in ("samples", "stage", "step", "loss"):
        if not np.array_equal(left.history[name], right.history[name], equal_nan=True):
            return False
    return same_end(left, right)


def same_end(left: Fit, right: Fit) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("V", "A", "support")]
    return (
        all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
        and torch.equal(left.state.mu, right.state.mu)
        and (left.samples, left.outcome) == (right.samples, right.outcome)
    )


# What it finds


def assert_recovered(result: Fit, task: SCBTask, error_V: float = 0.03, error_A: float = 0.03) -> None:
    assert result.finished
    assert np.array_equal(result.support.cpu().numpy(), task.support)
    alignment = align(result.V, result.A, task)
    assert alignment.error_V < error_V
    assert alignment.error_A < error_A
    assert not result.A[~result.support].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share_mu", [True, False], ids=["mu known", "mu estimated"])
def test_default_stages_find_the_task(seed: int, share_mu: bool, device: torch.device) -> None:
    task = SCBTask.random(3, 100, 2, K_P=0.4, mu_ratio=1 + seed % 2, seed=100 + seed)
    stream = task.stream(seed, device=device, share_mu=share_mu)
    result = fit(stream, observers=[distances(task)])
    end = int(np.flatnonzero(result.history["stage"] == 0)[-1])  # of stage 1
    assert result.history["hits"][end] >= 5
    assert result.history["false_entries"][end] <= 1
    assert_recovered(result, task, error_V=0.015)  # half of them are below 0.005; steps a tenth as large reach 0.019
    assert result.samples == stream.position < 230_000
    assert result.V.device.type == device.type
    assert result.V.dtype == result.A.dtype == torch.float32
    known = torch.tensor(task.mu, dtype=torch.float32)
    torch.testing.assert_close(result.state.mu.cpu(), known, rtol=0, atol=0 if share_mu else 0.003)


@pytest.mark.parametrize("seed", range(3))
def test_small_steps_and_the_l1_penalty_find_the_task(seed: int) -> None:
    task = SCBTask.random(3, 100, 2, K_P=0.4, seed=seed)
    stages = (
        SmallSteps(steps=3_000, batch_size=128, step_size=0.1),
        Descent(steps=600, batch_size=64, step_size=0.1, sparsity="l1", average=True),
    )
    result = fit(task.stream(seed, device="cpu", share_mu=True), stages)
    assert_recovered(result, task)
    assert result.samples < 80_000


@pytest.mark.parametrize("seed", range(3))
def test_samples_of_ones_own_find_the_task(seed: int) -> None:
    """A batch given as it is: mu is estimated, and samples are used again once all were seen."""
    task = SCBTask.random(3, 100, 2, K_P=0.4, seed=seed)
    result = fit(task.sample(20_000, seed, device="cpu"))
    assert_recovered(result, task)
    assert result.samples > 20_000


def test_default_stages_take_their_sizes_from_the_task() -> None:
    """Those of stage 1 grow with T, those of stage 2 do not."""
    large, sparse = default_stages(10, 5_000)
    assert isinstance(large, LargeSteps)
    assert isinstance(sparse, SparseDescent)
    assert (large.batch_size, large.round_size) == (4_500, 20_000)
    assert default_stages(10, 100)[1] == sparse


# Names do not matter


def permuted_fits(batch: Batch, mu: np.ndarray, positions: np.ndarray, names: np.ndarray) -> tuple[Fit, Fit]:
    """Runs on samples, and on the same with position ``positions[i]`` moved to i and token n called ``names[n]``."""
    new = torch.tensor(names)
    moved = Batch(new[batch.tokens[:, positions]], new[batch.query], new[batch.target], batch.vocab_size)
    mu_moved = np.empty_like(mu)
    mu_moved[names] = mu
    stages = (
        LargeSteps(batch_size=300, round_size=600),
        Descent(steps=20, batch_size=64, step_size=0.1, sparsity="l1"),
        SparseDescent(steps=40, batch_size=64, step_size=0.2),
        Descent(steps=5, batch_size=64, step_size=0.1, sparsity="simplex", average=True),
    )
    one, two = (
        fit(BatchStream(samples, mu=known, seed=3), stages, dtype=torch.float64)
        for samples, known in ((batch, mu), (moved, mu_moved))
    )
    return one, two


@pytest.mark.parametrize("seed", range(3))
def test_permuted_positions_and_tokens_permute_the_result(seed: int) -> None:
    task = SCBTask.random(4, 25, 2, K_P=0.4, mu_ratio=2, seed=seed)
    batch = few_samples(task, 3_000, seed)
    rng = np.random.default_rng(seed)
    for positions, names in (
        (rng.permutation(25), np.arange(4)),
        (np.arange(25), rng.permutation(4)),
        (rng.permutation(25), rng.permutation(4)),
    ):
        one, two = permuted_fits(batch, task.mu, positions, names)
        assert one.finished
        assert one.samples == two.samples
        assert torch.equal(two.support[:, names], one.support[positions])
        torch.testing.assert_close(two.A[:, names], one.A[positions], rtol=0, atol=1e-10)
        torch.testing.assert_close(two.V[names][:, names], one.V, rtol=0, atol=1e-10)
        np.testing.assert_allclose(two.history["loss"], one.history["loss"], rtol=1e-10)


# Nothing but the samples moves it


def run(**options: object) -> Fit:
    return fit(small_stream(TASK, 1), STAGES, **options)  # type: ignore[arg-type]


def vandal(state: State) -> dict[str, float]:
    """Writes into whatever it gets."""
    for tensor in (state.V, state.A, state.mu):
        tensor.fill_(float("nan"))
    state.support.zero_()
    state.memory["rounds"] = torch.tensor(7.0)
    state.loss, state.stage, state.step, state.failure = -1.0, 3, 10**6, "because"
    torch.manual_seed(0)
    return {"marks": 1.0}


@pytest.mark.parametrize("record_every", [1, 3, 1_000])
def test_observers_change_nothing(record_every: int) -> None:
    plain = run()
    for observers in ([], [distances(TASK)], [vandal, distances(TASK), vandal]):
        watched = run(observers=observers, record_every=record_every, max_samples=50_000)
        assert same_end(watched, plain)
        assert np.isfinite(watched.history["loss"][1:]).all()
    assert np.isfinite(watched.history["error_V"]).all()  # it had a copy of its own
    assert np.array_equal(watched.history["marks"], np.ones(len(watched.history["step"])))


def test_the_history_is_complete() -> None:
    """A record at the start, at every multiple of record_every, and at the end of each stage."""
    seen = []

    def watch(state: State) -> dict[str, float]:
        seen.append((state.stage, state.step))
        return {"entries": float(state.support.sum())}

    stream = small_stream(TASK, 1)
    stream.position = 17
    result = fit(stream, STAGES, observers=[watch, distances(TASK)], record_every=4)
    history = result.history
    assert list(history)[:5] == ["samples", "stage", "step", "loss", "seconds"]
    assert set(history) - set(list(history)[:5]) == {
        "entries", "alpha_V", "alpha_A", "residual_V", "residual_A", "error_V", "error_A", "hits", "false_entries",
    }  # fmt: skip
    assert {column.shape for column in history.values()} == {(len(seen),)}
    assert seen == list(zip(history["stage"], history["step"], strict=True))
    assert seen[0] == (0, 0)
    ends = {stage: max(step for s, step in seen if s == stage) for stage in range(4)}
    assert (ends[1], ends[3] % 11) == (6, 0)
    expected = [(0, 0), *((s, n) for s, end in ends.items() for n in range(1, end + 1) if n % 4 == 0 or n == end)]
    assert seen == expected
    assert (history["samples"][0], history["samples"][-1]) == (0, result.samples)
    assert result.samples == stream.position - 17
    looks = ends[0] - 2
    assert result.samples == looks * 90 + 2 * 240 + (6 + ends[2] + ends[3]) * 20
    assert (np.diff(history["samples"]) > 0).all()
    assert (np.diff(history["seconds"]) >= 0).all()
    assert np.isnan(history["loss"][0])
    assert np.isfinite(history["loss"][1:]).all()
    final = align(result.V, result.A, TASK)
    assert [history[name][-1] for name in final._fields] == list(final)
    assert history["alpha_V"][0] == pytest.approx(0, abs=1e-6)
    assert history["entries"][0] == 90
    assert result.seconds >= history["seconds"][-1]


def test_distances_count_hits_and_false_entries() -> None:
    P, Q, _ = double(TASK)
    state = replace(start_of(TASK), V=P, A=Q)
    observe = distances(TASK)
    assert (observe(state)["hits"], observe(state)["false_entries"]) == (6, 84)
    state.support = torch.tensor(TASK.support)
    assert (observe(state)["hits"], observe(state)["false_entries"]) == (6, 0)
    assert observe(state)["error_V"] == 0
    row = np.flatnonzero(TASK.support[:, 2])[0]
    state.support[row, 2] = False
    state.support[[row - 1, row - 2], 1] ^= True
    truth = torch.tensor(TASK.support)
    assert observe(state)["hits"] == int((truth & state.support).sum())
    assert observe(state)["false_entries"] == int((~truth & state.support).sum())


class InPlace:
    """A stage of one's own: it takes a sample, and writes into the state's tensors."""

    def step(self, state: State, source: Source) -> bool:
        source.draw(1)
        state.V += 1
        state.A[0] = float("nan") if float(state.V[0, 0]) > 3 else 0.5
        state.mu += 1
        state.support.zero_()
        return float(state.V[0, 0]) > 2


class Still:
    """A stage that takes no sample and moves nothing."""

    def step(self, state: State, source: Source) -> bool:
        return True


class SetV:
    """A stage that takes a sample and gives V a number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def step(self, state: State, source: Source) -> bool:
        source.draw(1)
        state.V = torch.where(torch.eye(len(state.V), dtype=torch.bool), self.value, state.V)
        return True


def test_a_stage_of_ones_own() -> None:
    """It may write into the state; the start stays as it was, and so does the mu of the stream."""
    stream = small_stream(TASK, 1)
    assert stream.mu is not None
    mu = stream.mu.copy()
    result = fit(stream, [InPlace()], start=replace(start_of(TASK), V=torch.zeros(3, 3, dtype=torch.float64)))
    assert (result.samples, result.finished) == (3, True)
    start = start_of(TASK)
    again = fit(stream, [InPlace()], start=start)
    for name in ("V", "A", "mu", "support"):
        assert torch.equal(getattr(start, name), getattr(start_of(TASK), name))
        assert not torch.equal(getattr(again.state, name), getattr(start, name))
    assert np.array_equal(stream.mu, mu)


class Remembers:
    """A stage of three steps that counts them in memory, from nothing."""

    def step(self, state: State, source: Source) -> bool:
        assert ("steps" in state.memory) == (state.step > 0)
        assert set(state.memory) <= {"steps"}
        return bool(state.add("steps", torch.ones(())) == 3)


def test_memory_is_emptied_between_stages() -> None:
    result = fit(small_stream(TASK, 1), [Remembers(), SetV(1.0), Remembers(), Remembers()], record_every=1)
    assert result.history["stage"].tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert result.history["step"].tolist() == [0, 1, 2, 3, 1, 1, 2, 3, 1, 2, 3]
    assert result.state.memory == {}


def test_either_of_V_and_A_may_not_leave_the_finite_numbers() -> None:
    V = torch.full((3, 3), 2.5)
    with pytest.raises(Diverged, match=r"after step 1 of stage 1, 1 samples, with <.*InPlace object"):
        fit(small_stream(TASK, 1), [InPlace()], start=replace(start_of(TASK), V=V.double()))
    for infinite in (float("inf"), float("nan")):
        with pytest.raises(Diverged, match=r"after step 1 of stage 2, 1 samples"):
            fit(small_stream(TASK, 1), [Still(), SetV(infinite)])


def test_the_start_is_not_changed_and_training_goes_on_from_it() -> None:
    V, A = (0.1 * noise for noise in parameters(3, 30, seed=0))
    start = replace(
        start_of(TASK), V=start_of(TASK).V + V, A=A, stage=2, step=5, memory={"sum of V": 1e9 * V}, failure="old"
    )
    before = {name: getattr(start, name).clone() for name in ("V", "A", "mu", "support")}
    stages = (
        Descent(steps=10, batch_size=30, step_size=0.1, average=True),
        Descent(steps=3, batch_size=30, step_size=0.2),
    )
    stream = small_stream(TASK, 3)
    result = fit(stream, stages, start=start, dtype=torch.float64)
    for name, value in before.items():
        assert torch.equal(getattr(start, name), value)
    assert (start.stage, start.step, list(start.memory), start.failure) == (2, 5, ["sum of V"], "old")
    assert result.finished
    assert result.samples == 390
    first = fit(small_stream(TASK, 3), stages[:1], start=start, dtype=torch.float64)
    stream = small_stream(TASK, 3)
    stream.position = 300
    second = fit(stream, stages[1:], start=first.state)
    assert torch.equal(second.V, result.V)
    assert torch.equal(second.A, result.A)
    assert float(result.V.abs().max()) < 10
    assert (first.samples, second.samples) == (300, 90)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_is_of_the_dtype_and_on_the_device_asked_for(dtype: torch.dtype, device: torch.device) -> None:
    result = fit(TASK.stream(0, device=device), STAGES, dtype=dtype)
    for tensor in (result.V, result.A, result.state.mu):
        assert tensor.dtype == dtype
        assert tensor.device.type == device.type
    assert result.support.dtype == torch.bool
    assert result.support.device.type == device.type


def test_precision_makes_little_difference() -> None:
    single, double_ = run(), run(dtype=torch.float64)
    assert torch.equal(single.support, double_.support)
    torch.testing.assert_close(single.A.double(), double_.A, rtol=0, atol=1e-4)


def test_a_fit_tells_what_it_came_to() -> None:
    result = run()
    assert re.fullmatch(r"Fit\(finished after [\d,]+ samples, \d+\.\d s\)", repr(result))
    assert result.V is result.state.V
    assert result.A is result.state.A
    assert result.support is result.state.support
    assert result.state.stage == len(STAGES)


# mu from the samples


@given(tasks(), st.integers(1, 200), SEEDS)
@settings(max_examples=30)
def test_mu_is_estimated_by_counting_context_tokens(task: SCBTask, tokens: int, seed: int) -> None:
    stream = small_stream(task, seed)
    mu = estimate_mu(stream, tokens)
    size = -(-tokens // task.seq_len)
    assert stream.position == size
    seen = small_stream(task, seed).draw(size).tokens
    counts = np.array([1 + int((seen == n).sum()) for n in range(task.vocab_size)])
    np.testing.assert_allclose(mu, counts / counts.sum(), rtol=1e-14)


def test_mu_is_estimated_from_ten_thousand_samples_at_most() -> None:
    stream = small_stream(SCBTask.random(2, 3, 1, seed=0), 0)
    estimate_mu(stream)
    assert stream.position == 10_000
    stream = small_stream(SCBTask.random(2, 200, 1, seed=0), 0)
    estimate_mu(stream)
    assert stream.position == 5_000


def test_a_token_that_never_occurs_has_a_small_frequency() -> None:
    samples = Batch([[0, 1], [1, 0]], [0, 1], [1, 1], vocab_size=3)
    mu = estimate_mu(BatchStream(samples), 4)
    np.testing.assert_allclose(mu, [3 / 7, 3 / 7, 1 / 7], rtol=1e-14)


def test_a_run_without_mu_counts_the_samples_of_its_estimate() -> None:
    stream = small_stream(TASK, 1, share_mu=False)
    result = fit(stream, STAGES[1:2])
    assert result.history["samples"].tolist() == [10_000, 10_120]
    assert result.samples == stream.position == 10_120
    expected = torch.tensor(estimate_mu(small_stream(TASK, 1)), dtype=torch.float32)
    assert torch.equal(result.state.mu, expected)


# The end


def test_max_samples_stops_before_the_next_step() -> None:
    stages = (Descent(steps=50, batch_size=30, step_size=0.1),)
    for most, taken in ((1, 30), (30, 30), (31, 60), (1_499, 1_500), (1_500, 1_500)):
        result = fit(small_stream(TASK, 0), stages, max_samples=most)
        assert result.samples == taken
        assert result.finished == (taken == 1_500)
        assert result.outcome == ("finished" if result.finished else f"stopped at max_samples = {most}")
        assert result.history["samples"][-1] == result.samples, "where it stopped is recorded"


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_progress(progress: bool | None, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar on stderr if asked for; by default none where stderr is no terminal."""
    result = run(progress=progress, record_every=1)
    out, err = capsys.readouterr()
    assert out == ""
    if shown:
        assert "stage 4 of 4, loss 0." in err
        assert re.search(rf"{result.samples / 1000:.2f}k samples", err)
    else:
        assert err == ""


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, True)])
def test_progress_in_a_terminal(progress: bool | None, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(progress=progress)
    assert ("stage 4 of 4" in sys.stderr.getvalue()) == shown  # type: ignore[attr-defined]


# Checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_can_be_stopped_and_resumed_at_every_step(dtype: torch.dtype, tmp_path: Path) -> None:
    """Bit by bit, whatever the stage is at, and the history as well; the stream is not at its beginning."""

    def run(**options: object) -> Fit:
        stream = small_stream(TASK, 1)
        stream.position = 1_234
        result = fit(stream, STAGES, observers=[distances(TASK)], record_every=3, dtype=dtype, **options)  # type: ignore[arg-type]
        assert stream.position == 1_234 + result.samples
        return result

    path = tmp_path / "folder" / "run.npz"
    whole = run()
    samples, pieces = 0, 0
    while True:
        part = run(max_samples=samples + 1, checkpoint=path)
        assert part.samples > samples
        samples, pieces = part.samples, pieces + 1
        if part.finished:
            break
    assert pieces > 25
    assert same(part, whole)
    assert set(part.history) == set(whole.history)
    for name in set(whole.history) - {"seconds"}:
        assert np.array_equal(part.history[name], whole.history[name], equal_nan=True)
    assert (np.diff(part.history["seconds"]) >= 0).all()
    assert os.listdir(path.parent) == [path.name]


def test_a_finished_checkpoint_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.npz"
    first = run(checkpoint=str(path))
    monkeypatch.setattr("scb_nb.stages.batch_gradients", None)  # nothing is left to be computed
    again = run(checkpoint=path)
    assert same(again, first)
    assert again.state.loss == first.state.loss
    assert again.finished
    assert again.state.stage == len(STAGES)
    assert again.history["seconds"].tolist() == first.history["seconds"].tolist()


def test_a_run_that_gave_up_stays_given_up(tmp_path: Path) -> None:
    stages = (SmallSteps(steps=4, batch_size=5, step_size=0.1),)
    first, again = (fit(small_stream(TASK, 0), stages, checkpoint=tmp_path / "run.npz") for _ in range(2))
    assert first.outcome.startswith("gave up in stage 1: ")
    assert same(first, again)


def test_a_run_without_mu_resumes_with_the_mu_that_it_estimated(tmp_path: Path) -> None:
    stages = (Descent(steps=9, batch_size=30, step_size=0.1),)
    whole = fit(small_stream(TASK, 1, share_mu=False), stages)
    path = tmp_path / "run.npz"
    part = fit(small_stream(TASK, 1, share_mu=False), stages, checkpoint=path, max_samples=10_100)
    assert part.samples == 10_120
    stream = small_stream(TASK, 1, share_mu=False)
    assert same(fit(stream, stages, checkpoint=path), whole)
    assert stream.position == 10_270


def test_a_run_from_a_start_resumes(tmp_path: Path) -> None:
    start, stages = run().state, (Descent(steps=9, batch_size=30, step_size=0.1),)
    whole = fit(small_stream(TASK, 1), stages, start=start)
    path = tmp_path / "run.npz"
    fit(small_stream(TASK, 1), stages, start=start, checkpoint=path, max_samples=100)
    assert same(fit(small_stream(TASK, 1), stages, start=run().state, checkpoint=path), whole)


def test_checkpoints_are_written_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, written = tmp_path / "run.npz", []
    monkeypatch.setattr("scb_nb.checkpoint.write_whole", lambda path, content: written.append(path))
    run(checkpoint=path, checkpoint_seconds=0)
    every = len(written)
    run(checkpoint=path, checkpoint_seconds=1e9)
    assert (every > 25, len(written) - every) == (True, 1)
    run()
    assert len(written) == every + 1


def small_batch() -> Batch:
    return few_samples(TASK, 50, seed=0)


FAR = small_stream(TASK, 1)
FAR.position = 60
DESCENT = (Descent(steps=4, batch_size=30, step_size=0.1),)
OTHERS: dict[str, tuple[str, Callable[[], Source], dict]] = {
    "stages": ("stages", lambda: small_stream(TASK, 1), {"stages": (replace(DESCENT[0], step_size=0.2),)}),
    "seed": ("source", lambda: small_stream(TASK, 2), {}),
    "N": ("source", lambda: small_stream(SCBTask.random(4, 30, 2, seed=0), 1), {}),
    "T": ("source", lambda: small_stream(SCBTask.random(3, 31, 2, seed=0), 1), {}),
    "kind of source": ("source", lambda: BatchStream(small_batch(), mu=TASK.mu, seed=1), {}),
    "position": ("position", lambda: FAR, {}),
    "mu estimated": ("mu", lambda: small_stream(TASK, 1, share_mu=False), {}),
    "mu": ("mu", lambda: small_stream(SCBTask.random(3, 30, 2, seed=0, mu_ratio=3), 1), {}),
    "start": ("start", lambda: small_stream(TASK, 1), {"start": start_of(TASK)}),
    "dtype": ("dtype", lambda: small_stream(TASK, 1), {"dtype": torch.float64}),
}


@pytest.mark.parametrize(("what", "source", "options"), OTHERS.values(), ids=OTHERS.keys())
def test_the_checkpoint_of_another_run_is_refused(
    what: str, source: Callable[[], Source], options: dict, tmp_path: Path
) -> None:
    path = tmp_path / "run.npz"
    fit(small_stream(TASK, 1), DESCENT, checkpoint=path, max_samples=60)
    content = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"checkpoint must be of the same run, but '.*run\.npz' was saved with"
    ) as told:
        fit(source(), **{"stages": DESCENT, **options, "checkpoint": path})
    assert re.search(rf"saved with another ([a-z]+ and )*{what}\b", str(told.value))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("source", "others"),
    [
        pytest.param(
            lambda: BatchStream(small_batch(), mu=TASK.mu),
            [
                lambda: BatchStream(few_samples(TASK, 50, seed=1), mu=TASK.mu),
                lambda: BatchStream(small_batch()[:49], mu=TASK.mu),
            ],
            id="batch",
        ),
        pytest.param(
            lambda: small_stream(TASK, 1, share_mu=False),
            [lambda: small_stream(SCBTask.random(3, 30, 2, seed=5), 1, share_mu=False)],
            id="stream",
        ),
    ],
)
def test_the_checkpoint_of_other_samples_is_refused(
    source: Callable[[], Source], others: list[Callable[[], Source]], tmp_path: Path
) -> None:
    """Of the same sizes and seed."""
    path = tmp_path / "run.npz"
    fit(source(), DESCENT, checkpoint=path, max_samples=60)
    for other in others:
        with pytest.raises(ValueError, match="checkpoint must be of the same run"):
            fit(other(), DESCENT, checkpoint=path)
    assert fit(source(), DESCENT, checkpoint=path).finished


DAMAGE = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "beginning missing": lambda content: content[10:],
    "text": lambda content: b"not a checkpoint\n",
    "a task": lambda content: saved_task(),
}


def saved_task() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, P=TASK.P, Q=TASK.Q)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    fit(small_stream(TASK, 1), DESCENT, checkpoint=path, max_samples=60)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint must name a file written by fit, but '.*run\.npz' is not read"):
        fit(small_stream(TASK, 1), DESCENT, checkpoint=path)


def test_any_wrong_byte_of_a_checkpoint_is_refused_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmless are the bytes that do not matter, such as the date within the archive.

    One byte in twenty-three is tried, and all of the table of contents at the end. Sums are under way.
    """
    monkeypatch.setattr("os.fsync", lambda _: None)
    path = tmp_path / "run.npz"
    stages = (Descent(steps=4, batch_size=5, step_size=0.1, average=True),)
    whole = fit(small_stream(TASK, 1), stages)
    fit(small_stream(TASK, 1), stages, checkpoint=path, max_samples=15)
    content = path.read_bytes()
    refused = []
    contents = content.index(b"PK\x01\x02")
    tried = [*range(0, contents, 23), *range(contents, len(content))]
    for index in tried:
        path.write_bytes(content[:index] + bytes([content[index] ^ 0x11]) + content[index + 1 :])
        try:
            result = fit(small_stream(TASK, 1), stages, checkpoint=path)
        except ValueError as told:
            refused.append(str(told))
        else:
            assert same_end(result, whole), f"byte {index} of {len(content)}"
    assert len(refused) > len(tried) / 3
    assert all(str(path) in words for words in refused)


def test_a_checkpoint_of_an_earlier_version_is_taken_up(tmp_path: Path) -> None:
    """Its form is written out here, so that a file keeps its meaning when the code is changed."""
    batch = Batch(np.arange(12).reshape(3, 4) % 2, [0, 1, 0], [1, 1, 0], 2)
    stages = (Descent(steps=5, batch_size=3, step_size=0.0, average=True),)
    source = BatchStream(batch, mu=[0.25, 0.75], seed=7)
    samples = hashlib.sha256(b"".join(each.numpy().tobytes() for each in source.draw(100))).hexdigest()[:16]
    header = {
        "identity": {
            "stages": "(Descent(steps=5, batch_size=3, step_size=0.0, step_size_A=None, precondition=True, "
            "project=True, sparsity='none', l1=None, average=True, false_alarms=0.01),)",
            "source": ["BatchStream", 2, 4, 7, "cpu"],
            "position": 0,
            "samples": samples,
            "mu": [0.25, 0.75],
            "start": None,
            "dtype": "torch.float32",
        },
        "samples": 9,
        "seconds": 3.5,
        "rows": [{"samples": 0, "stage": 0, "step": 0, "loss": 0.5, "seconds": 0.0}],
        "names": ["V", "A", "mu", "support", "memory sum of V", "memory sum of A"],
        "state": {"loss": 0.125, "stage": 0, "step": 3, "failure": ""},
    }
    V, A, one = np.eye(2, dtype="f4"), np.full((4, 2), 0.25, dtype="f4"), np.ones(2, dtype="f4")
    mu, support = np.array([0.25, 0.75], dtype="f4"), np.ones((4, 2), dtype=bool)
    sums = {"memory sum of V": V + one, "memory sum of A": A}
    np.savez(tmp_path / "run.npz", header=json.dumps(header), V=V, A=A, mu=mu, support=support, **sums)
    source.position = 0
    result = fit(source, stages, checkpoint=tmp_path / "run.npz")
    assert result.finished
    assert (result.samples, result.history["samples"].tolist()) == (15, [0, 15])
    assert result.seconds > 3.5
    np.testing.assert_allclose(result.V, (3 * V + one) / 3)  # steps 3, 4 and 5 are averaged
    np.testing.assert_allclose(result.A, 3 * A / 3)


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    run(checkpoint=tmp_path / "run.npz")
    with zipfile.ZipFile(tmp_path / "run.npz") as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".npy"}
    with np.load(tmp_path / "run.npz", allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= set("Ufb")


# Killed at any moment

LONG: tuple[Stage, ...] = (
    LargeSteps(batch_size=20, round_size=40, rounds=100),
    Descent(steps=400, batch_size=16, step_size=0.05, average=True),
    SparseDescent(steps=400, batch_size=16, step_size=0.05, passes=2),
)


def long_run(checkpoint: Path | None, checkpoint_seconds: float = 30) -> Fit:
    return fit(
        small_stream(TASK, 4),
        LONG,
        observers=[distances(TASK)],
        record_every=50,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
    )


def be_killed(folder: str) -> None:
    """In a process of its own: start ``long_run`` ten times, kill it each time after a while, print how it ended.

    It saves at every step. What was written outlives the process, so there is no need to wait for the disk.
    """
    path, rng = Path(folder) / "run.npz", np.random.default_rng(0)
    fit(small_stream(TASK, 4), LONG, max_samples=1)  # compiles what is compiled, which takes longer than they live
    for _ in range(10):
        child = os.fork()
        if child == 0:
            with mock.patch("os.fsync"):
                long_run(path, checkpoint_seconds=0)
            os._exit(0)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(ended, len(path.read_bytes()) if path.exists() else 0, flush=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_is_killed_again_and_again_gives_the_same_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"from tests.test_training import be_killed; be_killed({str(tmp_path)!r})"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    ended, sizes = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended.count(-signal.SIGKILL) >= 5
    assert len(set(sizes)) > 2  # it did get on in between
    broken, unbroken = long_run(tmp_path / "run.npz"), long_run(None)
    assert same(broken, unbroken)
    for name in set(unbroken.history) - {"seconds"}:
        assert np.array_equal(broken.history[name], unbroken.history[name], equal_nan=True)
    assert os.listdir(tmp_path) == ["run.npz"]
