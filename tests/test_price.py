"""What the experiments of chapters 7 and 8 read off their runs: winners, curves, and the samples where they cross."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import price, rivals
from experiments.price import CHOOSING, DIALS, GRID, PASSES, TASKS, crossing, curve, samples_for
from experiments.rivals import confirmed, winner, worse
from scb_nb import Batch, SCBTask, fit, geometry
from scb_nb.estimators import Estimate
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent
from scb_nb.state import State
from scb_nb.store import key
from scb_nb.stream import BatchStream, Source
from tests.helpers import double, parameters, small_stream, start_of

INF = math.inf


# Where a curve crosses


def points(samples: list[float], errors: list[float]) -> price.Curve:
    """A curve of one task."""
    return [(np.array([n], dtype=float), np.array([e], dtype=float)) for n, e in zip(samples, errors, strict=True)]


ONE = np.array([0])


@settings(max_examples=60)
@given(
    st.floats(0.1, 3),
    st.floats(0.3, 1),
    st.lists(st.integers(1, 10**6), min_size=2, max_size=9, unique=True),
    st.data(),
)
def test_a_power_law_is_crossed_where_it_says(scale: float, power: float, grid: list[int], data: st.DataObject) -> None:
    """Since logarithms are interpolated."""
    samples = np.sort(np.array(grid, dtype=float))
    there = float(np.exp(data.draw(st.floats(*np.log(samples[[0, -1]])))))
    found = crossing(points(list(samples), list(scale * samples**-power)), scale * there**-power * (1 + 1e-12), ONE)
    assert found == pytest.approx(there, rel=1e-9)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        pytest.param([0.4, 0.3, 0.2, 0.15], INF, id="never"),
        pytest.param([0.4, 0.3, 0.2, INF], INF, id="never, and no estimate at the end"),
        pytest.param([INF] * 4, INF, id="no estimate at all"),
        pytest.param([0.05, 0.04, 0.03, 0.02], 100, id="from the first on"),
        pytest.param([0.1, 0.1, 0.1, 0.1], 100, id="at epsilon from the first on"),
        pytest.param([0.1, 0.1, 0.1, 0.1001], INF, id="above at the last"),
        pytest.param([0.2, 0.1, 0.05, 0.05], 200, id="at epsilon at the second"),
        pytest.param([0.4, 0.2, 0.05, 0.02], 200 * 2**0.5, id="between two points"),
        pytest.param([0.4, 0.05, 0.2, 0.05], 400 * 2**0.5, id="again above: the last crossing counts"),
        pytest.param([0.05, 0.05, 0.2, 0.0125], 400 * 2**0.25, id="below at first, then above"),
        pytest.param([0.05, 0.2, 0.05, 0.2], INF, id="above again at the end"),
        pytest.param([INF, INF, 0.05, 0.02], 400, id="no estimate before: nothing to interpolate"),
        pytest.param([0.4, INF, 0.1, 0.02], 400, id="no estimate just before"),
    ],
)
def test_crossings(errors: list[float], expected: float) -> None:
    found = crossing(points([100, 200, 400, 800], errors), 0.1, ONE)
    assert type(found) is float
    assert found == pytest.approx(expected, rel=1e-12)


def test_no_samples_are_known_where_a_run_did_not_come_to_its_end() -> None:
    assert crossing(points([INF, 200, 400], [INF, 0.05, 0.02]), 0.1, ONE) == 200
    assert crossing(points([INF, INF], [INF, INF]), 0.1, ONE) == INF


def test_a_crossing_is_one_of_medians_over_the_chosen_tasks() -> None:
    """Of the samples as of the errors; a task is counted as often as it is chosen."""
    samples = [np.array([10.0, 20, 30, 1e9]), np.array([100.0, 200, 300, 1e9])]
    errors = [np.array([0.9, 0.2, 0.1, INF]), np.array([0.4, 0.05, 0.025, INF])]
    three = list(zip(samples, errors, strict=True))
    # Medians of the first three tasks: 20 samples with an error of 0.2, 200 with 0.05; halfway at 0.1.
    assert crossing(three, 0.1, np.array([0, 1, 2])) == pytest.approx(20 * 10**0.5)
    assert crossing(three, 0.1, np.array([2, 2, 2, 0])) == 30
    assert crossing(three, 0.1, np.array([0, 0, 1])) == INF
    assert crossing(three, 0.1, np.array([0, 1, 2, 3])) == pytest.approx(
        25 * 10 ** (math.log(0.55 / 0.1) / math.log(0.55 / 0.225)) if 0.225 <= 0.1 else INF
    )
    assert crossing(three, 0.1, np.array([3, 3, 2])) == INF


# Curves from records


def repeated_records(method: str, seq_len: int, error: Callable[[int, int], float | None]) -> list[dict]:
    """Records of a method that gets n samples; ``error(n, task)`` is the larger error, None without an estimate."""
    records = []
    for n in GRID:
        errors = [error(n, task) for task in range(TASKS)]
        # The larger one is that of V in even tasks, and that of A in odd ones.
        V, A = (
            [None if e is None else e if task % 2 == odd else e / 3 for task, e in enumerate(errors)]
            for odd in (False, True)
        )
        result = {"error_V": V, "error_A": A, "exact": [True] * TASKS}
        records.append({"settings": {"method": method, "seq_len": seq_len, "samples": n}, "result": result})
    return records


def once_records(
    method: str, seq_len: int, scale: Callable[[float, int], float | None], first: int = 1_000
) -> list[dict]:
    """Records of a method that sees each sample once: an error of ``scale(dial, task)`` / sqrt(n), None: never ends."""
    records = []
    for dial in price.dials(method, seq_len):
        ends: list[list[dict]] = []
        for task in range(CHOOSING + TASKS):
            size, all_of_it = scale(dial, task), [first * 4**place for place in range(len(PASSES))]
            rows = [] if size is None else [{"samples": n, "error": size / n**0.5} for n in all_of_it]
            ends.append([{"samples": r["samples"], "error_V": r["error"] / 2, "error_A": r["error"]} for r in rows])
        result = {"samples_first": [100 if each else None for each in ends], "ends": ends}
        records.append({"settings": {"method": method, "seq_len": seq_len, "dial": dial}, "result": result})
    return records


def test_a_curve_of_repeated_samples() -> None:
    """One point a size, in growing order, with the larger error of each task, infinite without an estimate."""
    records = repeated_records("floor", 200, lambda n, task: None if task == 3 else (1 + task) / n)
    records += repeated_records("floor", 500, lambda n, task: 7.0)
    records += repeated_records("screen and EM", 200, lambda n, task: 7.0)
    found = curve(records, "floor", 200)
    assert [each.tolist() for each, _ in found] == [[n] * TASKS for n in GRID]
    for n, (_, errors) in zip(GRID, found, strict=True):
        assert errors.tolist() == [INF if task == 3 else (1 + task) / n for task in range(TASKS)]


def test_a_curve_of_samples_seen_once() -> None:
    """One point a number of steps of stage 2; who never gets there takes infinitely many samples."""
    records = once_records("large steps, once", 200, lambda dial, task: None if task == 5 else dial + task)
    found = curve(records, "large steps, once", 200, 3_000)
    assert len(found) == len(PASSES)
    for place, (samples, errors) in enumerate(found):
        n = 1_000 * 4**place
        assert samples.tolist() == [INF if task == 5 else n for task in range(CHOOSING + TASKS)]
        expected = [INF if task == 5 else (3_000 + task) / n**0.5 for task in range(CHOOSING + TASKS)]
        np.testing.assert_allclose(errors, expected, rtol=1e-14)
    with pytest.raises(ValueError, match="not enough values"):
        curve(records, "large steps, once", 200, 7.0)


def test_rows_of_a_result() -> None:
    assert price.zip_rows({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(ValueError, match="zip"):
        price.zip_rows({"a": [1, 2], "b": [3]})
    rows = [{"error_V": 1, "error_A": 2}, {"error_V": 4, "error_A": 3}, {"error_V": None, "error_A": None}]
    assert price.larger(rows).tolist() == [2, 4, INF]


# Samples for an error


@pytest.mark.parametrize("epsilon", [0.05, 0.02])
def test_samples_for_an_error_of_repeated_samples(epsilon: float) -> None:
    """Errors of c / sqrt(n): (median c / epsilon)^2; without spread between tasks, the interval is a point."""
    records = repeated_records("floor", 200, lambda n, task: 2 / n**0.5)
    assert samples_for(records, "floor", 200, epsilon, draws=20) == pytest.approx((4 / epsilon**2,) * 3, rel=1e-9)
    records = repeated_records("floor", 200, lambda n, task: (1 + task / 8) / n**0.5)
    value, low, high = samples_for(records, "floor", 200, epsilon)
    assert value == pytest.approx(((1 + 7.5 / 8) / epsilon) ** 2, rel=1e-9)
    assert low < value < high
    assert (1 / epsilon) ** 2 < low
    assert high < (3 / epsilon) ** 2
    assert samples_for(records, "floor", 200, epsilon) == (value, low, high)


def test_the_interval_covers_the_median_about_as_often_as_it_says() -> None:
    """Of 60 draws of 16 tasks each; a standard error is 4%, and the bootstrap of a median is a little off."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        scales = np.exp(0.3 * rng.normal(size=TASKS))
        records = repeated_records("floor", 200, lambda n, task, scales=scales: 2 * scales[task] / n**0.5)  # type: ignore[misc]
        _, low, high = samples_for(records, "floor", 200, 0.05, draws=60)
        inside += low <= 1_600 <= high
    assert 46 <= inside <= 59


