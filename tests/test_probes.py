"""Probes: their geometry, what a look sees against an obvious form, signs, false alarms, training with them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import double, small_stream, start_of
from scipy import stats

from scb_nb import Batch, SCBTask, align, batch_gradients, fit, geometry, probes, screening
from scb_nb.objective import reference_gradients
from scb_nb.probes import Probes, random_probes
from scb_nb.stages import SparseDescent, State
from scb_nb.stream import BatchStream
from scb_nb.transfer import correlation, warm_start


def a_task(N: int = 3, T: int = 300, seed: int = 0, **others: Any) -> SCBTask:
    return SCBTask.random(N, T, 2, **{"K_P": 0.3, "q_floor": 0.5, "seed": seed, **others})


def some_mu(N: int, ratio: float) -> torch.Tensor:
    return torch.tensor(SCBTask.random(N, 2, 1, mu_ratio=ratio, seed=1).mu)


def noise_inner(D: torch.Tensor, other: torch.Tensor, mu: torch.Tensor) -> float:
    """The covariance of (y - mu)^T D e_x and (y - mu)^T D' e_x for independent y and x, by summing over both."""
    N = len(mu)
    total = 0.0
    for m in range(N):
        for n in range(N):
            answer = torch.eye(N).double()[m] - mu
            total += float(mu[m] * mu[n] * (answer @ D[:, n]) * (answer @ other[:, n]))
    return total


@pytest.mark.parametrize("ratio", [1.0, 4.0])
@pytest.mark.parametrize("N", [2, 3, 5])
def test_probes_have_even_and_uncorrelated_noise(N: int, ratio: float) -> None:
    mu = some_mu(N, ratio)
    found = random_probes(mu, (N - 1) ** 2, seed=3)
    assert found.shape == ((N - 1) ** 2, N, N)
    for D in found:
        torch.testing.assert_close(D.sum(0), torch.zeros(N).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(D @ mu, torch.zeros(N).double(), rtol=0, atol=1e-12)
        assert float(geometry.norm(D, mu)) == pytest.approx(1)
    gram = np.array([[noise_inner(D, other, mu) for other in found] for D in found])
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-12)
    weighted = np.array([[float(geometry.inner(D, other, mu)) for other in found] for D in found])
    if ratio == 1:  # the noise that it asks for is the mu-weighted inner product
        np.testing.assert_allclose(weighted, N * gram, atol=1e-12)
        np.testing.assert_allclose(weighted, np.eye(len(found)), atol=1e-12)
    elif N > 2:
        assert np.abs(weighted - np.eye(len(found))).max() > 0.01


def test_probes_are_orthogonal_to_what_is_there() -> None:
    mu = some_mu(4, 4.0)
    own = random_probes(mu, 1, seed=0)[0]
    others = random_probes(mu, 8, seed=5, beside=own)
    assert len(others) == 8
    assert max(abs(noise_inner(own, D, mu)) for D in others) < 1e-12
    rank = torch.linalg.matrix_rank(torch.cat([own[None], others]).flatten(1))
    assert int(rank) == 9
    torch.testing.assert_close(random_probes(mu, 8, seed=5, beside=2 * own), others)


def test_probes_follow_seed_count_and_dtype(device: torch.device) -> None:
    mu = some_mu(3, 2.0).float().to(device)
    found = random_probes(mu, 2, seed=1)
    assert found.dtype == torch.float32
    assert found.device.type == device.type
    assert torch.equal(found, random_probes(mu, 2, seed=1))
    assert not torch.allclose(found, random_probes(mu, 2, seed=2))
    assert random_probes(mu, 0, seed=1).shape == (0, 3, 3)


def test_directions_are_drawn_evenly() -> None:
    """The share of a fixed direction that H probes of d keep is Beta(H/2, (d - H)/2), for a skewed mu in its noise."""
    mu = some_mu(3, 3.0)
    fixed = random_probes(mu, 1, seed=10**6)[0]
    length = noise_inner(fixed, fixed, mu)
    for count in (1, 2):
        kept = []
        for seed in range(300):
            drawn = random_probes(mu, count, seed)
            parts = [noise_inner(fixed, D, mu) ** 2 / noise_inner(D, D, mu) for D in drawn]
            kept.append(sum(parts) / length)
        assert stats.kstest(kept, stats.beta(count / 2, (4 - count) / 2).cdf).pvalue > 0.01


