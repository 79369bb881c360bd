"""Thresholds and projections against brute force, and what stands out of noise against what was put into it."""

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from scb_nb import geometry, proximal, screening

# Fractions with few digits, so that ties, zeros and entries right at a threshold occur; and any numbers.
NUMBERS = st.one_of(st.integers(-12, 12).map(lambda n: n / 8), st.floats(-3, 3))
THRESHOLDS = st.one_of(st.integers(0, 12).map(lambda n: n / 8), st.floats(0, 3))


@st.composite
def matrices(draw: st.DrawFn, max_rows: int = 6) -> torch.Tensor:
    """Small matrices (T, N) in float64, of one row or one column as well."""
    shape = draw(st.integers(1, max_rows)), draw(st.integers(1, 4))
    return torch.tensor(draw(arrays(np.float64, shape, elements=NUMBERS)))


@st.composite
def matrices_with_support(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    A = draw(matrices())
    return A, torch.tensor(draw(arrays(np.bool_, tuple(A.shape))))


def columns(*matrices: torch.Tensor) -> Iterable[tuple[np.ndarray, ...]]:
    return zip(*(matrix.numpy().T for matrix in matrices), strict=True)


def nearest_with_sum_one(column: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The nearest point of {z : sum z = 1, z = 0 off the support}: projection onto the solutions of C z = d."""
    C = np.vstack([np.ones(len(column)), np.eye(len(column))[~support]])
    d = np.zeros(len(C))
    d[0] = 1
    return column - np.linalg.pinv(C) @ (C @ column - d)


def nearest_probability_vector(column: np.ndarray) -> np.ndarray:
    """The nearest of the nearest points with every possible support, among those without a negative entry."""
    supports = [np.array(each) for each in product([False, True], repeat=len(column)) if any(each)]
    candidates = [nearest_with_sum_one(column, support) for support in supports]
    return min((z for z in candidates if z.min() > -1e-12), key=lambda z: np.sum((z - column) ** 2))


# Soft threshold


@given(matrices(), THRESHOLDS)
def test_soft_threshold_minimises_its_objective(A: torch.Tensor, threshold: float) -> None:
    """On a fine grid nothing is better, and what is best there lies within a grid step."""
    grid = torch.linspace(-4, 4, 8_001, dtype=torch.float64)
    Z = proximal.soft_threshold(A, threshold)

    def objective(z: torch.Tensor) -> torch.Tensor:
        return 0.5 * (z - A.reshape(-1, 1)).square() + threshold * z.abs()

    on_grid = objective(grid[None])
    best, where = on_grid.min(1)
    assert (objective(Z.reshape(-1, 1))[:, 0] <= best + 1e-14).all()
    assert (Z.flatten() - grid[where]).abs().max() <= 1.001e-3


@given(matrices(), st.data())
def test_soft_threshold_meets_the_optimality_condition(A: torch.Tensor, data: st.DataObject) -> None:
    """A - Z is threshold * sign(Z) where Z is not zero, and at most the threshold where it is; one for each column."""
    threshold = torch.tensor(data.draw(arrays(np.float64, A.shape[1], elements=THRESHOLDS)))
    Z = proximal.soft_threshold(A, threshold)
    removed = A - Z
    kept = Z != 0
    torch.testing.assert_close(removed[kept], (threshold * Z.sign())[kept], rtol=0, atol=1e-14)
    assert (removed.abs() <= threshold)[~kept].all()
    assert torch.equal(proximal.soft_threshold(A, 0), A)


# Sum to one


@given(matrices_with_support())
def test_restrict_is_the_nearest_point(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    A, support = pair
    for column, chosen, found in columns(A, support, proximal.restrict(A, support)):
        if chosen.any():
            np.testing.assert_allclose(found, nearest_with_sum_one(column, chosen), rtol=0, atol=1e-12)
            assert not found[~chosen].any()


@given(matrices_with_support())
def test_restrict_without_support_is_uniform(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    A, support = pair
    support[:, 0] = False
    np.testing.assert_allclose(proximal.restrict(A, support)[:, 0], 1 / len(A), rtol=0, atol=1e-15)


@given(matrices(), THRESHOLDS)
def test_sparse_sum_to_one_column_by_column(A: torch.Tensor, threshold: float) -> None:
    """What is below the threshold is exactly zero, the others move by the threshold, then all by the same amount."""
    for column, found in columns(A, proximal.sparse_sum_to_one(A, threshold)):
        assert found.sum() == pytest.approx(1, abs=1e-12)
        survives = np.abs(column) > threshold
        if not survives.any():
            np.testing.assert_allclose(found, 1 / len(column), rtol=0, atol=1e-15)
            continue
        assert not found[~survives].any()
        shrunk = column[survives] - threshold * np.sign(column[survives])
        np.testing.assert_allclose(found[survives], shrunk + (1 - shrunk.sum()) / len(shrunk), rtol=0, atol=1e-12)


@given(matrices(), THRESHOLDS)
def test_sparse_sum_to_one_gives_positive_survivors_back_what_it_took(A: torch.Tensor, threshold: float) -> None:
    """Without negative entries the threshold decides who survives, and leaves no other trace."""
    A = A.abs()
    survives = threshold < A
    expected = proximal.restrict(A, survives)
    expected[:, ~survives.any(0)] = 1 / len(A)
    torch.testing.assert_close(proximal.sparse_sum_to_one(A, threshold), expected, rtol=0, atol=1e-12)


# The simplex


@given(matrices())
def test_simplex_projection_is_the_nearest_probability_vector(A: torch.Tensor) -> None:
    for column, found in columns(A, proximal.project_simplex(A)):
        np.testing.assert_allclose(found, nearest_probability_vector(column), rtol=0, atol=1e-12)
        assert found.min() >= 0


@given(matrices())
def test_simplex_projection_leaves_probability_vectors_alone(A: torch.Tensor) -> None:
    inside = proximal.project_simplex(A)
    torch.testing.assert_close(proximal.project_simplex(inside), inside, rtol=0, atol=1e-14)


@given(matrices(), st.floats(0, 3))
def test_on_the_simplex_the_l1_norm_makes_no_difference(A: torch.Tensor, l1: float) -> None:
    """Whatever its strength, the proximal map of l1 ||Z||_1 over probability vectors is the projection."""
    moved = proximal.project_simplex(A - l1)  # its gradient there is l1 in every entry
    torch.testing.assert_close(moved, proximal.project_simplex(A), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e8, 1e20])
def test_simplex_projection_of_numbers_beside_which_one_is_nothing(size: float, dtype: torch.dtype) -> None:
    A = torch.tensor([[size, -size], [0, -2 * size], [-size, -size]], dtype=dtype)
    expected = torch.tensor([[1, 0.5], [0, 0], [0, 0.5]], dtype=dtype)
    torch.testing.assert_close(proximal.project_simplex(A), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_simplex_projection_of_what_is_not_finite_is_not_finite(bad: float) -> None:
    """So that training notices, and says where; an error from within torch would not."""
    A = torch.tensor([[0.5, bad], [0.5, 0.5]])
    found = proximal.project_simplex(A)
    assert found[:, 0].tolist() == [0.5, 0.5]
    assert not found[:, 1].isfinite().all()


# Every dtype and device


MAPS = {
    "soft_threshold": lambda A, _: proximal.soft_threshold(A, 0.5),
    "soft_threshold by column": lambda A, _: proximal.soft_threshold(A, A.abs().mean(0)),
    "restrict": proximal.restrict,
    "sparse_sum_to_one": lambda A, _: proximal.sparse_sum_to_one(A, 0.5),
    "project_simplex": lambda A, _: proximal.project_simplex(A),
    "centre_A": geometry.centre_A,
    "noise_level": lambda A, _: screening.noise_level(A, torch.full_like(A[0], 0.25)),
    "outstanding": lambda A, _: screening.outstanding(A, torch.full_like(A[0], 0.25), 0.5),
    "attention_on": lambda A, support: screening.attention_on(support & (A.median(0).values < A), A),
}


@pytest.mark.parametrize("function", MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("shape", [(7, 4), (1, 4), (7, 1), (1, 1)], ids=str)
def test_results_follow_dtype_and_device(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, int], device: torch.device
) -> None:
    """What comes out is of the kind of A, agrees with float64 on the CPU, and A and the support stay as they were."""
    rng = np.random.default_rng(0)
    numbers, support = torch.tensor(rng.normal(size=shape)), torch.tensor(rng.random(shape) < 0.7)
    support[0] = True
    expected = function(numbers, support)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        A, where = numbers.to(device, dtype), support.to(device)
        found = function(A, where)
        assert found.device.type == device.type
        assert found.dtype in (dtype, torch.bool)
        torch.testing.assert_close(found.cpu().to(expected.dtype), expected, rtol=0, atol=tolerance)
        assert torch.equal(A, numbers.to(device, dtype))
        assert torch.equal(where.cpu(), support)


# The projection of directions


@given(matrices_with_support())
def test_centre_A_on_a_support_is_the_nearest_direction(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    D, support = pair
    for column, chosen, found in columns(D, support, geometry.centre_A(D, support)):
        C = np.vstack([np.ones(len(column)), np.eye(len(column))[~chosen]])
        np.testing.assert_allclose(found, column - np.linalg.pinv(C) @ (C @ column), rtol=0, atol=1e-12)
        assert not found[~chosen].any()
        assert abs(found.sum()) < 1e-12


@given(matrices())
def test_centre_A_on_every_position_is_centre_A(D: torch.Tensor) -> None:
    everywhere = torch.ones_like(D, dtype=torch.bool)
    torch.testing.assert_close(geometry.centre_A(D, everywhere), geometry.centre_A(D), rtol=0, atol=1e-15)


# Noise

MU = torch.tensor([0.05, 0.1, 0.2, 0.25, 0.4], dtype=torch.float64)


def noise(seed: int, deviation: float = 1.0, rows: int = 1_000) -> torch.Tensor:
    """Normal numbers, shape (rows, 5), column k with standard deviation ``deviation`` / sqrt(mu_k), around anything."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(rows, 5)) * deviation + rng.normal(size=5) * 10) / MU.sqrt()


@pytest.mark.parametrize("deviation", [1e-6, 1.0, 300.0])
def test_noise_level_is_the_standard_deviation(deviation: float) -> None:
    """Of n = 5,000 numbers the median deviation has a standard error of 1.17 / sqrt(n) = 1.7%; six are allowed."""
    for seed in range(10):
        found = screening.noise_level(noise(seed, deviation), MU)
        np.testing.assert_allclose(found, deviation / MU.sqrt(), rtol=6 * 1.17 / np.sqrt(5_000))


def test_noise_level_has_no_bias() -> None:
    """Over 200 repetitions the mean is off by 0.1%, one standard error."""
    levels = torch.stack([screening.noise_level(noise(seed), MU) for seed in range(200)])
    np.testing.assert_allclose((levels * MU.sqrt()).mean(0), 1, atol=0.006)


def test_noise_level_is_not_moved_by_a_few_huge_entries() -> None:
    """Three of 1,000 entries in each column: they shift the median by 0.3% of the ranks, 0.5% of the level."""
    A = noise(0)
    before = screening.noise_level(A, MU)
    A[torch.randperm(1_000, generator=torch.Generator().manual_seed(0))[:3]] = 1e12
    np.testing.assert_allclose(screening.noise_level(A, MU), before, rtol=0.01)


def test_noise_level_of_one_position_or_of_no_noise_is_zero() -> None:
    assert screening.noise_level(torch.rand(1, 5, dtype=torch.float64), MU).tolist() == [0] * 5
    assert screening.noise_level(torch.full((9, 5), 0.3, dtype=torch.float64), MU).tolist() == [0] * 5


@pytest.mark.parametrize("entries", [1, 2, 300, 50_000, 10**7])
@pytest.mark.parametrize("false_alarms", [0.5, 0.01, 1e-9])
def test_critical_value_is_the_quantile(entries: int, false_alarms: float) -> None:
    expected = stats.norm.isf(false_alarms / entries)
    assert screening.critical_value(entries, false_alarms) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("tails", "expected"), [(1, stats.norm.isf(0.1 / 5_000)), (2, stats.norm.isf(0.1 / 10_000))])
def test_threshold_is_the_critical_value_in_units_of_the_noise(tails: int, expected: float) -> None:
    A = noise(0)
    torch.testing.assert_close(screening.threshold(A, MU, 0.1, tails), expected * screening.noise_level(A, MU))
    above = A - A.median(0).values - screening.threshold(A, MU, 0.1)
    assert torch.equal(screening.outstanding(A, MU, 0.1), above > 0)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """On noise alone, 2,000 times at 0.1; with the right rate this fails with probability 2e-6 over seeds.

    Entries that are independent, all 5,000 of them, together make it 0.095; that the level is estimated too adds 4% of
    that, since the tail beyond 4.1 deviations grows by exp(4.1^2 * 0.017) when the level is 1.7% too low.
    """
    named = sum(bool(screening.outstanding(noise(seed), MU, 0.1).any()) for seed in range(2_000))
    low, high = stats.binom.ppf([1e-6, 1 - 1e-6], 2_000, 0.099)
    assert low <= named <= high


def test_outstanding_names_what_was_put_in_and_nothing_below() -> None:
    """Signals of nine deviations of their own column, at a level where 4.6 are critical; holes are no signals."""
    for seed in range(20):
        A = noise(seed)
        rng = np.random.default_rng(seed + 1_000)
        signal, hole = torch.zeros(1_000, 5, dtype=torch.bool), torch.zeros(1_000, 5, dtype=torch.bool)
        for k in range(5):
            rows = rng.permutation(1_000)
            signal[rows[:3], k], hole[rows[3:6], k] = True, True
        A = torch.where(signal, A + 9.5 / MU.sqrt(), torch.where(hole, A - 9.5 / MU.sqrt(), A))
        assert torch.equal(screening.outstanding(A, MU, 0.01), signal)


def test_nothing_stands_out_of_one_position() -> None:
    assert not screening.outstanding(torch.rand(1, 5, dtype=torch.float64), MU, 0.9).any()


# Attention on what stood out


@given(matrices_with_support())
def test_attention_on_a_support(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    """In proportion to the height above the column's median; uniform where there is no support."""
    weights, support = pair
    support &= weights > weights.median(0).values + 1e-3
    for column, chosen, found in columns(weights, support, screening.attention_on(support, weights)):
        assert found.sum() == pytest.approx(1, abs=1e-12)
        if not chosen.any():
            np.testing.assert_allclose(found, 1 / len(column), rtol=1e-15)
            continue
        height = column - np.sort(column)[(len(column) - 1) // 2]
        np.testing.assert_allclose(found, np.where(chosen, height, 0) / height[chosen].sum(), rtol=1e-12, atol=1e-15)