def test_what_is_never_reached_takes_infinitely_many_samples() -> None:
    """Also if only some of the tasks get there; no warning comes of it."""
    never = repeated_records("floor", 200, lambda n, task: 1.0)
    assert samples_for(never, "floor", 200, 0.05, draws=20) == (INF, INF, INF)
    none = repeated_records("floor", 200, lambda n, task: None)
    assert samples_for(none, "floor", 200, 0.05, draws=20) == (INF, INF, INF)
    some = repeated_records("floor", 200, lambda n, task: 2 / n**0.5 if task < 9 else None)
    value, low, high = samples_for(some, "floor", 200, 0.05, draws=200)
    assert value == low == pytest.approx(1_600)
    assert high == INF
    lost = once_records("small steps, once", 500, lambda dial, task: None)
    assert samples_for(lost, "small steps, once", 500, 0.05, draws=20) == (INF, INF, INF)


@pytest.mark.parametrize("method", DIALS)
def test_the_dial_is_chosen_on_the_first_tasks_and_reported_on_the_others(method: str) -> None:
    """Each dial is best on the first tasks in turn; what the others say plays no part, and is what is reported."""
    for chosen in price.dials(method, 1_000):

        def scale(dial: float, task: int, chosen: float = chosen) -> float:
            if task < CHOOSING:
                return 2.0 if dial == chosen else 2.5
            return 4.0 if dial == chosen else 1.0

        records = once_records(method, 1_000, scale)
        assert samples_for(records, method, 1_000, 0.05, draws=20) == pytest.approx((6_400,) * 3, rel=1e-9)


