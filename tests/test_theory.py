"""The geometry against brute force, and the two-dimensional picture against full-matrix training."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, linalg

from scb_nb import SCBTask, align, geometry, population_gradients, population_loss, theory
from scb_nb.theory import Alignment
from tests.helpers import SEEDS, double, parameters, tasks

# The geometry


def nearest(direction: torch.Tensor, mu: torch.Tensor, constraints: np.ndarray) -> np.ndarray:
    """The nearest point, in the mu-weighted norm, with constraints @ point.ravel() = 0: plain least squares."""
    basis = linalg.null_space(constraints)
    weights = np.sqrt(np.broadcast_to(mu.numpy(), direction.shape)).ravel()
    coefficients = np.linalg.lstsq(weights[:, None] * basis, weights * direction.numpy().ravel(), rcond=None)[0]
    return (basis @ coefficients).reshape(direction.shape)


def column_sums(rows: int, columns: int) -> np.ndarray:
    """The matrix that takes D.ravel() to 1^T D."""
    return np.kron(np.ones(rows), np.eye(columns))


def weighted_rows(rows: int, mu: torch.Tensor) -> np.ndarray:
    """The matrix that takes D.ravel() to D mu."""
    return np.kron(np.eye(rows), mu.numpy())


@given(tasks(), SEEDS)
def test_inner_product_and_norm(task: SCBTask, seed: int) -> None:
    left, _ = parameters(task.vocab_size, task.seq_len, seed)
    right, _ = parameters(task.vocab_size, task.seq_len, seed + 1)
    _, _, mu = double(task)
    by_hand = sum(float(mu[n] * left[m, n] * right[m, n]) for m in range(len(mu)) for n in range(len(mu)))
    assert float(geometry.inner(left, right, mu)) == pytest.approx(by_hand, abs=1e-13)
    assert float(geometry.norm(left, mu)) ** 2 == pytest.approx(float(geometry.inner(left, left, mu)), abs=1e-13)


@given(tasks(), SEEDS)
def test_centre_V_is_the_nearest_point(task: SCBTask, seed: int) -> None:
    D, _ = parameters(task.vocab_size, 1, seed)
    _, _, mu = double(task)
    N = task.vocab_size
    constraints = np.vstack([column_sums(N, N), weighted_rows(N, mu)])
    np.testing.assert_allclose(geometry.centre_V(D, mu), nearest(D, mu, constraints), atol=1e-10)


@given(tasks(), SEEDS)
def test_centre_A_is_the_nearest_point(task: SCBTask, seed: int) -> None:
    _, D = parameters(task.vocab_size, task.seq_len, seed)
    _, _, mu = double(task)
    constraints = column_sums(task.seq_len, task.vocab_size)
    np.testing.assert_allclose(geometry.centre_A(D), nearest(D, mu, constraints), atol=1e-10)


@given(tasks(), SEEDS)
def test_centring_keeps_the_constraints(task: SCBTask, seed: int) -> None:
    D_V, D_A = parameters(task.vocab_size, task.seq_len, seed)
    _, _, mu = double(task)
    centred_V, centred_A = geometry.centre_V(D_V, mu), geometry.centre_A(D_A)
    for zero in (centred_V.sum(0), centred_V @ mu, centred_A.sum(0)):
        assert zero.abs().max() < 1e-13


@given(tasks(), SEEDS)
def test_centring_is_an_orthogonal_projection(task: SCBTask, seed: int) -> None:
    """Twice is once, and what is taken away is orthogonal to whatever stays."""
    _, _, mu = double(task)
    first, second = (parameters(task.vocab_size, task.seq_len, s) for s in (seed, seed + 1))
    centres = (lambda D: geometry.centre_V(D, mu)), geometry.centre_A
    for D, other, centre in zip(first, second, centres, strict=True):
        torch.testing.assert_close(centre(centre(D)), centre(D), rtol=0, atol=1e-13)
        assert abs(float(geometry.inner(D - centre(D), centre(other), mu))) < 1e-12


@given(tasks(), SEEDS)
def test_preconditioning_gives_the_gradient_of_the_weighted_norm(task: SCBTask, seed: int) -> None:
    """For any allowed direction D the slope <gradient, D> is <preconditioned gradient, D>_mu."""
    _, _, mu = double(task)
    gradient_V, gradient_A = parameters(task.vocab_size, task.seq_len, seed)
    D_V, D_A = parameters(task.vocab_size, task.seq_len, seed + 1)
    D_V, D_A = geometry.centre_V(D_V, mu), geometry.centre_A(D_A)
    step_V, step_A = geometry.preconditioned(gradient_V, gradient_A, mu)
    for step, gradient, D in ((step_V, gradient_V, D_V), (step_A, gradient_A, D_A)):
        torch.testing.assert_close(geometry.inner(step, D, mu), (gradient * D).sum(), rtol=1e-11, atol=1e-11)


# Full-matrix training is two numbers


PLANE = [
    pytest.param(SCBTask.random(4, 10, 2, seed=0), (0.5, 0.5), id="uniform mu"),
    pytest.param(SCBTask.random(4, 10, 2, seed=1, mu_ratio=6), (0.5, 0.5), id="skewed mu"),
    pytest.param(SCBTask.random(3, 50, 3, seed=2, mu_ratio=50, K_P=0.05), (0.3, 0.9), id="very skewed mu"),
    pytest.param(SCBTask.random(6, 4, 4, seed=3, mu_ratio=2, q_floor=0.0), (1.0, 0.2), id="dense Q"),
]


@pytest.mark.parametrize(("task", "step_sizes"), PLANE)
def test_population_training_stays_on_the_plane_and_follows_the_trajectory(
    task: SCBTask, step_sizes: tuple[float, float]
) -> None:
    P, Q, mu = double(task)
    V, A = mu[:, None].expand_as(P), torch.full_like(Q, 1 / task.seq_len)
    path = theory.trajectory(task, 600, step_size_V=step_sizes[0], step_size_A=step_sizes[1])
    assert path.shape == (601, 2)
    for alpha_V, alpha_A in path:
        alignment = align(V, A, task)
        assert max(alignment.residual_V, alignment.residual_A) < 1e-12
        assert alignment.alpha_V == pytest.approx(alpha_V, abs=1e-10)
        assert alignment.alpha_A == pytest.approx(alpha_A, abs=1e-10)
        gradients = population_gradients(V, A, task)
        step_V, step_A = geometry.preconditioned(gradients.V, gradients.A, mu)
        V, A = V - step_sizes[0] * step_V, A - step_sizes[1] * step_A
    assert path[-1].min() > 0.5  # it did learn something


@given(tasks(), st.floats(-2, 2), st.floats(-2, 2))
def test_flow_is_the_descent_direction_anywhere_on_the_plane(task: SCBTask, alpha_V: float, alpha_A: float) -> None:
    P, Q, mu = double(task)
    gradients = population_gradients(*theory.on_plane(alpha_V, alpha_A, task), task)
    step_V, step_A = geometry.preconditioned(gradients.V, gradients.A, mu)
    velocity_V, velocity_A = theory.flow(alpha_V, alpha_A, task.K_P, task.K_Q, task.seq_len)
    torch.testing.assert_close(-step_V, velocity_V * (P - mu[:, None]), rtol=0, atol=1e-12)
    torch.testing.assert_close(-step_A, velocity_A * (Q - 1 / task.seq_len), rtol=0, atol=1e-12)


def test_trajectory_from_another_start_and_of_no_steps() -> None:
    task = SCBTask.random(3, 5, 2, seed=0)
    assert theory.trajectory(task, 0, step_size_V=1, step_size_A=1, start=(0.5, -0.25)).tolist() == [[0.5, -0.25]]
    whole = theory.trajectory(task, 20, step_size_V=0.1, step_size_A=0.3)
    rest = theory.trajectory(task, 12, step_size_V=0.1, step_size_A=0.3, start=tuple(whole[8]))
    np.testing.assert_array_equal(whole[8:], rest)


def test_divergence_is_told_at_the_first_step_beyond_a_million() -> None:
    task = SCBTask.random(3, 5, 2, seed=0)
    sizes = {"step_size_V": 90, "step_size_A": 80}
    with pytest.raises(ValueError, match="diverged at step") as caught:
        theory.trajectory(task, 50, **sizes)
    [step] = re.findall(r"step (\d+):", str(caught.value))
    *_, last = theory.trajectory(task, int(step) - 1, **sizes)
    beyond = last + np.array([90, 80]) * theory.flow(*last, task.K_P, task.K_Q, task.seq_len)
    assert np.abs(last).max() < 1e6 <= np.abs(beyond).max() < 1e60


# The flow


@pytest.mark.parametrize("seq_len", [1, 2, 10, 1_000])
def test_fixed_points_of_the_flow(seq_len: int) -> None:
    """Where both velocities vanish: at the optimum, and at a saddle that knows no P and looks away from Q."""
    K_P, K_Q = 0.3, 0.7
    assert theory.flow(1.0, 1.0, K_P, K_Q, seq_len) == (0, 0)
    np.testing.assert_allclose(theory.flow(0.0, -1 / (seq_len * K_Q), K_P, K_Q, seq_len), 0, atol=1e-16)


def test_the_seed_is_one_over_seq_len() -> None:
    assert theory.flow(0.0, 0.0, 0.3, 0.7, 50) == (1 / 50, 0)


def test_flow_broadcasts() -> None:
    velocity_V, velocity_A = theory.flow(np.zeros((3, 1)), np.ones((1, 4)), 0.3, 0.7, 10)
    np.testing.assert_allclose(velocity_V, np.full((3, 4), 0.8), rtol=1e-15)
    np.testing.assert_allclose(velocity_A, np.zeros((3, 4)), rtol=1e-15)


@given(st.floats(0.1, 3))
def test_the_hyperbola_is_at_rest_but_for_the_creep(alpha_V: float) -> None:
    velocity_V, velocity_A = theory.flow(alpha_V, 1 / alpha_V, 0.3, 0.7, 1_000)
    assert velocity_V == pytest.approx((1 - alpha_V) / 1_000, abs=1e-15)
    assert velocity_A == pytest.approx(0, abs=1e-15)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_a_quantity_is_conserved_without_the_seed(K_P: float, K_Q: float, alpha_V: float, alpha_A: float) -> None:
    """For huge T, alpha_V^2 / K_Q - alpha_A^2 / K_P keeps its value along the flow."""
    seq_len = 10**12
    solution = integrate.solve_ivp(
        lambda _, point: theory.flow(*point, K_P, K_Q, seq_len), (0, 50), [alpha_V, alpha_A], rtol=1e-10, atol=1e-12
    )
    conserved = solution.y[0] ** 2 / K_Q - solution.y[1] ** 2 / K_P
    np.testing.assert_allclose(conserved, conserved[0], atol=1e-6)


def test_the_flow_lands_on_the_hyperbola_away_from_the_optimum() -> None:
    """From (0, 0) at alpha_V = (K_Q / K_P)^(1/4), and with step sizes in the ratio K_Q : K_P next to (1, 1)."""
    K_P, K_Q, seq_len = 0.1, 0.6, 10**9
    for rate_V, rate_A, landing in ((1.0, 1.0, (K_Q / K_P) ** 0.25), (K_P, K_Q, 1.0)):
        rates = np.array([rate_V, rate_A])
        velocity = lambda _, point, rates=rates: rates * theory.flow(*point, K_P, K_Q, seq_len)  # noqa: E731
        alpha_V, alpha_A = integrate.solve_ivp(velocity, (0, 2_000), [0, 0], rtol=1e-10, atol=1e-14).y[:, -1]
        assert alpha_V * alpha_A == pytest.approx(1, abs=1e-5)
        assert alpha_V == pytest.approx(landing, abs=1e-4)


# The three phases (chapter 4)

SIGNALS = st.floats(0.05, 0.95)


def fine_flow(
    K_P: float, K_Q: float, seq_len: float, until: float, start: tuple[float, float] = (0, 0), **options: Any
) -> Any:
    """The flow by an implicit method with a small tolerance, which shares nothing with the one of the package."""
    return integrate.solve_ivp(
        lambda _, point: theory.flow(*point, K_P, K_Q, seq_len),
        (0, until),
        start,
        method="Radau",
        rtol=1e-10,
        atol=1e-14,
        dense_output=True,
        **options,
    )


def when_product_is(level: float) -> Any:
    def event(_: float, point: np.ndarray) -> float:
        return float(point[0] * point[1] - level)

    event.terminal = True  # type: ignore[attr-defined]
    return event


@pytest.mark.parametrize("start", [(0.0, 0.0), (-0.5, 0.0), (2.5, -1.5), (1.0, 1.0)])
@pytest.mark.parametrize("rates", [(1.0, 1.0), (0.5, 4.0), (1.0, 1 / 16)])
@pytest.mark.parametrize("seq_len", [2, 100, 10_000])
def test_follow_flow_against_another_method(
    start: tuple[float, float], rates: tuple[float, float], seq_len: float
) -> None:
    K_P, K_Q = 0.1, 0.6
    until = 10 * seq_len
    times, path = theory.follow_flow(K_P, K_Q, seq_len, until, rate_V=rates[0], rate_A=rates[1], start=start)
    exact = integrate.solve_ivp(
        lambda _, point: np.array(rates) * theory.flow(*point, K_P, K_Q, seq_len),
        (0, until),
        start,
        method="Radau",
        rtol=1e-10,
        atol=1e-14,
        t_eval=times,
    )
    assert times[0] == 0
    assert times[-1] == until
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(path, exact.y.T, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K_P": -0.1}, "K_P"),
        ({"seq_len": 0}, "seq_len"),
        ({"until": 0}, "until"),
        ({"rate_A": -1}, "rate_A"),
        ({"start": (0, 0, 0)}, "start must be two"),
        ({"start": (0, 1e9)}, "start"),
        ({"tolerance": 0}, "tolerance"),
    ],
)
def test_follow_flow_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"K_P": 0.1, "K_Q": 0.4, "seq_len": 100, "until": 10} | change
    with pytest.raises(ValueError, match=message):
        theory.follow_flow(**arguments)


def test_milestones_of_a_path() -> None:
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    path = np.array([[0.0, 0.0], [0.5, 0.5], [1.5, 0.5], [1.25, 0.8], [1.0, 1.0]])
    found = theory.milestones(times, path)
    assert found.half == pytest.approx(1.5)
    assert found.landed == pytest.approx(2 + 0.24 / 0.25)
    assert (found.landing_V, found.landing_A) == pytest.approx((1.26, 0.788))
    assert found.near == pytest.approx(3.8)
    never = theory.milestones(times[:2], path[:2])
    assert all(math.isnan(value) for value in never)
    at_once = theory.milestones(times, np.ones((5, 2)))
    assert at_once == (0, 0, 1, 1, 0)


@given(SIGNALS, SIGNALS, st.floats(-2, 2), st.floats(-2, 2))
def test_one_number_grows_and_the_other_decays(K_P: float, K_Q: float, alpha_V: float, alpha_A: float) -> None:
    """The three equations of the lemma, anywhere; and its bound on the difference, from (0, 0)."""
    rho, seq_len, signs = np.sqrt(K_P * K_Q), 7, np.array([1, -1])
    velocity = np.array(theory.flow(alpha_V, alpha_A, K_P, K_Q, seq_len))
    sums = np.sqrt(K_P) * alpha_V + signs * np.sqrt(K_Q) * alpha_A
    rates = np.sqrt(K_P) * velocity[0] + signs * np.sqrt(K_Q) * velocity[1]
    seed = np.sqrt(K_P) * (1 - alpha_V) / seq_len
    np.testing.assert_allclose(rates, signs * rho * (1 - alpha_V * alpha_A) * sums + seed, atol=1e-12)
    assert sums[0] ** 2 - sums[1] ** 2 == pytest.approx(4 * rho * alpha_V * alpha_A, abs=1e-12)

    for c in (0.5, 0.9):
        shortest = 2 / (rho * (1 - c))
        bound = shortest * (np.sqrt(K_P) + np.sqrt(rho))
        for length in (shortest, 10 * shortest, 1_000 * shortest):
            _, path = theory.follow_flow(K_P, K_Q, length, until=40 / rho)
            assert path.min() >= 0
            before = path[: int(np.argmax(path.prod(axis=1) >= c)) or None]
            difference = np.sqrt(K_P) * before[:, 0] - np.sqrt(K_Q) * before[:, 1]
            assert np.abs(difference).max() <= bound / length


@pytest.mark.parametrize(("K_P", "K_Q"), [(0.1, 0.4), (0.5, 0.5), (0.6, 0.1)])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_escape_bounds_and_limit(K_P: float, K_Q: float, c: float) -> None:
    rho = np.sqrt(K_P * K_Q)
    for seq_len in (3, 100, 1_000, 10_000, 1_000_000):
        solution = fine_flow(K_P, K_Q, seq_len, 500, events=when_product_is(c))
        [[reached]] = solution.t_events
        times = np.linspace(0, reached, 200)
        alpha_V, alpha_A = solution.sol(times)
        assert (alpha_V <= np.sinh(rho * times) / (rho * seq_len) * (1 + 1e-7) + 1e-12).all()
        assert (alpha_A <= (np.cosh(rho * times) - 1) / (K_Q * seq_len) * (1 + 1e-7) + 1e-12).all()
        assert reached >= np.log(2 * seq_len * np.sqrt(rho * K_Q * c)) / rho
        limit = (np.log(2 * seq_len * np.sqrt(rho * K_Q)) + 0.5 * np.log(c / (1 - c))) / rho
        if seq_len >= 100:
            assert abs(reached - limit) < 25 * np.log(seq_len) / seq_len


@given(SIGNALS, SIGNALS, st.sampled_from([0.5, 0.9, 0.99]))
def test_landing_bounds_and_the_slow_difference(K_P: float, K_Q: float, c: float) -> None:
    rho, kappa = np.sqrt(K_P * K_Q), (K_Q / K_P) ** 0.25
    shortest = 2 / (rho * (1 - c))
    bound = shortest * (np.sqrt(K_P) + np.sqrt(rho))
    for seq_len in (shortest, 100 * shortest):
        times, path = theory.follow_flow(K_P, K_Q, seq_len, until=60 / rho)
        reached = theory.first_time(times, path.prod(axis=1) - c)
        alpha_V, alpha_A = (np.interp(reached, times, column) for column in path.T)
        assert abs(alpha_V - np.sqrt(c) * kappa) <= bound / (np.sqrt(K_P) * seq_len) + 1e-3
        assert abs(alpha_A - np.sqrt(c) / kappa) <= bound / (np.sqrt(K_Q) * seq_len) + 1e-3
        point = path[len(path) // 2]
        velocity = theory.flow(*point, K_P, K_Q, seq_len)
        change = 2 * K_P * point[0] * velocity[0] - 2 * K_Q * point[1] * velocity[1]
        assert change == pytest.approx(2 * K_P * point[0] * (1 - point[0]) / seq_len, abs=1e-14)


@pytest.mark.parametrize(("K_P", "K_Q", "alpha_V"), [(0.1, 0.4, 1.6), (0.4, 0.1, 0.5), (0.9, 0.1, 3.0)])
def test_creep_follows_one_equation(K_P: float, K_Q: float, alpha_V: float) -> None:
    """Within order 1/T over a time of 20 T: ten times the context length, a tenth of the gap."""
    slow = integrate.solve_ivp(
        lambda _, beta: (1 - beta) / (1 + K_Q / (K_P * beta**4)),
        (0, 20),
        [alpha_V],
        rtol=1e-10,
        atol=1e-12,
        dense_output=True,
    )
    scaled, gaps = np.linspace(0, 20, 400), []
    for seq_len in (100, 1_000, 10_000):
        solution = fine_flow(K_P, K_Q, seq_len, 20 * seq_len, (alpha_V, 1 / alpha_V)).sol(scaled * seq_len)
        expected = slow.sol(scaled)[0]
        gaps.append(max(np.abs(solution[0] - expected).max(), np.abs(solution[1] - 1 / expected).max()))
    assert gaps[-1] < 5e-3
    for early, late in itertools.pairwise(gaps):
        assert early / late == pytest.approx(10, rel=0.35)


@given(SIGNALS, SIGNALS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_rates_near_the_optimum(K_P: float, K_Q: float, rate_V: float, rate_A: float) -> None:
    """The Jacobian by central differences against the formulas; and no ratio beats K_Q : K_P."""
    rates = np.array([rate_V, rate_A])

    def fast_and_slow(seq_len: float) -> np.ndarray:
        h = 1e-4
        columns = [
            (
                np.array(theory.flow(1 + h * x, 1 + h * y, K_P, K_Q, seq_len))
                - theory.flow(1 - h * x, 1 - h * y, K_P, K_Q, seq_len)
            )
            / (2 * h)
            for x, y in ((1, 0), (0, 1))
        ]
        return np.sort(np.linalg.eigvals(-rates[:, None] * np.stack(columns, axis=1)).real)[::-1]

    fast, slow = fast_and_slow(50)
    assert fast + slow == pytest.approx(rate_V * K_Q + rate_A * K_P + rate_V / 50, rel=1e-5)
    assert fast * slow == pytest.approx(rate_V * rate_A * K_P / 50, rel=1e-3)
    total = rate_V * K_Q + rate_A * K_P
    fast, slow = fast_and_slow(1e4)
    assert fast == pytest.approx(total, rel=1e-2)
    assert 1e4 * slow == pytest.approx(rate_V * rate_A * K_P / total, rel=2e-2)
    assert rate_V * rate_A * K_P / total <= total / (4 * K_Q) * (1 + 1e-12)  # the value at rate_A / rate_V = K_Q / K_P


@given(tasks(), SEEDS)
def test_curvatures_lead_to_the_best_of_each(task: SCBTask, seed: int) -> None:
    """Off the plane, within the constraints: the formulas hold, and no other V or A has a smaller loss."""
    P, Q, mu = double(task)
    move_V, move_A = parameters(task.vocab_size, task.seq_len, seed)
    V = mu[:, None] + geometry.centre_V(move_V, mu)
    A = 1 / task.seq_len + geometry.centre_A(move_A)
    gradients = population_gradients(V, A, task)
    G_V, G_A = geometry.preconditioned(gradients.V, gradients.A, mu)
    curvature_V = geometry.inner(A, A, mu)
    curvature_A = geometry.inner(V, V, mu) - mu @ mu
    expected_V = curvature_V * (V - mu[:, None]) - geometry.inner(Q, A, mu) * (P - mu[:, None])
    expected_A = curvature_A * (A - 1 / task.seq_len) - (geometry.inner(V, P, mu) - mu @ mu) * (Q - 1 / task.seq_len)
    torch.testing.assert_close(G_V, expected_V, rtol=0, atol=1e-10)
    torch.testing.assert_close(G_A, expected_A, rtol=0, atol=1e-10)

    other_V, other_A = parameters(task.vocab_size, task.seq_len, seed + 1)
    best = population_loss(V - G_V / curvature_V, A, task)
    assert best <= population_loss(V - G_V / curvature_V + 0.1 * geometry.centre_V(other_V, mu), A, task) + 1e-10
    if task.vocab_size > 1:
        best = population_loss(V, A - G_A / curvature_A, task)
        assert best <= population_loss(V, A - G_A / curvature_A + 0.1 * geometry.centre_A(other_A), task) + 1e-10


def test_block_newton_keeps_the_ratio() -> None:
    """Chapter 4: for a long context alpha_V / alpha_A stays, and the product tends to 1 at the rate 2."""
    K_P, K_Q, seq_len = 0.1, 0.5, 10**9

    def velocity(_: float, point: np.ndarray) -> list[float]:
        v_V, v_A = theory.flow(*point, K_P, K_Q, seq_len)
        return [v_V / (1 / seq_len + K_Q * point[1] ** 2), v_A / (K_P * point[0] ** 2)]

    solution = integrate.solve_ivp(velocity, (0, 3), [0.7, 0.2], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution.y[0] / solution.y[1], 3.5, rtol=1e-6)
    np.testing.assert_allclose(1 - solution.y.prod(axis=0), (1 - 0.14) * np.exp(-2 * solution.t), atol=1e-6)


@given(tasks())
def test_two_steps_suffice_without_noise(task: SCBTask) -> None:
    P, Q, mu = double(task)
    V, A = theory.on_plane(0, 0, task)
    gradients = population_gradients(V, A, task)
    V = V - task.seq_len * geometry.preconditioned(gradients.V, gradients.A, mu)[0]
    torch.testing.assert_close(V, P, rtol=0, atol=1e-12)
    if task.K_P > 1e-6:
        gradients = population_gradients(V, A, task)
        curvature = geometry.inner(V, V, mu) - mu @ mu
        assert float(curvature) == pytest.approx(task.K_P, rel=1e-6, abs=1e-12)
        A = A - geometry.preconditioned(gradients.V, gradients.A, mu)[1] / curvature
        torch.testing.assert_close(A, Q, rtol=0, atol=1e-9)


@given(tasks(), SEEDS, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_on_a_support_the_same_equations_hold(task: SCBTask, seed: int, step_sizes: tuple[float, float]) -> None:
    """Full matrices, on random sets that contain the true support, stay in the plane of the theorem."""
    P, Q, mu = double(task)
    rng = np.random.default_rng(seed)
    support = torch.tensor(task.support | (rng.random(task.support.shape) < rng.random()))
    U = support.double() / support.sum(0)
    strength, size = float(geometry.norm(Q - U, mu) ** 2), float(geometry.norm(U, mu) ** 2)
    sizes = support.sum(0).double()
    assert size == pytest.approx(float((mu / sizes).sum()), rel=1e-12)
    assert strength == pytest.approx(float(geometry.norm(Q, mu) ** 2) - size, abs=1e-12)

    V, A, point = mu[:, None].expand_as(P), U, np.zeros(2)
    for _ in range(30):
        torch.testing.assert_close(V, mu[:, None] + point[0] * (P - mu[:, None]), rtol=0, atol=1e-10)
        torch.testing.assert_close(A, U + point[1] * (Q - U), rtol=0, atol=1e-10)
        gradients = population_gradients(V, A, task)
        V = V - step_sizes[0] * geometry.centre_V(gradients.V / mu, mu)
        # Masked, and centred on each query's own set; written out, to hold centre_A to it.
        direction = torch.zeros_like(A)
        for k in range(task.vocab_size):
            inside = support[:, k]
            column = gradients.A[inside, k] / mu[k]
            direction[inside, k] = column - column.mean()
        torch.testing.assert_close(geometry.centre_A(gradients.A / mu, support), direction, rtol=0, atol=1e-12)
        A = A - step_sizes[1] * direction
        point = point + np.array(step_sizes) * theory.flow(*point, task.K_P, strength, 1 / size)


# Alignment


@given(tasks(), st.floats(-3, 3), st.floats(-3, 3))
def test_align_finds_the_coordinates_of_a_point_on_the_plane(task: SCBTask, alpha_V: float, alpha_A: float) -> None:
    alignment = align(*theory.on_plane(alpha_V, alpha_A, task), task)
    assert math.isnan(alignment.alpha_V) if task.vocab_size == 1 else abs(alignment.alpha_V - alpha_V) < 1e-10
    even = task.K_Q < 1e-20
    assert math.isnan(alignment.alpha_A) if even else abs(alignment.alpha_A - alpha_A) < 1e-10
    assert max(alignment.residual_V, alignment.residual_A) < 1e-13


@given(tasks(), SEEDS)
def test_align_against_its_definition(task: SCBTask, seed: int) -> None:
    """Coordinate, residual and error of any V, A satisfy Pythagoras, and moving along the axis moves one coordinate."""
    P, Q, mu = double(task)
    V, A = parameters(task.vocab_size, task.seq_len, seed)
    found = align(V, A, task)
    assert found.error_V == pytest.approx(float(((V - P) ** 2 @ mu).sum().sqrt()), rel=1e-12)
    assert found.error_A == pytest.approx(float(((A - Q) ** 2 @ mu).sum().sqrt()), rel=1e-12)
    if task.vocab_size > 1:
        assert found.residual_V**2 + (1 - found.alpha_V) ** 2 * task.K_P == pytest.approx(found.error_V**2, rel=1e-9)
        moved = align(V + 2 * (P - mu[:, None]), A, task)
        assert moved.alpha_V - found.alpha_V == pytest.approx(2, abs=1e-8)
        assert moved.residual_V == pytest.approx(found.residual_V, rel=1e-9)
        assert (moved.alpha_A, moved.residual_A) == pytest.approx((found.alpha_A, found.residual_A), nan_ok=True)
    if task.K_Q > 1e-6:
        assert found.residual_A**2 + (1 - found.alpha_A) ** 2 * task.K_Q == pytest.approx(found.error_A**2, rel=1e-9)
        moved = align(V, A - 3 * (Q - 1 / task.seq_len), task)
        assert moved.alpha_A - found.alpha_A == pytest.approx(-3, abs=1e-8)


def test_align_at_the_start_and_at_the_end() -> None:
    task = SCBTask.random(4, 8, 2, seed=5, mu_ratio=3)
    assert align(*theory.on_plane(0, 0, task), task) == pytest.approx(
        Alignment(0, 0, 0, 0, task.K_P**0.5, task.K_Q**0.5), abs=1e-14
    )
    P, Q, _ = double(task)
    assert align(P, Q, task) == pytest.approx(Alignment(1, 1, 0, 0, 0, 0), abs=1e-14)


@pytest.mark.parametrize(
    ("task", "undefined"),
    [
        pytest.param(SCBTask.random(1, 5, 2, seed=0), "alpha_V", id="one token"),
        pytest.param(SCBTask.random(3, 5, 2, seed=0, K_P=0.0, mu_ratio=7), "alpha_V", id="no signal in P"),
        pytest.param(SCBTask.random(3, 1, 1, seed=0), "alpha_A", id="one position"),
        pytest.param(SCBTask.random(3, 4, 4, seed=0, q_floor=1.0), "alpha_A", id="even Q"),
    ],
)
def test_a_coordinate_without_an_axis_is_nan(task: SCBTask, undefined: str) -> None:
    V, A = parameters(task.vocab_size, task.seq_len, seed=1)
    _, _, mu = double(task)
    alignment = align(V, A, task)
    assert [name for name, value in alignment._asdict().items() if math.isnan(value)] == [undefined]
    start = {"alpha_V": V - mu[:, None], "alpha_A": A - 1 / task.seq_len}[undefined]
    residual = alignment.residual_V if undefined == "alpha_V" else alignment.residual_A
    assert residual == pytest.approx(float(geometry.norm(start, mu)), rel=1e-14)


def test_align_measures_in_float64_wherever_the_parameters_are(device: torch.device) -> None:
    task = SCBTask.random(4, 8, 2, seed=5, mu_ratio=3)
    V, A = parameters(4, 8, seed=0, like=torch.empty((), dtype=torch.float32, device=device))
    assert align(V, A, task) == pytest.approx(align(V.double().cpu(), A.double().cpu(), task), rel=1e-13)


def test_on_plane_is_in_float64_on_the_cpu() -> None:
    task = SCBTask.random(4, 8, 2, seed=5)
    for matrix, shape in zip(theory.on_plane(0.3, 0.4, task), ((4, 4), (8, 4)), strict=True):
        assert (matrix.dtype, matrix.device.type, tuple(matrix.shape)) == (torch.float64, "cpu", shape)