def obvious_look(stage: Probes, task: SCBTask, batches: list[Batch], start: State) -> tuple[State, bool]:
    """The look that the stage describes, sample by sample and query by query, for any start of V."""
    mu, T, N = start.mu, task.seq_len, task.vocab_size
    uniform = State.uniform(mu, T)
    own = start.V - uniform.V
    informed = float(own.abs().max()) > 1e-6
    most = (N - 1) ** 2 - informed
    count = most if stage.random is None else stage.random
    directions = list(random_probes(mu, count, stage.seed, own if informed else None))
    if informed:
        directions.insert(0, own / geometry.norm(own, mu))
    tokens, query, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    heights, pulls = [], []
    for D in directions:
        pull = torch.zeros(T, N, dtype=torch.float64)
        for k in range(N):
            chosen = query == k
            if chosen.any():
                part = Batch(tokens[chosen], query[chosen], target[chosen], N)
                pull[:, k] = -reference_gradients(uniform.V + D, uniform.A, part).A[:, k]
        pull = pull - pull.median(0).values
        seen = torch.bincount(query, minlength=N)
        scaled = pull * seen.sqrt()
        level = 1.4826 * (scaled - scaled.median(0).values).abs().median()
        pulls.append(pull)
        heights.append(scaled / level if level > 0 else 0 * scaled)
    squares = sum(height.square() for height in heights).numpy()
    tail = stats.chi2.sf(squares, len(directions))
    if informed and len(directions) > 1:
        tail = 2 * np.minimum(tail, stats.chi2.sf(heights[0].numpy() ** 2, 1))
    if not stage.either_sign:
        tail = stats.norm.sf(heights[0].numpy())
    found = torch.tensor(tail < stage.false_alarms / (T * N))
    loudness = torch.tensor(squares).sqrt()

    def settle(found: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
        """Attention on what was found, and the V for which the loss with it is least, by descent."""
        A = screening.attention_on(found, weights)
        heard = [float((pull * A * mu).sum()) for pull in pulls]
        theta = np.zeros(len(directions))
        for _ in range(4_000):
            slope = [
                float(geometry.norm(A, mu)) ** 2
                * sum(theta[h] * float(geometry.inner(D, directions[h], mu)) for h in range(len(theta)))
                - pull
                for D, pull in zip(directions, heard, strict=True)
            ]
            if max(map(abs, slope)) < 1e-12:
                break
            theta -= 0.5 * np.array(slope)
        return A, sum(t * D for t, D in zip(theta, directions, strict=True)), theta

    result = State.uniform(mu, T)
    if not found.any():
        return result, False
    A, D, theta = settle(found, loudness)
    if stage.again:
        along = sum(t * pull for t, pull in zip(theta, pulls, strict=True))
        scaled = along * seen.sqrt()
        level = 1.4826 * (scaled - scaled.median(0).values).abs().median()
        found = scaled - scaled.median(0).values > level * stats.norm.isf(stage.false_alarms / (T * N))
        A, D, _ = settle(found, along)
    return replace(result, V=uniform.V + D, A=A, support=found), float(found.any(0).double().mean()) >= stage.visible


LOOKS: dict[str, tuple[dict[str, Any], float]] = {
    "all": ({}, 0.0),
    "all, skewed": ({"mu_ratio": 4.0}, 0.0),
    "once": ({"again": False}, 0.0),
    "some": ({"random": 3, "visible": 0.3}, 0.0),
    "informed": ({"random": 2}, 0.5),
    "informed, alone": ({"random": 0}, -0.7),
    "one sign": ({"random": 0, "either_sign": False}, 0.7),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_against_the_obvious_form(name: str) -> None:
    others, theta = LOOKS[name]
    task = a_task(3, 60, seed=2, mu_ratio=others.get("mu_ratio", 1.0))
    stage = Probes(batch_size=900, seed=4, **{key: value for key, value in others.items() if key != "mu_ratio"})
    P, _, mu = double(task)
    start = warm_start(P, mu, 60, theta)
    source, state = small_stream(task, 7), warm_start(P, mu, 60, theta)
    over = stage.step(state, source)
    expected, ends = obvious_look(stage, task, [small_stream(task, 7).draw(900)], start)
    assert over == ends
    assert over
    assert torch.equal(state.support, expected.support)
    assert state.support.any()
    torch.testing.assert_close(state.A, expected.A, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(state.V, expected.V, rtol=1e-6, atol=1e-7)


def test_looks_add_up_and_pieces_do_not_matter() -> None:
    """Three looks see what one at three times the samples sees, however the stream cuts its samples."""
    task = a_task(3, 200, seed=1)
    ends = []
    for size, block in ((1_200, 10**6), (1_200, 7_000), (400, 7_000)):
        stage = Probes(batch_size=size, visible=1e-6, seed=1)
        with mock.patch("scb_nb.stream.BLOCK_TOKENS", 30_000):
            batch = task.stream(5, device="cpu").draw(1_200)
        with mock.patch("scb_nb.stream.BLOCK_TOKENS", block):
            source, state = BatchStream(batch, mu=task.mu), start_of(task)
            while source.position < 1_200:
                state.V = start_of(task).V
                assert stage.step(state, source) or source.position < 1_200
        ends.append(state)
    for first, second in pairwise(ends):
        assert torch.equal(first.support, second.support)
        torch.testing.assert_close(first.V, second.V)
        torch.testing.assert_close(first.A, second.A)
    assert ends[0].loss == pytest.approx(ends[1].loss)


def test_too_few_queries_with_something_are_not_enough() -> None:
    """Something stands out, but not in nine of ten queries: the stage goes on, and nothing has moved."""
    seen = 0
    for seed in range(8):
        task = a_task(4, 200, seed=seed)
        some, most = start_of(task), start_of(task)
        found = Probes(batch_size=250, visible=1e-6).step(some, small_stream(task, seed))
        share = float(some.support.any(0).double().mean()) if found else 0.0
        assert Probes(batch_size=250, visible=0.9).step(most, small_stream(task, seed)) == (share == 1.0)
        if 0 < share < 1:
            seen += 1
            assert torch.equal(most.V, start_of(task).V)
            assert most.support.all()
    assert seen >= 2


def test_two_tests_share_the_false_alarms() -> None:
    """With a probe that is known beside others, each test gets half: at T N = 10 entries and 1%, 0.05% each."""
    height = torch.zeros(3, 5, 2, dtype=torch.float64)
    limits = [stats.chi2.isf(0.0005, 3) ** 0.5, stats.norm.isf(0.00025)]
    height[1, 0, 0], height[1, 1, 0] = 0.99 * limits[0], 1.01 * limits[0]
    height[0, 2, 0], height[0, 3, 0] = 0.99 * limits[1], -1.01 * limits[1]
    found = Probes(batch_size=1)._outstanding(height, informed=True)
    assert found.nonzero().tolist() == [[1, 0], [3, 0]]


def test_nothing_moves_before_something_is_seen() -> None:
    task = a_task(3, 500, seed=3)
    state = State.uniform(torch.tensor(task.mu), 500)
    before = [getattr(state, name).clone() for name in ("V", "A", "support")]
    assert not Probes(batch_size=30).step(state, small_stream(task, 1))
    assert all(torch.equal(*pair) for pair in zip(before, (state.V, state.A, state.support), strict=True))
    assert 0.3 < state.loss < 0.37  # that of guessing from mu is 1/3


def test_gives_up_and_says_so() -> None:
    task = a_task(3, 100, K_P=0.0)
    result = fit(small_stream(task, 1), [Probes(batch_size=100, max_steps=3)])
    assert result.samples == 300
    assert result.outcome == "gave up in stage 1: no position stood out in 60% of the queries"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_sign_of_what_is_known_does_not_matter(sign: float) -> None:
    """One probe along P or against it: V ends along P, unless the stage is to trust the sign and that is wrong."""
    task = a_task(3, 300, seed=4)
    P, _, mu = double(task)
    start = warm_start(P, mu, 300, sign)
    state = warm_start(P, mu, 300, sign)
    assert Probes(batch_size=2_000, random=0).step(state, small_stream(task, 2))
    assert correlation(state.V, task.P, task.mu) == pytest.approx(1)
    assert bool((state.support.numpy() == task.support).all())
    trusting = Probes(batch_size=2_000, random=0, either_sign=False)
    assert trusting.step(start, small_stream(task, 2)) == (sign > 0)


def test_all_probes_find_the_same_whatever_their_seed() -> None:
    """The sum of squares is that of the whole space. (Noise is read off each probe, so it differs a little.)"""
    task = a_task(4, 400, seed=5, mu_ratio=2.0)
    states = []
    for seed in range(3):
        state = start_of(task)
        assert Probes(batch_size=3_000, seed=seed).step(state, small_stream(task, 3))
        states.append(state)
    for other in states[1:]:
        assert torch.equal(states[0].support, other.support)
        gap = geometry.norm(states[0].V - other.V, other.mu) / geometry.norm(other.V - other.mu[:, None], other.mu)
        assert float(gap) < 0.1


def test_v_is_what_the_gradient_of_v_would_say() -> None:
    """With all probes: minus the direction of V at mu 1^T with the attention found, over the square of its length."""
    task = a_task(3, 1_000, seed=6, mu_ratio=2.0)
    state = start_of(task)
    source = task.stream(4, device="cpu")
    assert Probes(batch_size=3_000).step(state, source)
    source.position = 0
    start = start_of(task)
    gradient = batch_gradients(start.V, state.A, source.chunks(3_000)).V
    direction = -geometry.centre_V(gradient / state.mu, state.mu) / geometry.norm(state.A, state.mu) ** 2
    gap = geometry.norm(state.V - start.V - direction, state.mu) / geometry.norm(direction, state.mu)
    assert float(gap) < 0.05
    assert correlation(start.V + direction, task.P, task.mu) > 0.95


@pytest.mark.parametrize(("N", "mu_ratio", "each"), [(3, 1.0, 500), (3, 3.0, 500), (5, 1.0, 300)])
def test_false_alarms_are_at_most_twice_what_is_promised(N: int, mu_ratio: float, each: int) -> None:
    """Nothing is read from here: 60 looks, each promised at 5%. At 10% more than 12 would have a chance of 1%."""
    task = a_task(N, 100, K_P=0.0, mu_ratio=mu_ratio)
    stage = Probes(batch_size=each * N, visible=1e-6, false_alarms=0.05, again=False)
    source = task.stream(1, device="cpu")
    named = 0
    for seed in range(60):
        named += replace(stage, seed=seed).step(State.uniform(torch.tensor(task.mu), 100), source)
    assert named <= 12


def test_noise_follows_the_queries_that_came() -> None:
    """One query comes rarely by chance: with the noise of its expected share, it would be named all the time."""
    task = a_task(3, 200, K_P=0.0)
    batch = task.stream(2, device="cpu").draw(4_000)
    rare = torch.cat([torch.where(batch.query == 0)[0][:40], torch.where(batch.query != 0)[0]])
    source = BatchStream(Batch(*(each[rare] for each in batch), 3), mu=task.mu)
    state = start_of(task)
    assert not Probes(batch_size=len(rare), visible=1e-6).step(state, source)
    pull = state.memory["heard"][0]  # as if every query had come as often
    assert screening.outstanding(pull.abs(), state.mu, 0.01).any()


def test_stopped_and_resumed_run_is_the_same(tmp_path: Path, device: torch.device) -> None:
    task = a_task(3, 400, seed=8)
    stages = [Probes(batch_size=100, visible=0.9), SparseDescent(steps=20, batch_size=32, step_size=0.3)]
    whole = fit(small_stream(task, 9, device=device), stages)
    assert whole.finished
    path = tmp_path / "run.npz"
    stopped = fit(small_stream(task, 9, device=device), stages, checkpoint=path, max_samples=200)
    assert stopped.state.stage == 0
    resumed = fit(small_stream(task, 9, device=device), stages, checkpoint=path)
    for name in ("V", "A", "support"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))
    assert whole.samples == resumed.samples


def test_training_with_probes_recovers_the_task() -> None:
    task = a_task(3, 500, seed=9)
    result = fit(task.stream(1, device="cpu"), probes.stages(3, 500))
    assert result.finished
    assert bool((result.support.numpy() == task.support).all())
    assert max(align(result.V, result.A, task)[-2:]) < 0.03


@pytest.mark.parametrize(("N", "mu_ratio"), [(3, 3.0), (6, 1.0)])
def test_probes_bring_stage_two_to_the_support(N: int, mu_ratio: float) -> None:
    task = a_task(N, 300, seed=9, mu_ratio=mu_ratio)
    last = SparseDescent(steps=150, batch_size=128, step_size=0.3)
    result = fit(task.stream(1, device="cpu"), [Probes(batch_size=500 * N), last])
    assert bool((result.support.numpy() == task.support).all())
    assert max(align(result.V, result.A, task)[-2:]) < 0.1


def test_one_batch_is_enough() -> None:
    task = a_task(3, 500, seed=10)
    batch = task.sample(2_500, 1, device="cpu")
    last = SparseDescent(steps=100, batch_size=128, step_size=0.3)
    result = fit(BatchStream(batch, mu=task.mu), [Probes(batch_size=2_500), last])
    assert bool((result.support.numpy() == task.support).all())
    assert max(align(result.V, result.A, task)[-2:]) < 0.1


def test_one_token_leaves_nothing_to_listen_with() -> None:
    task = SCBTask.random(1, 5, 2, seed=0)
    with pytest.raises(ValueError, match="random must be at least 1 where V starts at mu 1\\^T, and N at least 2"):
        fit(small_stream(task, 1), [Probes(batch_size=10)])