def test_the_dial_is_chosen_for_each_error_on_its_own() -> None:
    """Dial 1,500 gets to 0.05 with fewer samples, but never to 0.02."""

    def scale(dial: float, task: int) -> float | None:
        return {1_500: 1.8, 3_000: 2.0, 6_000: None}[dial]  # type: ignore[index]

    records = once_records("large steps, once", 200, scale)
    for end in (end for ends in records[0]["result"]["ends"] for end in ends):
        end["error_A"] = max(end["error_A"], 0.025)
    found = [samples_for(records, "large steps, once", 200, epsilon, draws=5)[0] for epsilon in (0.05, 0.02)]
    assert found == pytest.approx([(1.8 / 0.05) ** 2, (2 / 0.02) ** 2], rel=1e-9)


def test_a_task_that_never_gets_there_counts() -> None:
    """Where it is more than half of the tasks that are reported, the dial was still chosen on the first."""
    records = once_records("large steps, once", 200, lambda dial, task: 2.0 if task < CHOOSING + 7 else None)
    assert samples_for(records, "large steps, once", 200, 0.05, draws=5)[0] == INF
    records = once_records("large steps, once", 200, lambda dial, task: 2.0 if task < CHOOSING + 9 else None)
    assert samples_for(records, "large steps, once", 200, 0.05, draws=5)[0] == pytest.approx(1_600)


def test_short_contexts_try_more_dials_of_small_steps() -> None:
    """But none whose batches would be smaller than four samples."""
    assert price.dials("small steps, once", 100) == DIALS["small steps, once"][1:]
    assert price.dials("small steps, once", 200) == DIALS["small steps, once"]
    assert price.dials("small steps, once", 201) == DIALS["small steps, once"][:3]
    assert price.dials("large steps, once", 5_000) == DIALS["large steps, once"]


def test_the_runs_of_the_price() -> None:
    """Each once; every record that the report looks for is there; the tasks of the chosen dial are not reported."""
    wanted = price.settings()
    assert len({key(each) for each in wanted}) == len(wanted)
    found = {(each["method"], each["seq_len"]) for each in wanted}
    assert found >= set(product((*price.BATCH_METHODS, *DIALS), price.LENGTHS))
    for each in wanted:
        assert each["method"] in (*price.BATCH_METHODS, *DIALS, *price.EXTRA)
        assert ("dial" in each) == (each["method"] in DIALS) != ("samples" in each)
    assert [each["samples"] for each in wanted if (each["method"], each["seq_len"]) == ("floor", 500)] == GRID
    assert sorted(GRID) == GRID
    assert sorted(PASSES) == list(PASSES)
    tasks = [price.task_at(100, seed) for seed in range(CHOOSING + TASKS)]
    assert len({task.P.tobytes() for task in tasks}) == CHOOSING + TASKS
    for task in tasks:
        assert abs(task.K_P - 0.3) < 1e-12
        assert task.Q[task.support].min() >= 0.25
        assert np.ptp(task.mu) < 1e-12


