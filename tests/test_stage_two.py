"""Chapter 6, proposition by proposition; tests/test_proximal.py holds what it says of thresholds and projections."""

import math

import numpy as np
import pytest
import torch
from helpers import SEEDS, double, every_sample, parameters, start_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize

from scb_nb import SCBTask, geometry, population_gradients, proximal
from scb_nb.objective import reference_gradients


def omega_squared(task: SCBTask, query: int) -> float:
    """The variance that one sample of this query has in an entry that is not read."""
    Sigma = np.diag(task.mu) - np.outer(task.mu, task.mu)
    M = task.P @ Sigma @ task.P.T
    return np.trace(M @ Sigma) - (task.Q[:, query] ** 2).sum() * np.trace(M @ M)


@pytest.mark.parametrize("seed", range(6))
def test_noise_at_the_truth(seed: int) -> None:
    """Mean, variance and correlation of unread entries, summed over every sample there is, with the common part off."""
    task = SCBTask.random(3, 4, 1 + seed % 2, mu_ratio=1 + 2 * (seed % 3), seed=seed)
    P, Q, mu = double(task)
    samples, weight = every_sample(task)
    for k in range(3):
        of_query = samples.query == k
        tokens, target = samples.tokens[of_query], samples.target[of_query]
        chance = weight[of_query] / weight[of_query].sum()
        assert float(weight[of_query].sum()) == pytest.approx(task.mu[k])
        histogram = torch.stack([(Q[:, k] * (tokens == n)).sum(1) for n in range(3)], 1)  # (B, N)
        h = (histogram @ P.T - torch.eye(3).double()[target]) @ P  # (B, N)
        entries = h.gather(1, tokens)[:, Q[:, k] == 0]  # what each sample contributes, times mu_k
        own = entries - (h @ mu)[:, None]
        assert (chance @ own).abs().max() < 1e-14
        covariance = own.T @ (chance[:, None] * own)
        expected = omega_squared(task, k) * torch.eye(covariance.shape[1], dtype=torch.float64)
        torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-14)
        assert omega_squared(task, k) <= task.K_P * task.mu.max() + 1e-15
        # These contributions are those of the gradient, on a sample as on any.
        one = samples[int(torch.nonzero(of_query)[7]) : int(torch.nonzero(of_query)[7]) + 1]
        gradient = reference_gradients(P, Q, one).A[Q[:, k] == 0, k]
        torch.testing.assert_close(gradient, entries[7], rtol=0, atol=1e-14)


def test_noise_at_the_truth_with_uniform_mu() -> None:
    for N in (2, 3, 6):
        task = SCBTask.random(N, 8, 2, seed=N)
        Sigma = np.eye(N) / N - 1 / N**2
        assert np.trace(task.P @ Sigma @ task.P.T @ Sigma) == pytest.approx(task.K_P / N)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_length_and_the_largest_of_many(correlation: float) -> None:
    """Independent or not: 4,000 repetitions, so that the means are off by less than the 4% that are allowed."""
    rng = np.random.default_rng(0)
    for count in (1, 10, 300):
        common = rng.normal(size=(4_000, 1))
        g = 2.0 * (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * rng.normal(size=(4_000, count)))
        assert (g**2).sum(axis=1).mean() == pytest.approx(4.0 * count, rel=0.1)
        bound = 2.0 * math.sqrt(2 * math.log(2 * count))
        largest = np.abs(g).max(axis=1).mean()
        assert largest <= bound
        if correlation == 0 and count == 300:
            assert largest >= 0.8 * bound


@given(
    st.integers(1, 12).flatmap(lambda size: arrays(np.float64, size, elements=st.floats(-3, 3))),
    st.floats(0, 3),
)
def test_penalty_with_sum_one(a: np.ndarray, threshold: float) -> None:
    """The form solves the optimality conditions, and is the simplex projection from the penalty on that is claimed."""

    def form(shift: float) -> np.ndarray:
        return proximal.soft_threshold(torch.tensor(a - shift), threshold).numpy()

    # The sum falls from at least one to at most zero.
    shift = optimize.brentq(lambda s: form(s).sum() - 1, a.min() - threshold - 1, a.max() + threshold, xtol=1e-14)
    z = form(shift)
    assert z.sum() == pytest.approx(1, abs=1e-9)
    subgradient = a - z - shift  # of the penalty, by stationarity
    np.testing.assert_allclose(subgradient[z != 0], (threshold * np.sign(z))[z != 0], atol=1e-12)
    assert (np.abs(subgradient) <= threshold + 1e-12).all()

    projected = proximal.project_simplex(torch.tensor(a)[:, None])[:, 0].numpy()
    delta = (a - projected)[projected.argmax()]
    needed = (delta - a.min()) / 2
    if threshold >= needed + 1e-9:
        np.testing.assert_allclose(z, projected, atol=1e-9)
    elif threshold <= needed - 1e-3:
        assert np.abs(z - projected).max() > 1e-6


