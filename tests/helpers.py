"""What several test files share: tasks, parameters, and every sample of a task with its probability."""

import io
from itertools import product
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import stats

from scb_nb import Batch, SCBTask, Stream
from scb_nb.stages import State

SEEDS = st.integers(0, 2**32)


@st.composite
def tasks(draw: st.DrawFn, max_vocab_size: int = 5, max_seq_len: int = 6) -> SCBTask:
    """Small random tasks of every kind: one token, one position, dense Q, skewed mu."""
    seq_len = draw(st.integers(1, max_seq_len))
    return SCBTask.random(
        draw(st.integers(1, max_vocab_size)),
        seq_len,
        draw(st.integers(1, seq_len)),
        seed=draw(SEEDS),
        q_floor=draw(st.sampled_from([0.0, 0.3, 1.0])),
        mu_ratio=draw(st.sampled_from([1.0, 3.0, 50.0])),
    )


def skewed_task() -> SCBTask:
    """Four tokens, the most frequent 50 times as frequent as the rarest, and zeros in P and Q.

    Token n is answered by n + 1 with probability ``leave[n]``, else by itself; hence mu is proportional to 1 / leave.
    """
    leave = np.array([1.0, 0.02, 0.5, 0.1])
    P = np.diag(1 - leave) + np.roll(np.diag(leave), 1, axis=0)
    Q = [[0.0, 0.5, 1.0, 0.1], [0.2, 0.0, 0.0, 0.2], [0.8, 0.5, 0.0, 0.7]]
    return SCBTask(P, Q)


def parameters(
    vocab_size: int, seq_len: int, seed: int, like: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random V (N, N) and A (T, N), nowhere near any task; float64 on the CPU, or as ``like``."""
    rng = np.random.default_rng(seed)
    V, A = (torch.tensor(rng.normal(size=(rows, vocab_size))) for rows in (vocab_size, seq_len))
    return (V, A) if like is None else (V.to(like), A.to(like))


def few_samples(task: SCBTask, size: int, seed: int) -> Batch:
    """A small batch on the CPU, without making the large block that a stream keeps in store."""
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 100):
        return task.sample(size, seed, device="cpu")


def small_stream(task: SCBTask, seed: int, *, share_mu: bool = True, device: torch.device | str = "cpu") -> Stream:
    """A stream, if not told otherwise on the CPU, that makes its samples in small blocks, for runs that take few."""
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 10_000):
        return task.stream(seed, device=device, share_mu=share_mu)


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def start_of(task: SCBTask) -> State:
    """Where training starts, with the true mu, in float64 on the CPU."""
    return State.uniform(torch.tensor(task.mu), task.seq_len)


def double(task: SCBTask) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """P, Q and mu in float64 on the CPU."""
    return task.tensors(like=torch.empty((), dtype=torch.float64))


def every_sample(task: SCBTask) -> tuple[Batch, torch.Tensor]:
    """Every (context, query, answer) there is, and their probabilities, straight from the definition of the task."""
    N, T = task.vocab_size, task.seq_len
    samples, weights = [], []
    for *context, query, answer in product(range(N), repeat=T + 2):
        selected = sum(task.Q[s, query] * task.P[answer, context[s]] for s in range(T))
        samples.append((context, query, answer))
        weights.append(np.prod(task.mu[context]) * task.mu[query] * selected)
    contexts, queries, answers = zip(*samples, strict=True)
    return Batch(contexts, queries, answers, N), torch.tensor(weights)


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of observed counts under a multinomial; cells that expect fewer than ten are pooled into one."""
    counts, expected = np.ravel(counts), np.ravel(probabilities) * np.sum(counts)
    assert not counts[expected == 0].any(), "an impossible outcome occurred"
    rare = (expected > 0) & (expected < 10)
    counts = np.append(counts[expected >= 10], counts[rare].sum())
    expected = np.append(expected[expected >= 10], expected[rare].sum())
    if expected[-1] < 10:  # too rare even together: join the pool to another cell
        counts, expected = np.append(counts[:-2], counts[-2:].sum()), np.append(expected[:-2], expected[-2:].sum())
    return (
        float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1)) if len(counts) > 1 else 1.0
    )