def test_the_report_of_the_price(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines for each method and length, in multiples of screen and EM, and one for each extra."""
    records = []
    for T in price.LENGTHS:
        for number, method in enumerate(price.BATCH_METHODS):
            records += repeated_records(method, T, lambda n, task, number=number: 2 ** (number / 2) / n**0.5)  # type: ignore[misc]
        for method in DIALS:
            records += once_records(method, T, lambda dial, task: 2.0)
    for method, pairs in price.EXTRA.items():
        for T, n in pairs:
            result = {"error_V": [0.1] * TASKS, "error_A": [0.123] * TASKS, "exact": [True] * 3 + [False] * 13}
            records.append({"settings": {"method": method, "seq_len": T, "samples": n}, "result": result})
    monkeypatch.setattr(price, "samples_for", partial(samples_for, draws=2))
    price.report(records)
    lines = capsys.readouterr().out.splitlines()
    extras = sum(map(len, price.EXTRA.values()))
    assert len(lines) == 2 * (1 + len(price.LENGTHS) * 6) + extras
    assert lines[1].split() == ["100", "floor", "500", "[500,", "500]", "0.62"]  # it is there at the first size already
    assert lines[2].split() == ["100", "screen", "and", "EM", "800", "[800,", "800]", "1.00"]
    assert lines[4].split() == ["100", "small", "steps,", "repeated", "3,200", "[3,200,", "3,200]", "4.00"]
    assert lines[5].split() == ["100", "large", "steps,", "once", "1,600", "[1,600,", "1,600]", "2.00"]
    assert lines[-1].split()[-5:] == ["16,000:", "3/16", "exact,", "error", "0.123"]


# What a run of the price does


def test_an_estimate_is_judged_by_both_errors_and_by_its_support() -> None:
    task = SCBTask.random(3, 50, 2, K_P=0.3, q_floor=0.5, seed=0)
    P, Q, _ = double(task)
    assert price.judge(Estimate(P, Q, 0.0, 0), task) == {"error_V": 0, "error_A": 0, "exact": True}
    assert price.judge(None, task) == {"error_V": None, "error_A": None, "exact": False}
    faint = Q.clone()
    faint[~torch.tensor(task.support)] = 0.04
    judged = price.judge(Estimate(P + 0.1, faint, 0.0, 0), task)
    assert judged["exact"]
    assert judged["error_V"] == pytest.approx(0.1 * 3**0.5, rel=1e-3)
    assert judged["error_A"] == pytest.approx(0.04 * 48**0.5, rel=1e-3)
    faint[np.flatnonzero(~task.support[:, 1])[0], 1] = 0.06
    assert not price.judge(Estimate(P, faint, 0.0, 0), task)["exact"]
    assert not price.judge(Estimate(P, Q * 0.05, 0.0, 0), task)["exact"]


@pytest.mark.parametrize("method", ["floor", "screen and EM", "large steps, repeated"])
def test_a_method_on_a_batch(method: str) -> None:
    task = price.task_at(100, 0)
    row = price.repeated(method, task, 0, 4_000)
    assert row.keys() == {"error_V", "error_A", "exact"}
    assert max(row["error_V"], row["error_A"]) < 0.06
    assert row["exact"]
    assert row == price.repeated(method, task, 0, 4_000)


def test_every_task_has_a_batch_and_a_random_start_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def note(batch: Batch, P: np.ndarray, Q: np.ndarray) -> Estimate:
        starts.append((batch.tokens.numpy().tobytes(), P.tobytes(), Q.tobytes()))
        for matrix in (P, Q):
            np.testing.assert_allclose(matrix.sum(axis=0), 1)
            assert (matrix > 0).all()
        return Estimate(torch.tensor(P), torch.tensor(Q), 0.0, 0)

    monkeypatch.setattr(price, "expectation_maximisation", note)
    result = price.run("EM, random start", 100, samples=7)
    assert {name: len(values) for name, values in result.items()} == dict.fromkeys(("error_V", "error_A", "exact"), 16)
    assert [len(set(each)) for each in zip(*starts, strict=True)] == [TASKS] * 3


def test_gradient_training_on_a_batch() -> None:
    """Its stages: what the size of the batch and the length of the context decide."""
    large, last = price.stages_for("large steps, repeated", 500, 8_000)
    assert isinstance(large, LargeSteps)
    assert (large.batch_size, large.round_size, large.rounds) == (8_000, 8_000, 3)
    assert isinstance(last, SparseDescent)
    assert last.steps == 187
    small, last = price.stages_for("small steps, repeated", 5_000, 500)
    assert isinstance(small, SmallSteps)
    assert (small.batch_size, last.steps) == (200, 100)  # type: ignore[attr-defined]
    adam, trim, last = price.stages_for("Adam, repeated", 500, 8_000)
    assert isinstance(adam, PlainDescent)
    assert (adam.optimizer, adam.decay, adam.average) == ("adam", True, True)
    assert isinstance(trim, Trim)
    assert last == large_last(8_000)


def large_last(samples: int) -> SparseDescent:
    last = price.stages_for("large steps, repeated", 500, samples)[-1]
    assert isinstance(last, SparseDescent)
    return last


def test_training_that_does_not_come_to_its_end_gives_no_estimate() -> None:
    task = price.task_at(100, 0)
    batch = task.sample(200, 0, device="cpu")
    gives_up = SmallSteps(steps=2, batch_size=10, step_size=0.1)
    diverges = PlainDescent(optimizer="sgd", steps=500, batch_size=10, step_size=1e6)
    ends = PlainDescent(optimizer="sgd", steps=2, batch_size=10, step_size=0.1)
    source = BatchStream(batch, mu=task.mu)
    assert price.train(source, [gives_up]) is None
    assert price.train(source, [diverges]) is None
    result = price.train(source, [ends])
    assert result is not None
    assert result.finished
    other = price.train(source, [ends], start=result.state)
    assert other is not None
    assert not torch.equal(other.V, result.V)


def test_second_stages_of_all_lengths_follow_one_first_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins where the first ended, and counts its samples."""
    monkeypatch.setattr(price, "PASSES", (4, 8))
    task = price.task_at(100, 0)
    row = price.once("large steps, once", task, 0, 3_000.0)
    assert row["samples_first"] > 6_000
    assert [end["samples"] - row["samples_first"] for end in row["ends"]] == [4 * 64, 8 * 64]
    assert row["ends"][1].keys() == {"error_V", "error_A", "exact", "samples"}
    again = fit(
        task.stream(80_000, device="cpu", share_mu=True),
        [
            LargeSteps(batch_size=400, round_size=3_000, rounds=1, max_steps=400),
            SparseDescent(steps=8, batch_size=64, step_size=0.3, passes=1),
        ],
    )
    assert again.samples == row["ends"][1]["samples"]
    judged = price.judge(again, task)
    assert judged == price.judge(Estimate(again.V, again.A, 0.0, 0), task)
    assert judged.items() <= row["ends"][1].items()


def test_a_first_stage_that_gives_up_has_no_ends() -> None:
    task = SCBTask.random(3, 20, 2, K_P=0.0, seed=0)
    assert price.once("small steps, once", task, 0, 0.2) == {"samples_first": None, "ends": []}


class Huge:
    """A first stage that ends where the second cannot but diverge."""

    def step(self, state: State, source: Source) -> bool:
        source.draw(10)
        state.V = state.V * 1e30
        return True


def test_a_stage_that_diverges_counts_as_one_that_found_nothing() -> None:
    task = SCBTask.random(3, 20, 2, K_P=0.2, seed=0)
    diverges = PlainDescent(optimizer="sgd", steps=500, batch_size=10, step_size=1e6)
    assert price.two_stages(diverges, (4,), task, 0) == {"samples_first": None, "ends": []}
    row = price.two_stages(Huge(), (4, 8), task, 0)
    assert row["samples_first"] == 10
    assert [end.pop("samples") > 10 for end in row["ends"]] == [True, True]
    assert row["ends"] == [price.judge(None, task)] * 2


# Rivals: tuning


def judged(error_V: float, error_A: float) -> dict[str, Any]:
    return {"error_V": error_V, "error_A": error_A, "missed": 0, "false": 0}


def tuned(settings: dict, errors: list[float | None], outcome: str = "finished") -> dict:
    """A record with these errors of the last iterate; those of the other readings are four times as large."""
    result: dict[str, Any] = {"outcome": ["diverged" if e is None else outcome for e in errors]}
    for factor, reading in ((1, "last"), (4, "average"), (4, "last, trimmed"), (4, "average, trimmed")):
        result[reading] = [None if e is None else judged(factor * e / 2, factor * e) for e in errors]
    return {"settings": settings, "result": result}


def test_the_larger_error_counts_and_a_run_that_did_not_end_is_worst() -> None:
    result = {
        "outcome": ["finished", "finished", "diverged", "gave up in stage 1: nothing stood out", "finished"],
        "last": [judged(0.2, 0.1), judged(0.1, 0.3), None, judged(0.01, 0.01), judged(0.0, 0.0)],
        "last, trimmed": [judged(0.5, 0.1)] * 5,
    }
    assert worse(result).tolist() == [0.2, 0.3, INF, INF, 0]
    assert worse(result, "last, trimmed").tolist() == [0.5, 0.5, INF, INF, 0.5]


def test_a_reading_that_a_run_does_not_have_is_worst() -> None:
    """As the two stages have no mean of their own."""
    result = {"outcome": ["finished"] * 2, "last": [judged(0.2, 0.1)] * 2, "average": [None, None]}
    assert worse(result, "average").tolist() == [INF, INF]


def test_the_winner_is_the_one_whose_worst_task_is_best() -> None:
    """Of its method and way to decay, in the reading that is asked for; its tasks are left out."""

    def own(rate: float, method: str = "sgd", **more: object) -> dict:
        return {"method": method, "step_size": rate, "decay": False, "tasks": [1, 2, 3], "watched": False, **more}

    records = [
        tuned(own(1.0), [0.3, 0.3, 0.3]),
        tuned(own(2.0), [0.25, 0.2, 0.1]),
        tuned(own(3.0), [0.1, 0.1, 0.26]),
        tuned(own(4.0), [0.01, 0.01, None]),
        tuned(own(5.0, decay=True), [0.02, 0.02, 0.02]),
        tuned(own(6.0, decay=True), [0.01, 0.01, 0.04]),
        tuned(own(7.0, method="adam"), [0.0, 0.0, 0.0]),
        tuned({"method": "two stages", "step_size": 8.0, "tasks": [1]}, [0.1, 0.1, 0.1]),
        tuned({"method": "two stages", "step_size": 9.0, "tasks": [1]}, [0.0] * 3, outcome="gave up in stage 1: no"),
    ]
    records[0]["result"]["average"] = [judged(0.1, 0.1)] * 3
    for arguments, rate in (
        (("sgd", "last", False), 2.0),
        (("sgd", "last", True), 5.0),
        (("sgd", "average", False), 1.0),
        (("sgd", "last, trimmed", False), 2.0),
        (("adam", "last", False), 7.0),
    ):
        found = winner(records, *arguments)  # type: ignore[arg-type]
        assert found == {"method": arguments[0], "step_size": rate, "decay": arguments[2]}
    assert winner(records, "two stages") == {"method": "two stages", "step_size": 8.0}
    assert rivals.finishing(records, "sgd") == {"method": "sgd", "step_size": 5.0, "decay": True, "finish": True}
    with pytest.raises(ValueError, match="empty"):
        winner(records, "sgd", "last", None)


def test_a_winner_is_looked_up_as_it_was_tuned() -> None:
    """And not as the same settings that leave samples to stage 2."""
    own = {"method": "sgd", "step_size": 1.0, "decay": True}
    on = {"tasks": [1, 2], "watched": True}
    records = [tuned(each | on, [0.0]) for each in (own, own | {"finish": True}, own | {"step_size": 2.0})]
    records.append(tuned({"method": "default"} | on, [0.0]))
    assert confirmed(records, own) is records[0]
    assert confirmed(records, own | {"finish": True}) is records[1]
    assert confirmed(records, own | {"step_size": 2.0}) is records[2]
    assert confirmed(records, {"method": "default"}) is records[3]
    for chosen in (own | {"step_size": 3.0}, {"method": "sgd"}):  # no record, and more than one
        with pytest.raises(ValueError, match="values to unpack"):
            confirmed(records, chosen)


def test_the_grid_tries_every_combination_once() -> None:
    for method in ("sgd", "momentum", "adam"):
        V, A = rivals.STEP_SIZES[method]
        tried = rivals.grid(method)
        names = ("batch_size", "step_size", "step_size_A", "decay")
        assert {tuple(each[name] for name in names) for each in tried} == set(
            product(rivals.BATCH_SIZES, V, A, (False, True))
        )
        assert len(tried) == len(rivals.BATCH_SIZES) * len(V) * len(A) * 2
    assert len(rivals.grid("two stages")) == len(rivals.BATCH_SIZES) * len(rivals.SMALL_STEP_SIZES)
    wanted = rivals.tuning_settings()
    assert len({key(each) for each in wanted}) == len(wanted)
    assert {each["method"] for each in wanted} == set(rivals.METHODS)
    assert all((each["tasks"], each["watched"]) == (list(rivals.TUNING), False) for each in wanted)
    assert not set(rivals.TUNING) & set(rivals.CONFIRMING)


def test_every_rival_gets_the_same_samples() -> None:
    for each in rivals.tuning_settings():
        own = {name: value for name, value in each.items() if name not in ("tasks", "watched")}
        stages = rivals.make(**own)
        assert sum(stage.steps * stage.batch_size for stage in stages) == rivals.BUDGET  # type: ignore[attr-defined]
        if own["method"] == "two stages":
            assert [type(stage) for stage in stages] == [SmallSteps, Descent]
            continue
        [rival] = stages
        assert isinstance(rival, PlainDescent)
        for name in ("batch_size", "step_size", "step_size_A", "decay"):
            assert getattr(rival, name) == own[name]
        assert (rival.optimizer, rival.average) == (own["method"], False)
        shorter, trim, back, last = rivals.make(**own, finish=True)
        assert isinstance(back, rivals.PutBack)
        assert replace(shorter, steps=rival.steps) == rival  # type: ignore[type-var]
        assert isinstance(trim, Trim)
        assert isinstance(last, SparseDescent)
        assert shorter.steps * shorter.batch_size + last.steps * last.batch_size == rivals.BUDGET  # type: ignore[attr-defined]


def test_the_winners_of_the_tuning_are_confirmed_on_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random errors in the place of runs; each way to read a run has a winner of its own."""
    rng = np.random.default_rng(0)
    records = []
    for each in rivals.tuning_settings():
        record = tuned(each, [0.0] * 3)
        for reading in rivals.READINGS:
            record["result"][reading] = [judged(0.0, error) for error in rng.random(3)]
        records.append(record)
    asked = []
    monkeypatch.setattr(rivals, "kept", lambda name: asked.append(name) or records)
    chosen = rivals.settings()
    assert asked == ["rivals_tuning"]
    assert len({key(each) for each in chosen}) == len(chosen)
    assert all((each.pop("tasks"), each.pop("watched")) == (list(rivals.CONFIRMING), True) for each in chosen)
    assert chosen[0] == {"method": "default"}
    for V, A in rivals.LARGE_AND_SMALL:
        assert {"method": "sgd", "batch_size": 32, "step_size": V, "step_size_A": A, "decay": False} in chosen

    def best(method: str, reading: str, decay: bool | None) -> dict:
        worst = {
            max(judgement["error_A"] for judgement in record["result"][reading]): record["settings"]
            for record in records
            if record["settings"]["method"] == method and record["settings"].get("decay") is decay
        }
        return {name: value for name, value in worst[min(worst)].items() if name not in ("tasks", "watched")}

    expected = [best("two stages", "last", None)]
    for method in ("sgd", "momentum", "adam"):
        expected += [best(method, reading, decay) for reading in rivals.READINGS for decay in (False, True)]
        expected.append(best(method, "last, trimmed", True) | {"finish": True})
    assert {key(each) for each in expected} <= {key(each) for each in chosen}
    assert {key(each) for each in chosen[3:]} <= {key(each) for each in expected}


def test_the_report_of_the_rivals_shows_each_winner_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the tuning of the book's grid, the runs that it asks for, and all errors as multiples of the default's."""
    tried = [
        tuned(each, [each["step_size"] + number / 1e6] * 3) for number, each in enumerate(rivals.tuning_settings())
    ]
    monkeypatch.setattr(rivals, "kept", lambda name: tried)
    errors = {"default": 0.02, "two stages": 0.03, "sgd": 0.05, "momentum": 0.1, "adam": 0.25}
    records = [tuned(each, [errors[each["method"]]] * 20) for each in rivals.settings()]
    rivals.report(records)
    _, first, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * (2 * 4 + 1) + 1
    assert " ".join(first.split()) == "default last 0.0200 [0.0200, 0.0200] 1.0 [1.0, 1.0] 20/20 []"
    assert " ".join(lines[0].split()).startswith(
        "sgd last False 0.0500 [0.0500, 0.0500] 2.5 [2.5, 2.5] 20/20 [32, 0.1,"
    )
    assert sum("then stage 2" in line for line in lines) == 3


def test_v_is_put_back_where_stage_2_keeps_it() -> None:
    """To the nearest V whose columns sum to one and with V mu = mu; nothing else changes, and no sample is taken."""
    task = SCBTask.random(4, 20, 2, mu_ratio=3, seed=0)
    V, A = parameters(4, 20, seed=0)
    state, stream, mu = replace(start_of(task), V=V.clone(), A=A.clone()), small_stream(task, 0), torch.tensor(task.mu)
    assert rivals.PutBack().step(state, stream)
    assert stream.position == 0
    assert torch.equal(state.A, A)
    there = state.V
    torch.testing.assert_close(there.sum(0), torch.ones(4).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(there @ mu, mu, rtol=0, atol=1e-13)
    for seed in range(5):  # what was taken away is at right angles to every direction that keeps both
        other, _ = parameters(4, 20, seed)
        direction = geometry.centre_V(other, mu)
        assert abs(float(geometry.inner(V - there, direction, mu))) < 1e-13
    rivals.PutBack().step(state, stream)
    torch.testing.assert_close(state.V, there, rtol=0, atol=1e-13)
    P, _, _ = double(task)
    state.V = P
    rivals.PutBack().step(state, stream)
    torch.testing.assert_close(state.V, P, rtol=0, atol=1e-13)
    assert fit(stream, [rivals.PutBack()], start=state).finished


# Rivals: watching


@pytest.mark.parametrize("steps", [1, 2, 7, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_mean_of_the_second_half_is_that_of_averaging(optimizer: str, steps: int) -> None:
    """So that one run tells what it would have been with averaging; the rest of the state is that of the end."""
    task = SCBTask.random(3, 20, 2, K_P=0.4, seed=0)
    sizes: dict[str, Any] = {"optimizer": optimizer, "steps": steps, "batch_size": 8, "step_size": 0.1}
    watch = rivals.Watch(task, steps)
    options: dict[str, Any] = {"start": start_of(task)}
    plain = fit(small_stream(task, 1), [PlainDescent(**sizes)], observers=[watch], record_every=1, **options)
    averaged = fit(small_stream(task, 1), [PlainDescent(**sizes, average=True)], **options)
    mean = watch.mean(plain.state)
    torch.testing.assert_close(mean.V, averaged.V, rtol=0, atol=1e-13)
    torch.testing.assert_close(mean.A, averaged.A, rtol=0, atol=1e-13)
    assert mean.V.dtype == torch.float64
    assert mean.mu is plain.state.mu
    if steps > 2:
        assert not torch.allclose(mean.V, plain.V, rtol=0, atol=1e-3)


def test_the_mean_keeps_single_precision() -> None:
    """And it is there without a task as well, when nothing is measured."""
    task = SCBTask.random(3, 20, 2, K_P=0.4, seed=0)
    watch = rivals.Watch(None, 4)
    stage = PlainDescent(optimizer="sgd", steps=4, batch_size=8, step_size=0.1)
    result = fit(small_stream(task, 1), [stage], observers=[watch], record_every=1)
    assert "error_V" not in result.history
    assert watch.states == 2
    assert watch.mean(result.state).V.dtype == watch.mean(result.state).A.dtype == torch.float32


def test_it_watches_some_sixty_times_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SCBTask.random(3, 20, 2, K_P=0.4, seed=0)
    monkeypatch.setattr(rivals, "align", lambda V, A, task: Estimate(V, A, 0, 0))  # only its calls matter here
    monkeypatch.setattr(rivals, "fit", lambda *_, **__: pytest.fail("not to be measured here"))
    watch, state = rivals.Watch(task, 250), start_of(task)
    silent = [step for step in range(250) if step % 4]
    for step in silent:
        assert watch(replace(state, step=step)) == {}
    monkeypatch.undo()
    for step in (0, 4, 248, 250):
        row = watch(replace(state, step=step))
        assert row.keys() == {"error_V", "error_A", "trims_exact"}
        assert row["error_A"] == pytest.approx(task.K_Q**0.5)
        assert not row["trims_exact"]
    P, Q, _ = double(task)
    there = watch(replace(state, step=4, V=P, A=Q))
    assert there["error_V"] == there["error_A"] == 0


def test_watching_says_whether_trimming_would_find_the_support() -> None:
    task = SCBTask.random(3, 200, 2, q_floor=0.8, K_P=0.4, seed=0)
    rng = np.random.default_rng(0)
    watch, state = rivals.Watch(task, 1), start_of(task)
    for size, exact in ((0.001, True), (0.5, False)):
        A = torch.tensor(task.Q + size * rng.normal(size=task.Q.shape))
        assert watch(replace(state, A=A))["trims_exact"] == exact


def test_a_rival_is_judged_by_what_it_misses_and_reads_in_vain() -> None:
    task = SCBTask.random(3, 50, 2, seed=0)
    P, Q, _ = double(task)
    assert rivals.judge(P, Q, task) == judged(0, 0)
    A = Q.clone()
    A[np.flatnonzero(task.support[:, 0])[0], 0] = 0
    A[np.flatnonzero(~task.support[:, 1])[:3], 1] = -0.01
    row = rivals.judge(P, A, task)
    assert (row["missed"], row["false"]) == (1, 3)


def test_numbers_are_kept_to_four_digits() -> None:
    assert rivals.brief(0.123456) == price.brief(0.123456) == 0.1235
    assert rivals.brief(np.array([123456.0, 0.0000123456])) == [123500, 1.235e-05]


def test_a_run_of_a_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of it is judged, and watching changes nothing."""
    monkeypatch.setattr(rivals, "BUDGET", 3_200)
    monkeypatch.setattr(rivals, "SIZE", rivals.SIZE | {"seq_len": 60})
    monkeypatch.setattr("scb_nb.stream.BLOCK_TOKENS", 10_000)
    options: dict[str, Any] = {"batch_size": 32, "step_size": 0.16, "step_size_A": 0.03, "decay": False}
    rows = {watched: rivals.one("momentum", 5, watched, **options) for watched in (True, False)}
    assert rows[True] | {"path": None} == rows[False]
    row = rows[True]
    assert (row["outcome"], row["samples"]) == ("finished", 3_200)
    assert row["path"].keys() == {"samples", "error_V", "error_A", "trims_exact"}
    assert row["path"]["samples"] == [32 * step for step in range(101)]
    assert row["path"]["error_V"][-1] == row["last"]["error_V"]
    assert row["last"]["error_V"] == row["last, trimmed"]["error_V"] != row["average"]["error_V"]
    assert len({row[reading]["error_A"] for reading in rivals.READINGS}) == 4
    assert row["last"]["false"] == 3 * 60 - 6
    # The mean is that of a run of its own with averaging.
    task = SCBTask.random(**rivals.SIZE, **rivals.FAMILY, seed=5)
    [rival] = rivals.make("momentum", **options)
    assert isinstance(rival, PlainDescent)
    for average, reading in ((False, "last"), (True, "average")):
        result = fit(task.stream(5, device="cpu", share_mu=True), [replace(rival, average=average)])
        assert rivals.judge(result.V, result.A, task) == pytest.approx(row[reading], rel=2e-3)
        result = fit(task.stream(5, device="cpu", share_mu=True), [Trim()], start=result.state)
        assert rivals.judge(result.V, result.A, task) == pytest.approx(row[f"{reading}, trimmed"], rel=2e-3)
    lost = rivals.one("sgd", 5, **options | {"step_size": 1e9})
    assert lost.pop("outcome") == "diverged"
    assert set(lost) == {"samples", "path", *rivals.READINGS}
    assert not any(lost.values())
    both = rivals.run("sgd", [5, 6], **options)
    assert [both["outcome"], both["samples"]] == [["finished"] * 2, [3_200] * 2]


def test_the_two_stages_have_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "BUDGET", 512)
    monkeypatch.setattr(rivals, "SIZE", rivals.SIZE | {"seq_len": 60})
    row = rivals.one("two stages", 5, batch_size=32, step_size=0.1)
    assert row["outcome"].startswith("gave up in stage 1: ")
    assert row["last"] is not None
    assert [row[name] for name in rivals.READINGS[1:]] == [None] * 3
