"""The module scb_nb.transfer, and the chapter "Transfer", proposition by proposition."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import double, every_sample, few_samples, small_stream, start_of

from scb_nb import SCBTask, align, batch_gradients, fit, geometry, population_gradients, population_loss, screening
from scb_nb.probes import Probes
from scb_nb.stages import SmallSteps, SparseDescent, State
from scb_nb.transfer import correlation, related_task, warm_start

CHAPTER = Path(__file__).parents[1] / "book" / "transfer.md"
FAMILY: dict[str, Any] = {"vocab_size": 3, "sparsity": 2, "K_P": 0.2, "q_floor": 0.5}


def pair(c: float, seed: int, seq_len: int = 200, **options: Any) -> tuple[SCBTask, SCBTask]:
    first = SCBTask.random(seq_len=seq_len, seed=seed, **FAMILY)
    return first, related_task(first, c, seed=seed, q_floor=0.5, **options)


def beyond(P: Any, mu: Any) -> np.ndarray:
    return np.asarray(P) - np.asarray(mu)[:, None]


# The pairs


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("c", [-0.5, -0.2, 0.0, 0.3, 0.8, 1.0])
def test_pairs_share_all_but_the_correlation(c: float, seed: int) -> None:
    """Correlation by a hand-written sum; mu, K_P, sizes and the smallest weight as they were."""
    first = SCBTask.random(3, 20, 2, K_P=0.15, q_floor=0.5, mu_ratio=1 + seed % 2, seed=seed)
    second = related_task(first, c, seed=seed, q_floor=0.5)
    D, E = beyond(first.P, first.mu), beyond(second.P, second.mu)
    products = [first.mu[n] * D[m, n] * E[m, n] for m in range(3) for n in range(3)]
    assert sum(products) / math.sqrt(first.K_P * second.K_P) == pytest.approx(c, abs=1e-9)
    assert correlation(first.P, second.P, first.mu) == pytest.approx(c, abs=1e-9)
    assert second.K_P == pytest.approx(first.K_P)
    np.testing.assert_allclose(second.mu, first.mu, atol=1e-9)
    assert (second.vocab_size, second.seq_len, second.sparsity) == (3, 20, 2)
    assert second.Q[second.support].min() >= 0.25 - 1e-12
    assert not np.array_equal(first.Q, second.Q)


def test_pairs_are_drawn_by_the_seed() -> None:
    first, second = pair(0.3, 1)
    again, other = related_task(first, 0.3, seed=1, q_floor=0.5), related_task(first, 0.3, seed=2, q_floor=0.5)
    np.testing.assert_array_equal(second.P, again.P)
    np.testing.assert_array_equal(second.Q, again.Q)
    assert np.abs(second.P - other.P).max() > 0.01
    assert (second.Q != other.Q).any()
    np.testing.assert_array_equal(related_task(first, 0.3, seed=1, keep_Q=True).Q, first.Q)
    # of all directions, not always the same: the part beyond c D differs in angle
    angles = [
        correlation(related_task(first, 0.0, seed=s).P, related_task(first, 0.0, seed=0).P, first.mu) for s in (1, 2)
    ]
    assert all(abs(angle) < 0.99 for angle in angles)


def test_there_is_not_always_a_pair() -> None:
    two = SCBTask.random(2, 5, 1, K_P=0.2, seed=0)
    with pytest.raises(ValueError, match="correlation must be -1 or 1"):
        related_task(two, 0.5, seed=0)
    np.testing.assert_allclose(related_task(two, 1, seed=0).P, two.P)
    strong = SCBTask.random(3, 5, 1, K_P=0.6, seed=0)
    with pytest.raises(ValueError, match=r"correlation -1\.0 was found .* a smaller K_P than 0\.6 leaves"):
        related_task(strong, -1.0, seed=0)
    with pytest.raises(ValueError, match="K_P"):
        related_task(SCBTask.random(3, 5, 1, K_P=0, seed=0), 0.5, seed=0)


def test_correlation_is_that_of_the_geometry() -> None:
    task = SCBTask.random(4, 5, 2, K_P=0.3, mu_ratio=4, seed=3)
    assert correlation(task.P, task.P, task.mu) == pytest.approx(1)
    mirrored = 2 * task.mu[:, None] - task.P
    assert correlation(torch.tensor(task.P), mirrored, task.mu) == pytest.approx(-1)
    V = torch.tensor(task.P) + 0.1 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    D, E = torch.tensor(beyond(task.P, task.mu)), V - torch.tensor(task.mu)[:, None]
    mu = torch.tensor(task.mu)
    expected = geometry.inner(D, E, mu) / geometry.norm(D, mu) / geometry.norm(E, mu)
    assert correlation(V, task.P, task.mu) == pytest.approx(float(expected))
    assert math.isnan(correlation(np.outer(task.mu, np.ones(4)), task.P, task.mu))


def test_warm_start_is_on_the_line(device: torch.device) -> None:
    first, second = pair(0.5, 0, seq_len=30)
    mu = torch.tensor(first.mu, dtype=torch.float32, device=device)
    V = torch.tensor(first.P, dtype=torch.float32, device=device)
    for theta in (-1.0, 0.0, 0.4, 1.0):
        state = warm_start(V, mu, 40, theta)
        torch.testing.assert_close(state.V, theta * V + (1 - theta) * mu[:, None])
        torch.testing.assert_close(state.A, torch.full((40, 3), 1 / 40, device=device))
        assert state.support.all()
    state = warm_start(V, mu, 30)
    torch.testing.assert_close(state.V, V)
    result = fit(
        small_stream(second, 0, device=device), [SparseDescent(steps=2, batch_size=8, step_size=0.1)], start=state
    )
    assert result.finished
    torch.testing.assert_close(V, torch.tensor(first.P, dtype=torch.float32, device=device))  # not changed
