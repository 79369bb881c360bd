"""The chapter "Sample complexity, measured", proposition by proposition; and the trials that it is made of."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import double, small_stream
from scipy import optimize, stats

from experiments import complexity as experiment
from scb_nb import SCBTask, batch_gradients, complexity, fit, geometry, screening
from scb_nb.complexity import METHODS, SIZES, chi_critical, expected, power_law, trial, until
from scb_nb.many import fit_many
from scb_nb.stages import Descent, SmallSteps
from scb_nb.state import State
from scb_nb.stream import Batch, BatchStream

# What theory expects


@pytest.mark.parametrize(("N", "S", "T"), [(3, 2, 100), (3, 8, 1_000), (12, 2, 20_000)])
def test_even_odds_for_all_positions(N: int, S: int, T: int) -> None:
    """At the samples that are expected every formula gives a chance of one half that all N S positions are named."""
    M, K_P, size = N * S, 0.3, {"vocab_size": N, "sparsity": S}
    one, two = (stats.norm.isf(0.01 / (tails * T * N)) for tails in (1, 2))
    star = (N - 1) * (1 - 1 / N) / K_P * T

    for c in (1.0, 0.5, -0.25):
        n = expected("transfer", T, correlation=c, **size)
        assert stats.norm.sf(two - abs(c) / S * math.sqrt(n * K_P)) ** M == pytest.approx(0.5, rel=1e-6)
    n = expected("large step", T, **size)
    c = 1 / math.sqrt(1 + star / (n / 2))
    assert stats.norm.sf(one - c / S * math.sqrt(n / 2 * K_P)) ** M == pytest.approx(0.5, rel=1e-6)
    known = ((one + stats.norm.ppf(0.5 ** (1 / M))) * S) ** 2 / K_P
    assert n == pytest.approx(known + math.sqrt(known * (known + 4 * star)))
    assert expected("small steps", T, **size) == pytest.approx(math.sqrt(2 * known * star))

    freedom = (N - 1) ** 2
    critical = stats.chi2.isf(0.01 / (T * N), freedom)
    assert chi_critical(freedom, T * N) == pytest.approx(critical, rel=1e-6)
    n = expected("screen", T, **size)
    exact = optimize.brentq(lambda n: stats.ncx2.sf(critical, freedom, n * K_P / S**2) ** M - 0.5, n / 2, 2 * n)
    assert n == pytest.approx(exact, rel=0.08)  # a normal variable stands for the noncentral one


@pytest.mark.parametrize(("step_size", "batch_size"), [(0.05, 16), (0.025, 8)])
def test_small_steps_that_are_looked_at(step_size: float, batch_size: int) -> None:
    """Signal and noise in A after a few small steps, over many tasks: the two parts of the height."""
    T, n, tasks = 400, 160, 300
    drawn = [SCBTask.random(3, T, 2, K_P=0.3, q_floor=1.0, seed=seed) for seed in range(tasks)]
    sources = [small_stream(task, seed) for seed, task in enumerate(drawn)]
    stage = Descent(steps=n // batch_size, batch_size=batch_size, step_size=step_size)
    signal, noise = [], []
    for task, run in zip(drawn, fit_many(sources, [stage] * tasks), strict=True):
        support = torch.tensor(task.support)
        height = run.A - run.A.median(0).values
        signal.append(float(height[support].mean()))
        noise.append(float(height[~support].square().mean()))
    time, star = step_size * n / batch_size, 4 / 3 / 0.3 * T
    rise = 1 - batch_size / n  # m (m - 1) / 2 pairs of steps, and not m^2 / 2
    error = 3 * np.std(signal) / tasks**0.5
    assert np.mean(signal) == pytest.approx(0.3 * rise * time**2 / (2 * T * 2), abs=error)
    assert error < 0.55 * np.mean(signal), "or nothing is seen"
    phi = batch_size / step_size
    more = 1 + 2 * n / (3 * star)  # V has signal as well
    assert np.mean(noise) == pytest.approx(more * 4 / 3 * rise * time**2 / (2 * T * phi**2), rel=0.2)
    told = 0.3**0.5 / 2 * n / math.sqrt(2 * star)
    assert 0.3 * time**2 / (4 * T) / math.sqrt(4 / 3 * time**2 / (2 * T * phi**2)) == pytest.approx(told)


def chance(n: float, T: float, *, either: bool = False, N: int = 3, S: int = 1, K_P: float = 0.6) -> float:
    """The model of the proposition, by integration over the cosine of the direction (d = 4) and not by drawing."""
    d, z = (N - 1) ** 2, stats.norm.isf(0.01 / (T * N))
    shift = math.sqrt(d * n / 2 / ((N - 1) * (1 - 1 / N) / K_P * T))
    # c = x / sqrt(x^2 + w), x normal about the shift, w chi-squared with d - 1 degrees of freedom
    u = (np.arange(200) + 0.5) / 200
    x, w = (shift + stats.norm.ppf(u))[:, None], stats.chi2.ppf(u, d - 1)
    height = x / np.sqrt(x**2 + w) * math.sqrt(K_P * n / 2) / S
    named = stats.norm.sf(z - height) ** (N * S)
    return float((named + (stats.norm.sf(z + height) ** (N * S) if either else 0)).mean())


def needed(p: float, T: float, **options: Any) -> float:
    return float(np.exp(optimize.brentq(lambda x: chance(math.exp(x), T, **options) - p, 3, math.log(100 * T) + 5)))


def test_three_powers_in_one_method() -> None:
    lengths = [1e6, 1e8, 1e10]
    for p, least, most in ((0.25, 0.0, 0.1), (0.5, 0.45, 0.6), (0.9, 0.95, 1.05)):
        slopes = np.diff(np.log([needed(p, T) for T in lengths])) / np.diff(np.log(lengths))
        assert all(least < slope < most for slope in slopes), (p, slopes)
    star = 4 / 3 / 0.6 * lengths[-1]
    assert needed(0.9, lengths[-1]) / star == pytest.approx(2 * (stats.norm.ppf(0.9) / 2) ** 2, rel=0.02)
    slopes = np.diff(np.log([needed(0.9, T, either=True) for T in lengths])) / np.diff(np.log(lengths))
    assert all(0 < slope < 0.1 for slope in slopes)


def test_at_equal_samples_there_is_one_dial() -> None:
    """Mean and variance by the recursion itself, and the limit of small steps."""
    h, omega, start, samples = 0.7, 1.3, 2.0, 4_000
    for phi in (50.0, 400.0):
        time = samples / phi
        limit = math.exp(-h * time) * start, omega**2 / (2 * h * phi) * (1 - math.exp(-2 * h * time))
        gaps = []
        for eta in (0.4, 0.1, 0.025):
            B, m = eta * phi, round(time / eta)
            mean, variance = start, 0.0
            for _ in range(m):
                mean, variance = (1 - eta * h) * mean, (1 - eta * h) ** 2 * variance + eta**2 * omega**2 / B
            assert mean == pytest.approx((1 - eta * h) ** m * start)
            told = eta / B * omega**2 * (1 - (1 - eta * h) ** (2 * m)) / (h * (2 - eta * h))
            assert variance == pytest.approx(told)
            gaps.append(abs(variance / limit[1] - 1) + abs(mean - limit[0]))
        assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
        assert gaps[2] < 0.02


def lengthened(batch: Batch, places: torch.Tensor, seq_len: int) -> Batch:
    """The same samples among more positions, whose tokens are drawn."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(batch.vocab_size, (len(batch), seq_len), generator=generator)
    tokens[:, places] = batch.tokens.to(tokens.dtype)
    return Batch(tokens, batch.query, batch.target, batch.vocab_size)


