"""The chapter on the softmax link, proposition by proposition, and that live and kept numbers have the same trend."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import double, every_sample, parameters, small_stream, start_of
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from experiments import links as experiment
from scb_nb import SCBTask, align, batch_gradients, fit, links, population_gradients, proximal, store
from scb_nb.links import LinkDescent, attention, logits, pull_back
from scb_nb.model import predict
from scb_nb.objective import reference_gradients
from scb_nb.stages import State


def make_task(seed: int, seq_len: int, sparsity: int = 2, q_floor: float = 0.5) -> SCBTask:
    return SCBTask.random(3, seq_len, sparsity, K_P=0.3, q_floor=q_floor, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_link_does_to_a_gradient(seed: int) -> None:
    """Gradients in the logits by finite differences of the loss; the move of a; both at uniform attention to 1e-12."""
    task = make_task(seed, 8)
    V, W = parameters(3, 8, seed)
    batch = task.sample(200, seed, device="cpu")
    for link in ("softmax", "sparsemax"):
        A = attention(W, link)
        found = pull_back(batch_gradients(V, A, batch).A, A, link)
        for t, k in ((0, 0), (3, 1), (7, 2), (5, 0)):
            bump = torch.zeros_like(W)
            bump[t, k] = 1e-6
            losses = [float(batch_gradients(V, attention(W + sign * bump, link), batch).loss) for sign in (1, -1)]
            assert found[t, k] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)

    a, g = attention(W, "softmax")[:, 0], torch.tensor(np.random.default_rng(seed).normal(size=8))
    J = torch.diag(a) - torch.outer(a, a)
    for rate in (1e-3, 1e-4):
        moved = attention((a.log() - rate * (J @ g))[:, None], "softmax")[:, 0] - a
        assert (moved + rate * J @ J @ g).abs().max() < 5 * rate**2

    A = start_of(task).A
    gradient = batch_gradients(V, A, batch).A
    pulled = pull_back(gradient, A, "softmax")
    projected = gradient - gradient.mean(0)
    assert (8 * pulled - projected).abs().max() < 1e-12
    J = torch.diag(A[:, 0]) - torch.outer(A[:, 0], A[:, 0])
    assert (64 * J @ J @ gradient - projected).abs().max() < 1e-12
    step = 1e-6
    moved = attention(logits(A, "softmax") - step * pulled, "softmax") - A
    torch.testing.assert_close(64 * moved / -step, projected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_exponentiated_gradient_is_a_proximal_step(seed: int) -> None:
    """The multiplied and normalised vector, and no other probability vector, is least; by the logits it is the same."""
    rng = np.random.default_rng(seed)
    a, g, rate = rng.dirichlet(np.ones(6)), rng.normal(size=6), 0.7
    multiplied = a * np.exp(-rate * g) / (a * np.exp(-rate * g)).sum()
    through_logits = attention(torch.tensor(np.log(a) + 3.0 - rate * g)[:, None], "softmax")[:, 0]
    np.testing.assert_allclose(through_logits, multiplied, atol=1e-14)

    def objective(b: np.ndarray) -> float:
        return float(rate * g @ b + (b * np.log(b / a)).sum())

    found = minimize(lambda x: objective(np.exp(x) / np.exp(x).sum()), np.zeros(6), tol=1e-12)
    np.testing.assert_allclose(np.exp(found.x) / np.exp(found.x).sum(), multiplied, atol=1e-5)
    for _ in range(50):
        assert objective(rng.dirichlet(np.ones(6))) > objective(multiplied)


def blow_up(c: float, T: float, link: str) -> float:
    """When u exceeds every bound, by the equations of the chapter and a general solver."""

    def velocity(_: float, state: np.ndarray) -> list[float]:
        alpha, x = state  # u = e^x
        u = math.exp(x)
        return [u / T, c * alpha] if link == "exponentiated" else [(u - alpha) / T, c * alpha * u / T]

    def gone(_: float, state: np.ndarray) -> float:
        return float(state[1] - 18)

    gone.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(velocity, (0, 100 * T), [0.0, 0.0], events=gone, rtol=1e-9, atol=1e-12, method="LSODA")
    return float(found.t[-1])


def half_way(task: SCBTask, mirror: bool, rate: float) -> float:
    """Time until alpha_V alpha_A = 1/2 with full matrices on the population loss."""
    state, stage = (
        start_of(task),
        LinkDescent(link="softmax", optimizer="sgd", mirror=mirror, steps=10**6, batch_size=1, step_size=rate),
    )
    while True:
        if state.step % 5 == 0:
            found = align(state.V, state.A, task)
            if found.alpha_V * found.alpha_A >= 0.5:
                return state.step * rate / 3
        stage.update(state, population_gradients(state.V, state.A, task))
        state.step += 1


@pytest.mark.parametrize("sparsity", [1, 2])
def test_the_plateau_of_a_link(sparsity: int) -> None:
    """The formulas solve the reduced equations; these predict full training, the better the longer the context."""
    c = 0.3 / sparsity
    for T in (50.0, 700.0):
        assert blow_up(c, T, "exponentiated") == pytest.approx(math.pi * math.sqrt(T / (2 * c)), rel=2e-3)
    s_star = [blow_up(c, T, "softmax") / T for T in (50.0, 700.0)]
    assert s_star[0] == pytest.approx(s_star[1], rel=1e-4)
    assert s_star[0] >= math.sqrt(math.pi / (2 * c))
    gaps = []
    for T in (50, 200):
        task = make_task(1, T, sparsity, q_floor=1.0)
        assert half_way(task, True, 0.3) == pytest.approx(math.pi * math.sqrt(T / (2 * c)), rel=0.02)
        gaps.append(half_way(task, False, 3.0) / (s_star[0] * T) - 1)
    assert 0 < gaps[1] < gaps[0] < 0.15
    assert gaps[1] < 0.06


def test_softmax_pays_for_the_logarithm() -> None:
    """In the idealised model: the expectation by simulation, the best phi by search, and the samples needed."""
    omega, mu, K_P, q, positions = 0.3, 1 / 3, 0.3, 0.5, 999

    def expectation(n: float, phi: float) -> float:
        mean, variance = n * mu * K_P * q / phi, n * mu * omega**2 / phi**2
        return positions * math.exp(min(variance - mean, 100.0))

    best = 2 * omega**2 / (K_P * q)
    for delta in (0.1, 0.01):
        n = 4 * omega**2 / (mu * K_P**2 * q**2) * math.log(positions / delta)
        assert expectation(n, best) == pytest.approx(delta)
        assert all(expectation(n, phi) > delta for phi in best * np.array([0.5, 0.9, 1.1, 2.0]))
        assert all(expectation(0.99 * n, phi) > delta for phi in np.geomspace(best / 10, best * 10, 200))
    n, rng = 3_000.0, np.random.default_rng(0)
    deviation = math.sqrt(n * mu) * omega / best
    off = np.exp(deviation * rng.standard_normal((4_000, positions))).sum(1)
    on = np.exp(n * mu * K_P * q / best + deviation * rng.standard_normal(4_000))
    # The mean of log-normal ratios is dominated by rare ones, so compare with a generous margin.
    assert np.mean(off / on) == pytest.approx(expectation(n, best), rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_never_zero_and_never_again(seed: int) -> None:
    task = make_task(seed, 60)
    P, _, mu = double(task)
    start = replace(State.uniform(mu, 60), V=P)
    for mirror, rate in ((False, 100.0), (True, 3.0)):
        state, source = start_of(task), small_stream(task, seed)
        state = replace(state, V=P)
        stage = LinkDescent(
            link="softmax",
            optimizer="sgd",
            steps=200,
            batch_size=16,
            step_size=0.1,
            step_size_W=rate,
            mirror=mirror,
        )
        for _ in range(200):
            before, position = state.A, source.position
            gradients = reference_gradients(state.V, state.A, source.draw(16))
            source.position = position
            stage.step(state, source)
            state.step += 1
            assert (state.A > 0).all()
            bound = gradients.A.abs().max(0).values * 2 * rate
            bound = bound if mirror else 2 * bound * before.max(0).values
            assert ((state.A.log() - before.log()).abs() <= bound + 1e-12).all()

    supports: list[torch.Tensor] = []

    def keep(state: State) -> dict[str, float]:
        supports.append(state.A > 0)
        return {}

    stage = LinkDescent(link="sparsemax", optimizer="sgd", steps=300, batch_size=16, step_size=0.1, step_size_W=0.3)
    fit(small_stream(task, seed), [stage], start=start, observers=[keep], record_every=1)
    assert all((later <= earlier).all() for earlier, later in pairwise(supports))
    assert supports[0].all()
    assert supports[-1].double().mean() < 0.5
    lazy: list[torch.Tensor] = supports.copy()
    supports.clear()
    fit(small_stream(task, seed), [replace(stage, mirror=True)], start=start, observers=[keep], record_every=1)
    assert not all((later <= earlier).all() for earlier, later in pairwise(supports))
    assert len(lazy) == len(supports)


@pytest.mark.parametrize("seed", range(3))
def test_what_each_head_can_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = torch.tensor(rng.normal(0.3, 0.6, (5, 400)))
    proper = torch.tensor(rng.dirichlet(np.ones(5), 400).T)
    projected = proximal.project_simplex(outputs)
    assert ((projected - proper).norm(dim=0) <= (outputs - proper).norm(dim=0) + 1e-12).all()

    task = SCBTask.random(3, 4, 1, K_P=0.4, seed=seed)
    P, Q, _ = double(task)
    batch, weights = every_sample(task)
    bayes = predict(P, Q, batch)
    torch.testing.assert_close(links.probabilities(predict(P.log(), Q, batch), "softmax"), bayes)
    torch.testing.assert_close(proximal.project_simplex(bayes.T).T, bayes)

    task = SCBTask.random(3, 3, 2, K_P=0.4, q_floor=0.5, seed=seed)
    P, Q, _ = double(task)
    batch, weights = every_sample(task)
    bayes = predict(P, Q, batch)
    V, A = parameters(3, 3, seed)
    found = links.probabilities(predict(V, A, batch), "softmax")
    opinions = torch.ones_like(found)
    for t in range(3):
        opinions *= V.exp()[:, batch.tokens[:, t]].T ** A[t, batch.query][:, None]
    torch.testing.assert_close(found, opinions / opinions.sum(1, keepdim=True))

    def risk(prediction: torch.Tensor) -> float:
        one_hot = torch.nn.functional.one_hot(batch.target, 3)
        return float(weights @ (prediction - one_hot).square().sum(1))

    assert risk(bayes) < risk(proximal.project_simplex(predict(P + 0.1 * V, Q, batch).T).T)
    lost = weights @ (bayes.log() - found.log()).gather(1, batch.target[:, None])[:, 0]
    assert float(lost) > links.least_nats_lost(task) > 1e-5


# What was kept


def kept(**settings: object) -> dict:
    (found,) = (r["result"] for r in store.kept("links") if settings.items() <= r["settings"].items())
    return dict(found)


def error_A(method: str, T: int) -> float:
    rows = kept(kind="given", seq_len=T, method=method)["last"]
    return float(np.median([row["error_A"] if row else np.inf for row in rows]))


def test_live_runs_with_V_given_have_the_trend_of_the_kept_ones() -> None:
    """Exponentiated gradient does not feel T; the linear link does."""

    def live(T: int, link: str, mirror: bool, rate: float) -> float:
        task = make_task(3, T)
        P, _, mu = task.tensors(like=torch.empty(()))
        stage = LinkDescent(
            link=link,  # type: ignore[arg-type]
            optimizer="sgd",
            mirror=mirror,
            steps=500,
            batch_size=24,
            step_size=0.0,
            step_size_W=rate,
            decay=True,
        )
        start = replace(State.uniform(mu, T), V=P)
        end = fit(task.stream(3, device="cpu", share_mu=True), [stage], start=start, record_every=1_000)
        return align(end.V, end.A, task).error_A

    live_linear = live(800, "linear", False, 0.01) / live(50, "linear", False, 0.1)
    live_exponentiated = live(800, "softmax", True, 3.0) / live(50, "softmax", True, 3.0)
    kept_linear = error_A("linear sgd", 800) / error_A("linear sgd", 50)
    kept_exponentiated = error_A("exponentiated", 800) / error_A("exponentiated", 50)
    assert live_linear > 2
    assert kept_linear > 2
    assert live_exponentiated < 1.6
    assert kept_exponentiated < 1.6


def test_what_the_experiment_measures_of_trained_models() -> None:
    """By cases that are known: the truth, the start, and states that differ in nothing or in all."""
    task = SCBTask.random(3, 20, 2, seed=0)
    P, Q, mu = double(task)
    start = State.uniform(mu, 20)
    assert experiment.off_support(Q, task) == 0
    assert experiment.off_support(start.A, task) == pytest.approx(18 / 20)
    assert experiment.excess(P, Q, task) == pytest.approx(0, abs=1e-12)
    assert experiment.excess(start.V, start.A, task) == pytest.approx(1)
    truth = replace(start, V=P, A=Q)
    same = experiment.similarity(truth, truth, task)
    assert same == pytest.approx(
        {"cosine_V": 1, "cosine_A": 1, "variation": 0, "shared": 1, "excess_left": 0, "excess_right": 0}, abs=1e-9
    )
    elsewhere = torch.zeros_like(Q)
    elsewhere[torch.tensor(~task.support).double().argmax(0), torch.arange(3)] = 1.0
    other = experiment.similarity(truth, replace(start, V=2 * start.V - P, A=elsewhere), task)
    assert (other["cosine_V"], other["variation"]) == pytest.approx((-1, 1))
    assert other["cosine_A"] < 0
