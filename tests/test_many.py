"""Many runs as one give what each gives alone."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from scb_nb import SCBTask, batch_gradients, distances, fit
from scb_nb.many import fit_many, many_gradients
from scb_nb.stages import Descent, SmallSteps
from scb_nb.stream import BatchStream, Stream

TASKS = [SCBTask.random(3, 40, 2, K_P=0.4, mu_ratio=2, seed=seed) for seed in range(4)]
RATES = (0.01, 0.02, 0.05, 0.08)


def streams(device: torch.device | str = "cpu", share_mu: bool = True) -> list[Stream]:
    return [task.stream(seed, device=device, share_mu=share_mu) for seed, task in enumerate(TASKS)]


def stages(**options: Any) -> list[Descent]:
    """One for each run, with a rate of its own, and with a rate of A and a penalty of its own if they are given."""
    shares = [{name: options[name] / run for name in ("step_size_A", "l1") if name in options} for run in range(1, 5)]
    return [
        Descent(**{"steps": 30, "batch_size": 20, "step_size": rate} | options | share)
        for rate, share in zip(RATES, shares, strict=True)
    ]


def test_gradients_are_those_of_each_run(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    V = torch.rand(4, 3, 3, generator=generator, dtype=torch.float64).to(device)
    A = torch.rand(4, 40, 3, generator=generator, dtype=torch.float64).to(device)
    batches = [stream.draw(25) for stream in streams(device)]
    many = many_gradients(V, A, batches)
    assert (many.loss.shape, many.V.shape, many.A.shape) == ((4,), (4, 3, 3), (4, 40, 3))
    for run, batch in enumerate(batches):
        for ours, alone in zip(many, batch_gradients(V[run], A[run], batch), strict=True):
            torch.testing.assert_close(ours[run], alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step_size_A": 0.3},
        {"precondition": False, "project": False},
        {"sparsity": "simplex", "step_size_A": 8.0},
        {"sparsity": "l1", "l1": 0.05, "step_size_A": 3.0},
        {"sparsity": "l1", "l1": 0.5, "step_size_A": 0.03, "project": False},
    ],
    ids=str,
)
def test_runs_are_those_of_fit(options: dict[str, Any]) -> None:
    observers = [distances(TASKS[0]), lambda state: {"step seen": state.step, "loss seen": state.loss}]
    many = fit_many(streams(), stages(**options), observers=observers, record_every=8, dtype=torch.float64)
    for run, (source, stage) in enumerate(zip(streams(), stages(**options), strict=True)):
        alone = fit(source, [stage], observers=observers, record_every=8, dtype=torch.float64)
        torch.testing.assert_close(many[run].V, alone.V, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(many[run].A, alone.A, rtol=1e-9, atol=1e-12)
        assert torch.equal(many[run].support, alone.support)
        assert (many[run].samples, many[run].outcome) == (alone.samples, alone.outcome)
        assert many[run].history.keys() == alone.history.keys()
        for name in many[run].history.keys() - {"seconds", "stage"}:
            torch.testing.assert_close(*(torch.tensor(end.history[name]) for end in (many[run], alone)), equal_nan=True)
    assert any(not bool(end.support.all()) for end in many) == ("sparsity" in options)


def test_mu_is_estimated_from_a_runs_own_samples() -> None:
    """And these count; a stream may have handed out others before."""
    sources, others = streams(share_mu=False), streams(share_mu=False)
    for source in (*sources, *others):
        source.position = 100 * source.seed
    many = fit_many(sources, stages(), dtype=torch.float64)
    for run, source, stage in zip(many, others, stages(), strict=True):
        alone = fit(source, [stage], dtype=torch.float64)
        assert torch.equal(run.state.mu, alone.state.mu)
        assert run.samples == alone.samples
        torch.testing.assert_close(run.A, alone.A, rtol=1e-9, atol=1e-12)


def test_a_run_that_diverges_leaves_the_others_alone() -> None:
    wild = [*stages()[:3], Descent(steps=30, batch_size=20, step_size=1e9)]
    ends = fit_many(streams(), wild)
    assert [end.finished for end in ends] == [True, True, True, False]
    step = int(ends[3].outcome.removeprefix("no longer finite after step "))
    assert 1 <= step < 30
    calm = fit_many(streams(), stages())
    assert all(torch.equal(a.A, b.A) for a, b in zip(ends[:3], calm, strict=False))


def test_a_run_whose_A_alone_leaves_the_finite_numbers_has_diverged() -> None:
    [end] = fit_many(streams()[:1], [Descent(steps=1, batch_size=20, step_size=0.01, step_size_A=1e39)])
    assert bool(end.V.isfinite().all())
    assert end.outcome == "no longer finite after step 1"


def test_observers_cannot_change_a_run() -> None:
    def spoil(state: Any) -> dict[str, float]:
        state.V.zero_(), state.A.zero_(), state.mu.zero_()
        return {}

    watched, alone = (fit_many(streams(), stages(), observers=seen, record_every=1) for seen in (spoil, ()))
    assert all(torch.equal(a.V, b.V) and torch.equal(a.A, b.A) for a, b in zip(watched, alone, strict=True))


def test_records() -> None:
    end = fit_many(streams(), stages(), record_every=7)[2]
    assert end.history["step"].tolist() == [0, 7, 14, 21, 28, 30]
    assert end.history["samples"].tolist() == [0, 140, 280, 420, 560, 600]
    assert math.isnan(end.history["loss"][0])


@pytest.mark.parametrize(
    ("sources", "chosen", "message"),
    [
        (None, stages(), "sources must be a sequence of at least one stream, got None"),
        ([], [], r"sources must be a sequence of at least one stream, got \[\]"),
        ([TASKS[0]], stages()[:1], "sources must be a sequence of at least one stream"),
        (streams()[:1] * 2, stages()[:2], "a stream for each run, got one of them twice"),
        (streams(), stages()[:3], r"as many as sources \(4\), got 3"),
        (streams(), None, "stages must be a sequence of scb_nb.stages.Descent, got None"),
        (streams()[:1], [SmallSteps(steps=1, batch_size=1, step_size=0)], "stages must be a sequence of"),
        (streams()[:2], [*stages()[:1], replace(stages()[0], steps=9)], r"the same steps, got \['30', '9'\]"),
        *(
            (streams()[:2], [*stages()[:1], replace(stages()[0], **{name: value})], f"stages must have the same {name}")
            for name, value in (("batch_size", 9), ("precondition", False), ("project", False), ("sparsity", "simplex"))
        ),
        (streams(), stages(average=True), "stages must have average off"),
        (streams(), stages(sparsity="l1"), 'stages must have l1 given where sparsity is "l1"'),
        (
            [*streams()[:1], SCBTask.random(3, 41, 2, seed=0).stream(0, device="cpu")],
            stages()[:2],
            r"sources must have the same seq_len, got \['40', '41'\]",
        ),
        (
            [*streams()[:1], SCBTask.random(4, 40, 2, seed=0).stream(0, device="cpu")],
            stages()[:2],
            r"sources must have the same vocab_size, got \['3', '4'\]",
        ),
    ],
)
def test_bad_input(sources: Any, chosen: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fit_many(sources, chosen)


@pytest.mark.parametrize("options", [{"record_every": 0}, {"observers": [3]}, {"dtype": torch.int64}], ids=str)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        fit_many(streams(), stages(), **options)


def test_samples_of_ones_own(device: torch.device) -> None:
    sources = [BatchStream(task.sample(50, seed=0, device=device), mu=task.mu) for task in TASKS]
    assert [end.samples for end in fit_many(sources, stages())] == [600] * 4