def test_on_a_support_nothing_depends_on_the_length() -> None:
    """Among more positions, at other places: the same V, and the same A on the support."""
    task = SCBTask.random(3, 12, 2, K_P=0.3, seed=0)
    batch, mu = task.sample(600, seed=1, device="cpu"), torch.tensor(task.mu)
    places = torch.randperm(70, generator=torch.Generator().manual_seed(1))[:12]
    ends = []
    for samples, where in ((batch, torch.arange(12)), (lengthened(batch, places, 70), places)):
        start = State.uniform(mu, samples.tokens.shape[1])
        start.support = torch.zeros_like(start.support)
        start.support[where] = torch.tensor(task.support)
        start.A = (start.support / start.support.sum(0)).to(mu)
        stage = Descent(steps=40, batch_size=100, step_size=0.3, sparsity="support", average=True)
        result = fit(BatchStream(samples, mu=task.mu), [stage], start=start)
        assert not bool(result.A[~start.support].any())
        ends.append((result.V, result.A[where]))
    torch.testing.assert_close(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[0][1], ends[1][1])
    assert float((ends[0][0] - mu[:, None]).abs().max()) > 0.05, "or nothing was learned"


def test_what_least_squares_leaves() -> None:
    """Equation (second): the noise of one sample at the truth, in V and, on the support, in A."""
    for N, S in ((3, 2), (5, 3), (3, 6)):
        squares = []
        for seed in range(4):
            task = SCBTask.random(N, 40, S, K_P=0.3, q_floor=1.0, seed=seed)
            P, Q, mu = double(task)
            batch = task.sample(500, seed, device="cpu")
            for i in range(len(batch)):
                gradients = batch_gradients(P, Q, batch[i : i + 1])
                V, A = geometry.centre_V(gradients.V / mu, mu), geometry.centre_A(gradients.A / mu, Q > 0)
                squares.append([float(geometry.norm(each, mu)) ** 2 for each in (V, A)])
        loss = 1 - 1 / N - 0.3 / S
        told = loss * (N - 1) / S, N * (S - 1) * 0.3 * (loss / (N - 1) + 0.3 / S)
        np.testing.assert_allclose(np.mean(squares, axis=0), told, rtol=0.25)  # the error has preferred directions


