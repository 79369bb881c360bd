"""Chapter 7, proposition by proposition, and that its live comparison and the kept one have the same trend."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import double, parameters, small_stream, start_of

from scb_nb import SCBTask, align, fit, geometry, population_gradients, store
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import Descent, SmallSteps, State


def make_task(seed: int, seq_len: int, mu_ratio: float = 1.0) -> SCBTask:
    return SCBTask.random(3, seq_len, 2, K_P=0.3, q_floor=0.5, mu_ratio=mu_ratio, seed=seed)


def omega_squared(task: SCBTask) -> np.ndarray:
    Sigma = np.diag(task.mu) - np.outer(task.mu, task.mu)
    M = task.P @ Sigma @ task.P.T
    return np.trace(M @ Sigma) - (task.Q**2).sum(axis=0) * np.trace(M @ M)


def at_P(task: SCBTask) -> State:
    P, _, _ = double(task)
    return replace(start_of(task), V=P)


def descent_in_A(task: SCBTask, seed: int, steps: int, batch_size: int, **options: Any) -> torch.Tensor:
    """Plain descent in A alone at V = P."""
    settings = {"optimizer": "sgd", "step_size": 0.0} | options
    stage = PlainDescent(steps=steps, batch_size=batch_size, **settings)
    return fit(small_stream(task, seed), [stage], start=at_P(task), record_every=10**6).A


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_largest_stable_step(seed: int, momentum: float) -> None:
    """The curvatures for any V, exact descent at both sides of the limit, and the steps that it takes within."""
    T = 40
    task = make_task(seed, T, mu_ratio=2)
    _, Q, mu = double(task)
    V, A = parameters(3, T, seed)
    mean, spread = V @ mu, geometry.norm(V, mu) ** 2 - (V @ mu).square().sum()

    def change(direction: torch.Tensor) -> torch.Tensor:
        return population_gradients(V, A + direction, task).A - population_gradients(V, A, task).A

    along = torch.ones_like(A)
    torch.testing.assert_close(change(along), mu * (spread + T * mean.square().sum()) * along)
    across = A - A.mean(0)
    torch.testing.assert_close(change(across), mu * spread * across)

    def descend(V: torch.Tensor, A: torch.Tensor, step_size: float, steps: int) -> torch.Tensor:
        running = torch.zeros_like(A)
        for _ in range(steps):
            running = momentum * running + population_gradients(V, A, task).A
            A = A - step_size * running
        return A

    limit = 2 * (1 + momentum) / (T * task.mu.max() * float(mu @ mu))
    start = start_of(task)
    for share, stable in ((0.98, True), (1.02, False)):
        for V in (start.V, at_P(task).V):
            ended = descend(V, Q + 1e-3, share * limit, 600)
            if stable and V is start.V:
                assert (ended.sum(0) - Q.sum(0)).abs().max() < 1e-2
            if not stable:
                assert (ended - Q).abs().max() > 1.0
    if momentum == 0:
        left = descend(at_P(task).V, start.A, 0.98 * limit, 1) - Q
        for k in range(3):
            shrink = float((left[:, k] - left[:, k].mean()).norm() / (start.A - Q)[:, k].norm())
            steps = -1 / math.log(shrink)
            claimed = T * float(mu @ mu) / (2 * task.K_P) * task.mu.max() / task.mu[k] - 1
            assert steps >= claimed


def test_a_constant_rate() -> None:
    """Mean and variance of real runs; the noise at the truth is nearly theirs, as the error stays small."""
    task = make_task(0, 60, mu_ratio=2)
    _, Q, mu = double(task)
    step_size, batch_size, runs = 0.05, 32, 20
    ends = torch.stack([descent_in_A(task, s, 400, batch_size, step_size_A=step_size) for s in range(runs)])
    for k in range(3):
        unread = Q[:, k] == 0
        entries = ends[:, unread, k]
        variance = float((entries - entries.mean(1, keepdim=True)).square().sum()) / (runs * (int(unread.sum()) - 1))
        shrink = step_size * task.mu[k] * task.K_P
        expected = step_size / batch_size * omega_squared(task)[k] / (task.K_P * (2 - shrink))
        expected *= 1 - (1 - shrink) ** 800
        assert variance == pytest.approx(expected, rel=0.15)

    # The mean: exact gradients, so one factor in each step.
    A = start_of(task).A
    for _ in range(50):
        A = A - step_size * population_gradients(at_P(task).V, A, task).A
    centred = (A - Q) - (A - Q).mean(0)
    first = (start_of(task).A - Q) - (start_of(task).A - Q).mean(0)
    torch.testing.assert_close(centred, (1 - step_size * mu * task.K_P) ** 50 * first)


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "constant": lambda m: np.full(m, 0.3),
    "falling": lambda m: 0.9 * np.minimum(1, 2 * (1 - np.arange(m) / m)),
    "random": lambda m: np.random.default_rng(m).uniform(-0.5, 1.5, m),
    "best": lambda m: 1 / (np.arange(1, m + 1) + 4.0),
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_helps(name: str, average: bool, momentum: float) -> None:
    """Any schedule, by its coefficients, with batches of any sizes: they are tied together, and obey the bound."""
    h, m = 0.7, 30
    rates = SCHEDULES[name](m)
    sizes = np.random.default_rng(1).integers(1, 50, m)
    # One coordinate for the start, and one for each batch's noise.
    point, running, points = np.eye(m + 1)[0], np.zeros(m + 1), []
    for i in range(m):
        running = momentum * running + h * point + np.eye(m + 1)[i + 1]
        point = point - rates[i] * running
        points.append(point)
    end = np.mean(points[m // 2 :], axis=0) if average else point
    left, weights = end[0], -end[1:]
    assert h * weights.sum() == pytest.approx(1 - left)
    n, variance = sizes.sum(), 3.0
    noise = variance * (weights**2 / sizes).sum()
    nu = variance / h**2
    assert noise >= (1 - left) ** 2 * nu / n * (1 - 1e-12)
    for d in (0.01, 1.0, 100.0):
        assert left**2 * d + noise >= d * nu / (n * d + nu) * (1 - 1e-12)


def test_the_bound_is_attained() -> None:
    """By rates 1 / (h (i + u)), with equal batches: the exercise of the chapter."""
    h, m, size, variance, u = 0.7, 30, 8, 3.0, 4.0
    d = variance / h**2 / (size * u)
    error = d
    for rate in SCHEDULES["best"](m) / h:
        error = (1 - rate * h) ** 2 * error + rate**2 * variance / size
    nu = variance / h**2
    assert error == pytest.approx(d * nu / (m * size * d + nu))


@pytest.mark.parametrize(
    "options",
    [
        {"step_size_A": 0.02},
        {"step_size_A": 0.05},
        {"step_size_A": 0.08, "decay": True},
        {"step_size_A": 0.08, "average": True},
        {"step_size_A": 0.005, "optimizer": "momentum"},
    ],
    ids=["slow", "fast", "decay", "average", "momentum"],
)
def test_no_run_beats_the_bound(options: dict[str, Any]) -> None:
    """Real runs, whose noise is that of their samples, in the mean over six."""
    task = make_task(1, 80)
    _, Q, mu = double(task)
    n = 6_400
    errors = [(descent_in_A(task, seed, n // 16, 16, **options) - Q).square().sum(0) for seed in range(6)]
    mean = float(mu @ torch.stack(errors).mean(0))
    d = (task.Q**2).sum(axis=0) - 1 / 80
    nu = (80 - 2 - 1) * omega_squared(task) / (task.mu * task.K_P**2)
    bound = float(task.mu @ (d * nu / (n * d + nu)))
    assert bound <= mean
    assert mean <= 6 * bound


def larger(state: State, task: SCBTask) -> float:
    return max(align(state.V, state.A, task)[-2:])


def put_back(state: State) -> State:
    start = state.mu[:, None]
    return replace(state, V=start + geometry.centre_V(state.V - start, state.mu))


V_ALONE = Descent(steps=64, batch_size=128, step_size=0.3, step_size_A=0.0, sparsity="support", average=True)


def test_live_and_kept_results_agree_in_their_trend() -> None:
    """As they are, rivals are far from the two stages; trimmed, their support is exact; mended, they are near."""
    live: dict[str, list[float]] = {"as it is": [], "trimmed": [], "mended": [], "two stages": []}
    for seed in range(2):
        task = make_task(seed, 100)
        for optimizer, rate_V, rate_A in (("sgd", 1.0, 0.1), ("momentum", 0.1, 0.01), ("adam", 0.01, 0.003)):
            source = small_stream(task, seed)
            stage = PlainDescent(
                optimizer=optimizer,
                steps=494,
                batch_size=32,
                step_size=rate_V,
                step_size_A=rate_A,
            )
            end = fit(source, [stage], record_every=10**6).state
            trimmed = fit(source, [Trim()], start=end).state
            assert (trimmed.support.numpy() == task.support).all()
            live["as it is"].append(larger(end, task))
            live["trimmed"].append(larger(trimmed, task))
            live["mended"].append(larger(fit(source, [V_ALONE], start=put_back(trimmed)).state, task))
        half: dict[str, Any] = {"steps": 375, "batch_size": 32, "step_size": 0.1}
        stages = [SmallSteps(**half), Descent(**half, sparsity="l1", average=True)]
        live["two stages"].append(larger(fit(small_stream(task, seed), stages, record_every=10**6).state, task))
    two = float(np.median(live["two stages"]))
    assert min(live["as it is"]) > 5 * two
    assert np.median(live["as it is"]) > np.median(live["trimmed"]) > 3 * np.median(live["mended"])
    assert np.median(live["mended"]) < 2.5 * two

    def kept_larger(record: store.Record, reading: str) -> float:
        both = zip(record["result"][reading], record["result"]["outcome"], strict=True)
        errors = [max(j["error_V"], j["error_A"]) if j and o == "finished" else np.inf for j, o in both]
        return float(np.median(errors))

    records = store.kept("rivals")
    rivals = [r for r in records if r["settings"]["method"] in ("sgd", "momentum", "adam")]
    rivals = [r for r in rivals if not r["settings"].get("finish")]
    sparse = [r for r in records if r["settings"]["method"] in ("two stages", "default")]
    assert {r["settings"]["method"] for r in rivals} == {"sgd", "momentum", "adam"}
    best_sparse = max(kept_larger(r, "last") for r in sparse)
    as_they_are = min(kept_larger(r, reading) for r in rivals for reading in ("last", "average"))
    trimmed_best = min(kept_larger(r, f"{reading}, trimmed") for r in rivals for reading in ("last", "average"))
    assert as_they_are > trimmed_best > 3 * best_sparse
    for record in rivals:
        judged = [j for j in record["result"]["last, trimmed"] if j]
        if len(judged) == 20:
            assert sum(j["missed"] + j["false"] == 0 for j in judged) >= 18
            assert np.median([j["error_A"] for j in judged]) < 0.03


def test_stage_two_keeps_sums_and_so_a_wrong_scale() -> None:
    """Chapter 7 says why stage 2 behind a rival is not enough, and that one projection of V is."""
    task = make_task(0, 30)
    P, Q, _ = double(task)
    start = replace(start_of(task), V=1.2 * P, A=Q, support=Q != 0)
    after = fit(small_stream(task, 0), [V_ALONE], start=start).state
    torch.testing.assert_close(after.V @ after.mu, 1.2 * after.mu, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.A, Q)
    back = put_back(start)
    torch.testing.assert_close(back.V @ back.mu, back.mu)
    torch.testing.assert_close(back.V.sum(0), torch.ones(3, dtype=torch.float64))
    assert larger(after, task) > 0.1
    assert larger(fit(small_stream(task, 0), [V_ALONE], start=back).state, task) < 0.05


def test_the_best_V_for_an_attention_with_sums_one() -> None:
    """alpha = <Q, A> / |A|^2: there the preconditioned, projected gradient of V is zero."""
    for seed in range(5):
        task = make_task(seed, 12, mu_ratio=3)
        P, Q, mu = double(task)
        _, A = parameters(3, 12, seed)
        A = A - A.mean(0) + 1 / 12
        alpha = geometry.inner(Q, A, mu) / geometry.norm(A, mu) ** 2
        V = mu[:, None] + alpha * (P - mu[:, None])
        direction = geometry.centre_V(population_gradients(V, A, task).V / mu, mu)
        assert direction.abs().max() < 1e-12