def test_simplex_projection_leaks_as_much_whatever_the_size_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    noise = torch.tensor(rng.normal(size=(500, 200)))
    counts = []
    for size in (1e-2, 1e-6):
        column = torch.cat([torch.full((2, 200), 0.5, dtype=torch.float64), size * noise])
        counts.append((proximal.project_simplex(column)[2:] > 0).sum(0))
    assert torch.equal(*counts)
    assert 9 < float(counts[0].double().mean()) < 13


@pytest.mark.parametrize("seed", range(5))
def test_a_weak_position_is_heard(seed: int) -> None:
    """K_P q below the entries that are neither read nor attended to, and the bound on it in units of noise."""
    task = SCBTask.random(4, 12, 3, mu_ratio=1 + seed, seed=seed)
    P, Q, mu = double(task)
    weakest = torch.where(Q > 0, Q, 2.0).argmin(0)
    A = Q.clone()
    A[weakest, range(4)] = 0
    A = proximal.restrict(A, A != 0)
    gradient = population_gradients(P, A, task).A / mu
    for k in range(4):
        t = int(weakest[k])
        idle = gradient[(Q[:, k] == 0) & (A[:, k] == 0), k]
        torch.testing.assert_close(idle - gradient[t, k], (task.K_P * Q[t, k]).expand_as(idle), rtol=0, atol=1e-14)
        units = task.K_P * float(Q[t, k]) * math.sqrt(task.mu[k] / omega_squared(task, k))  # for one sample
        bound = float(Q[t, k]) * math.sqrt(task.K_P * task.mu[k] / task.mu.max())
        assert units >= bound * (1 - 1e-12)


@pytest.mark.parametrize("given_seed", range(3))
def test_without_projection_steps_must_be_tiny(given_seed: int) -> None:
    """The curvatures along 1 and across it, for any V; and exact descent at both sides of the limit."""
    task = SCBTask.random(3, 40, 2, mu_ratio=2, seed=given_seed)
    _, _, mu = double(task)
    V, A = parameters(3, 40, given_seed)
    mean, spread = V @ mu, geometry.norm(V, mu) ** 2 - (V @ mu).square().sum()

    def change(direction: torch.Tensor) -> torch.Tensor:
        moved = population_gradients(V, A + direction, task).A - population_gradients(V, A, task).A
        return moved / mu

    along = torch.ones_like(A)
    torch.testing.assert_close(change(along), (spread + 40 * mean.square().sum()) * along)
    across = A - A.mean(0)
    torch.testing.assert_close(change(across), spread * across)

    start = start_of(task)
    for factor, stable in ((0.9, True), (1.1, False)):
        A, step_size = start.A + 1e-3, factor * 2 / (40 * float(mu @ mu))
        for _ in range(200):
            A = A - step_size * population_gradients(start.V, A, task).A / mu
        assert (bool((A - start.A).abs().max() < 1e-3)) is stable


@given(SEEDS)
def test_the_newton_step_finds_the_least_loss_in_A(seed: int) -> None:
    """Chapter 6, end game: divided by the curvature, the step in A ends where the projected gradient is zero."""
    task = SCBTask.random(3, 6, 2, seed=seed % 1_000)
    P, _, mu = double(task)
    rng = np.random.default_rng(seed)
    V = P + geometry.centre_V(torch.tensor(0.1 * rng.normal(size=(3, 3))), mu)
    A = torch.full((6, 3), 1 / 6, dtype=torch.float64) + geometry.centre_A(torch.tensor(rng.normal(size=(6, 3))))
    curvature = geometry.norm(V, mu) ** 2 - (V @ mu).square().sum()
    A = A - geometry.centre_A(population_gradients(V, A, task).A / mu) / curvature
    assert geometry.centre_A(population_gradients(V, A, task).A / mu).abs().max() < 1e-12