# Trials


def test_a_trial_of_every_method_comes_to_its_end() -> None:
    for method in METHODS:
        row = trial(method, 200, most=12_800, seed=3)
        assert len(row["samples"]) == len(row["seen"]) > 10
        assert row["samples"] == sorted(set(row["samples"]))
        assert set(row["seen"]) <= set(".snd")
        assert row["seen"][-3:] == "nnn" or method == "one probe"
        assert row == trial(method, 200, most=12_800, seed=3)
        if method != "small steps":
            assert set(row["samples"]) <= set(SIZES)
            assert row["samples"][-1] in (12_800, SIZES[31])
            fewer = trial(method, 200, most=400, seed=3)
            assert fewer["seen"] == row["seen"][: len(fewer["seen"])]
            assert fewer["samples"][-1] <= 400


def test_letters_say_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SCBTask.random(3, 20, 2, K_P=0.3, q_floor=1.0, seed=0)
    truth, none = torch.tensor(task.support), torch.zeros(20, 3, dtype=torch.bool)
    one_query, two_queries, too_many = none.clone(), truth.clone(), truth.clone()
    one_query[:, 0] = truth[:, 0]
    two_queries[:, 2] = False
    too_many[(~truth).nonzero()[0].tolist()[0], (~truth).nonzero()[0].tolist()[1]] = True

    def looks(*_: Any) -> Iterator[complexity.Look]:
        found = (none, one_query, two_queries, truth, too_many, none, truth)
        for n, up in enumerate(found, start=1):
            yield n, up, truth if n == 6 else None

    monkeypatch.setattr(complexity, "_looks", looks)
    row = trial("screen", 20, seed=0)
    assert row == {"samples": [1, 2, 3, 4, 5, 6, 7], "seen": "..snsdn"}
    assert until([row], "seen").tolist() == [3]
    assert until([row], "named").tolist() == [4]
    assert until([row], "ended").tolist() == [7]
    never = {"samples": [5, 6], "seen": "ss"}
    assert until([row, never], "named").tolist() == [4, math.inf]
    assert until([never], "ended").tolist() == [math.inf]
    assert until([{"samples": [5, 6], "seen": ".n"}], "seen").tolist() == [6]
    assert until([{"samples": [5, 6], "seen": ".d"}], "seen").tolist() == [math.inf]


def test_small_steps_of_a_trial_are_those_of_the_stage() -> None:
    task = SCBTask.random(3, 200, 2, K_P=0.3, q_floor=1.0, seed=5)
    stage = SmallSteps(steps=600, batch_size=16, step_size=0.1)
    whole = fit(task.stream(5, device="cpu", share_mu=True), [stage])
    row = trial("small steps", 200, seed=5)
    assert row["samples"][-1] == whole.samples
    assert (row["seen"][-1] == "n") == bool(torch.equal(whole.support, torch.tensor(task.support)))
    assert trial("small steps", 200, ratio=1.6, seed=5)["samples"][0] == 32


@pytest.mark.parametrize("c", [1.0, 0.5, -0.5])
def test_transfer_listens_along_a_direction_of_that_correlation(c: float, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, heard = [], []

    class Watched(complexity.Probes):
        def step(self, state: State, source: Any) -> bool:
            starts.append(state.V.clone())
            found = super().step(state, source)
            heard.append(source.position)
            return found

    monkeypatch.setattr(complexity, "Probes", Watched)
    row = trial("transfer", 100, correlation=c, most=3_200, seed=1)
    assert heard == row["samples"]
    P, _, mu = double(SCBTask.random(3, 100, 2, K_P=0.3, q_floor=1.0, seed=1))
    assert all(torch.equal(each, starts[0]) for each in starts)
    along, own = P - mu[:, None], starts[0].double() - mu[:, None]
    assert float(geometry.norm(own, mu)) == pytest.approx(1, abs=1e-5)
    assert float(geometry.inner(own, along, mu) / geometry.norm(along, mu)) == pytest.approx(c, abs=1e-5)
    assert row["seen"][-1] == "n"


@pytest.mark.parametrize(("method", "random"), [("probes", None), ("one probe", 1), ("transfer", 0)])
def test_random_probes_are_as_many_as_the_method_says(
    method: str, random: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    class Watched(complexity.Probes):
        def step(self, state: State, source: Any) -> bool:
            looks.append(self.random)
            return super().step(state, source)

    monkeypatch.setattr(complexity, "Probes", Watched)
    trial(method, 40, most=100)
    assert looks == [random] * 5


def test_large_step_learns_from_one_half_and_listens_to_the_other() -> None:
    task = SCBTask.random(3, 50, 2, K_P=0.3, q_floor=1.0, seed=0)
    batch = task.sample(801, seed=1, device="cpu")
    mu = torch.full((3,), 1 / 3)
    start = State.uniform(mu, 50)
    D = -geometry.centre_V(batch_gradients(start.V, start.A, batch[:400]).V / mu, mu)
    pull = -batch_gradients(start.V + D / geometry.norm(D, mu), start.A, batch[400:]).A / mu
    height = complexity.large_step(batch)
    torch.testing.assert_close(height * screening.noise_level(pull, mu), pull - pull.median(0).values)
    assert trial("large step", 50, vocab_size=2, most=12_800, seed=7)["seen"] == ".....snndsnnnnnnn"


def test_downwards_is_where_the_direction_points_away() -> None:
    """Wherever a trial says "d", exactly the support stands below minus the critical value; and that does happen."""
    critical, downwards = screening.critical_value(900, 0.01), 0
    for seed in range(16):
        row = trial("large step", 300, sparsity=1, K_P=0.6, most=400, seed=seed)
        task = SCBTask.random(3, 300, 1, K_P=0.6, q_floor=1.0, seed=seed)
        batch, support = task.sample(400, seed, device="cpu"), torch.tensor(task.support)
        for n, letter in zip(row["samples"], row["seen"], strict=True):
            height = complexity.large_step(batch[:n])
            assert (letter == "d") == torch.equal(height < -critical, support)
            assert (letter == "n") == torch.equal(height > critical, support)
            downwards += letter == "d"
    assert downwards


def test_measured_medians_lie_where_they_are_expected() -> None:
    """The live sweep of the chapter, on other tasks."""
    for method, factor in (("transfer", 1.4), ("screen", 1.4), ("large step", 2.0), ("small steps", 1.8)):
        median = np.median(until([trial(method, 200, most=6_400, seed=100 + seed) for seed in range(12)], "named"))
        assert 1 / factor < median / expected(method, 200) < factor, (method, median)


# Exponents


def test_power_law_of_a_power_law() -> None:
    sizes = np.array([100, 200, 500, 1_000, 2_000])
    noise = np.exp(np.random.default_rng(0).normal(size=(5, 40), scale=0.3))
    law = power_law(sizes, 3 * sizes[:, None] ** 0.5 * noise)
    assert law.low < 0.5 < law.high
    assert law.low <= law.exponent <= law.high
    assert law.high - law.low < 0.25
    assert law.bend_low < 0 < law.bend_high
    assert law.bend == pytest.approx(law.late - law.early)
    exact = power_law(sizes, np.tile(7 * sizes[:, None] ** 1.25, 3))
    assert (exact.exponent, exact.low, exact.high, exact.early, exact.late) == pytest.approx((1.25,) * 5)
    assert exact.bend == pytest.approx(0, abs=1e-9)


def test_intervals_cover_the_exponent_as_often_as_they_say() -> None:
    """With tasks drawn at each size apart, also where those of all sizes are alike; 2% is one standard error."""
    sizes, rng = np.array([100, 200, 400, 800]), np.random.default_rng(0)
    inside = []
    for _ in range(200):
        law = power_law(sizes, sizes[:, None] ** 0.5 * np.exp(rng.normal(size=(4, 41), scale=0.3)), draws=200)
        inside.append((law.low < 0.5 < law.high, law.bend_low < 0 < law.bend_high))
    np.testing.assert_allclose(np.mean(inside, axis=0), 0.9, atol=0.06)
    alike = power_law(sizes, sizes[:, None] ** 0.5 * np.exp(rng.normal(size=41, scale=0.3)))
    assert alike.low < 0.48 < 0.52 < alike.high


def test_power_law_sees_a_bend() -> None:
    sizes = np.array([100, 300, 1_000, 3_000])
    noise = np.exp(np.random.default_rng(1).normal(size=(4, 40), scale=0.2))
    law = power_law(sizes, (300 + sizes[:, None]) * noise)
    assert law.bend_low > 0
    assert law.early < law.exponent < law.late
    assert law.early == pytest.approx(np.log(600 / 400) / np.log(3), abs=0.15)


def test_power_law_with_failures() -> None:
    sizes = [1, 2, 4]
    samples = np.array([[10, 10, 10, 11], [20, 20, 21, math.inf], [40, 40, math.inf, 41]], dtype=float)
    law = power_law(sizes, samples)
    assert law.exponent == pytest.approx(1, abs=0.05)
    assert np.isfinite(law).all()
    samples[1, :3] = math.inf
    with pytest.raises(ValueError, match="finite median at each size"):
        power_law(sizes, samples)


# The experiment


def test_settings_are_apart_and_fit_each_other() -> None:
    found = experiment.settings()
    firsts = [each["first"] for each in found]
    assert len(set(firsts)) == len(found)
    assert min(np.diff(firsts)) >= max(each["tasks"] for each in found), "no two runs share a task"
    for each in found:
        if each["what"] == "rates":
            size = experiment.batch_size(each["time"], each["step_size"])
            steps = round(experiment.SAMPLES / size)
            assert steps * size == pytest.approx(experiment.SAMPLES, rel=0.05)
            assert steps * each["step_size"] == pytest.approx(each["time"], rel=0.25)


def test_runs_are_small_trials_of_the_kept_kind() -> None:
    base = {"vocab_size": 3, "sparsity": 2}
    result = experiment.run(what="support", method="screen", seq_len=40, tasks=3, first=10, most=800, **base)
    assert experiment.trials(result) == [trial("screen", 40, most=800, seed=10 + number) for number in range(3)]
    walked = experiment.run(what="support", method="small steps", seq_len=60, tasks=3, first=10, most=50, **base)
    ends = until([trial("small steps", 60, seed=10 + number) for number in range(3)], "ended")
    assert until(experiment.trials(walked), "ended").tolist() == ends.tolist()

    errors = np.array(experiment.run(what="second stage", seq_len=40, tasks=4, first=10, **base)["errors"])
    assert errors.shape == (4, 5 if experiment.SHORT < 40 else len(experiment.PASSES), 2)
    assert np.median(errors[:, -1]) < 0.3 * np.median(errors[:, 0])
    record = {"result": {"errors": errors.tolist()}}
    small, large = (experiment.for_error(record, epsilon) for epsilon in (0.02, 0.05))
    assert 64 * 20 < large < small < 64 * 1_280
    assert experiment.for_error(record, 10.0) == 64 * 20
    assert math.isinf(experiment.for_error(record, 1e-9))


def test_rates_at_equal_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """On few samples: two step sizes end alike, and one that is far too large does not."""
    monkeypatch.setattr(experiment, "SEQ_LEN", 100)
    monkeypatch.setattr(experiment, "SAMPLES", 4_000)
    ends = {eta: experiment.run(what="rates", time=20, step_size=eta, tasks=6, first=0) for eta in (0.05, 0.2)}
    assert np.median(ends[0.05]["alpha_V"]) == pytest.approx(np.median(ends[0.2]["alpha_V"]), abs=0.12)
    assert np.median(ends[0.05]["alpha_V"]) > 0.4
    assert sum(ends[0.05]["exact"]) >= 4
    wild = experiment.run(what="rates", time=80, step_size=6.4, tasks=6, first=0)
    assert sum(value is None for value in wild["alpha_V"]) >= 4
    assert not any(end for end, value in zip(wild["exact"], wild["alpha_V"], strict=True) if value is None)
