"""The sparse contextual bigram (SCB) task.

The context is T tokens drawn independently from mu, followed by one more such token, the query k. A position s is drawn
from column k of Q, and the answer y from column x_s of P. (Ren, Wang and Lee, 2024, section 2; chapter 2 of the book.)
"""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scb_nb import validate
from scb_nb.chains import random_mu, random_P, stationary_distribution
from scb_nb.stream import Batch, Stream
from scb_nb.validate import Device, FloatArray

# Exact expectations over the tokens that can be read hold N numbers for each of N^sparsity cases, up to this many.
MAX_ENUMERATION = 10_000_000


@dataclass(frozen=True, eq=False, repr=False)
class SCBTask:
    """A sparse contextual bigram task, given by its two matrices.

    Parameters
    ----------
    P : array of shape (N, N)
        Transition matrix: ``P[m, n]`` is the probability of the answer m when the selected token is n. Its columns sum
        to one, and every token can be reached from every other (irreducible).
    Q : array of shape (T, N)
        Where to look: ``Q[t, k]`` is the probability that position t is selected when the query is k. Its columns sum
        to one.

    Attributes
    ----------
    mu : ndarray of shape (N,)
        The stationary distribution of P, strictly positive: P mu = mu.

    Raises
    ------
    TypeError
        If P or Q is not an array of real numbers.
    ValueError
        If a shape is wrong, an entry is negative or not finite, a column does not sum to one, or P is reducible.

    Examples
    --------
    >>> task = SCBTask(P=[[0.9, 0.2], [0.1, 0.8]], Q=[[1, 0], [0, 0.5], [0, 0.5]])
    >>> task
    SCBTask(vocab_size=2, seq_len=3, sparsity=2, K_P=0.218, K_Q=0.5)
    >>> task.mu.round(3).tolist()
    [0.667, 0.333]
    """

    P: FloatArray
    Q: FloatArray
    mu: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        P = validate.probability_columns("P", self.P, (None, None))
        if P.shape[0] != P.shape[1]:
            raise ValueError(f"P must be square, one row and one column per token, got shape {P.shape}")
        Q = validate.probability_columns("Q", self.Q, (None, len(P)))
        mu = stationary_distribution(P)
        mu.setflags(write=False)
        for name, value in (("P", P), ("Q", Q), ("mu", mu)):
            object.__setattr__(self, name, value)

    @classmethod
    def random(
        cls,
        vocab_size: int,
        seq_len: int,
        sparsity: int,
        *,
        seed: int,
        q_floor: float = 0.3,
        mu_ratio: float = 1.0,
        K_P: float | None = None,
    ) -> "SCBTask":
        """Draw a task at random.

        Parameters
        ----------
        vocab_size, seq_len : int
            N and T, at least 1.
        sparsity : int
            The number of positions that each query reads, from 1 to ``seq_len``; drawn without replacement.
        seed : int
            Same seed, same task.
        q_floor : float
            In [0, 1]: every non-zero entry of Q is at least ``q_floor / sparsity``; the rest of the mass is spread
            uniformly at random over the simplex. 1 makes all weights equal.
        mu_ratio : float
            The largest entry of mu over the smallest, at least 1. 1 makes mu uniform; in any case every entry of mu
            is at least ``1 / (mu_ratio * vocab_size)``.
        K_P : float, optional
            The strength of the signal in P, exactly: ``||P - mu 1^T||_mu^2``, from 0 (the answer ignores the selected
            token) to 0.98 (1 - ||mu||^2). By default whatever a random P has.

        Raises
        ------
        TypeError, ValueError
            If an argument is not of its type or range, or K_P cannot be reached.

        Examples
        --------
        >>> SCBTask.random(vocab_size=5, seq_len=100, sparsity=2, q_floor=1.0, K_P=0.5, seed=0)
        SCBTask(vocab_size=5, seq_len=100, sparsity=2, K_P=0.5, K_Q=0.49)
        """
        vocab_size = validate.integer("vocab_size", vocab_size, 1)
        seq_len = validate.integer("seq_len", seq_len, 1)
        sparsity = validate.integer("sparsity", sparsity, 1, seq_len)
        q_floor = validate.real("q_floor", q_floor, 0, 1)
        mu_ratio = validate.real("mu_ratio", mu_ratio, 1)
        rng = np.random.default_rng(validate.integer("seed", seed))

        mu = random_mu(vocab_size, mu_ratio, rng)
        P = random_P(mu, K_P, rng)
        spread = rng.dirichlet(np.ones(sparsity), size=vocab_size)  # (N, sparsity)
        weights = q_floor / sparsity + (1 - q_floor) * spread
        Q = np.zeros((seq_len, vocab_size))
        for k in range(vocab_size):
            Q[rng.choice(seq_len, size=sparsity, replace=False), k] = weights[k]
        return cls(P, Q)

    @property
    def vocab_size(self) -> int:
        """N, the number of tokens."""
        return self.Q.shape[1]

    @property
    def seq_len(self) -> int:
        """T, the number of context positions."""
        return self.Q.shape[0]

    @property
    def support(self) -> NDArray[np.bool_]:
        """Where Q is not zero, shape (T, N).

        Examples
        --------
        >>> SCBTask(P=[[0.9, 0.2], [0.1, 0.8]], Q=[[1, 0], [0, 0.5], [0, 0.5]]).support.tolist()
        [[True, False], [False, True], [False, True]]
        """
        return self.Q > 0

    @property
    def sparsity(self) -> int:
        """The largest number of positions that a query reads."""
        return int(self.support.sum(axis=0).max())

    @property
    def K_P(self) -> float:
        """||P - mu 1^T||_mu^2, how much the selected token says about the answer; derived in chapter 3.

        Examples
        --------
        >>> SCBTask(P=[[0.5, 0.5], [0.5, 0.5]], Q=[[1, 1]]).K_P  # the selected token says nothing
        0.0
        >>> SCBTask(P=[[0, 1], [1, 0]], Q=[[1, 1]]).K_P  # it says all: 1 - ||mu||^2
        0.5
        """
        return float(((self.P - self.mu[:, None]) ** 2).sum(axis=0) @ self.mu)

    @property
    def K_Q(self) -> float:
        """||Q - 1 1^T / T||_mu^2, how far Q is from reading everywhere alike; derived in chapter 3.

        Examples
        --------
        >>> SCBTask(P=[[0, 1], [1, 0]], Q=[[0.5, 1], [0.5, 0]]).K_Q  # query 0 reads everywhere alike
        0.25
        """
        return float(((self.Q - 1 / self.seq_len) ** 2).sum(axis=0) @ self.mu)

    def stream(self, seed: int, *, device: Device = None, share_mu: bool = False) -> Stream:
        """Return an endless stream of samples that gives away neither P nor Q; mu only if ``share_mu``.

        ``device=None`` is a GPU when there is one. Same seed and same kind of device, same samples.

        Examples
        --------
        >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
        >>> hidden, shown = task.stream(seed=1), task.stream(seed=1, share_mu=True)
        >>> hidden.mu, shown.mu.round(3).tolist()
        (None, [0.333, 0.333, 0.333])
        """
        return Stream(self, seed, device, share_mu)

    def sample(self, batch_size: int, seed: int, *, device: Device = None) -> Batch:
        """Return ``batch_size`` samples (at least 1): the beginning of ``stream(seed)``.

        Examples
        --------
        >>> task = SCBTask(P=[[0, 1], [1, 0]], Q=[[0, 1], [1, 0]])
        >>> tokens, query, target = task.sample(100, seed=0, device="cpu")
        >>> bool((target == 1 - tokens[range(100), 1 - query]).all())  # query 0 reads position 1, query 1 position 0
        True
        """
        return self.stream(seed, device=device).draw(batch_size)

    def tensors(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return P (N, N), Q (T, N) and mu (N,) as tensors with the dtype and device of ``like``.

        Examples
        --------
        >>> P, Q, mu = SCBTask.random(3, 8, 2, seed=0).tensors(like=torch.zeros((), dtype=torch.float64))
        >>> P.shape, Q.shape, mu.dtype
        (torch.Size([3, 3]), torch.Size([8, 3]), torch.float64)
        """
        P, Q, mu = (torch.tensor(array, dtype=like.dtype, device=like.device) for array in (self.P, self.Q, self.mu))
        return P, Q, mu

    @property
    def bayes_risk(self) -> float:
        """1/2 - (K_P ||Q||_mu^2 + ||mu||^2) / 2, the smallest squared risk of any predictor; derived in chapter 3.

        Examples
        --------
        >>> SCBTask(P=[[0, 1], [1, 0]], Q=[[1, 1]]).bayes_risk  # the answer is certain
        0.0
        >>> SCBTask(P=[[0, 1], [1, 0]], Q=[[0.5, 0.5], [0.5, 0.5]]).bayes_risk  # or one of two, in half of the contexts
        0.125
        """
        Q_norm = float((self.Q**2).sum(axis=0) @ self.mu)
        return 0.5 - 0.5 * (self.K_P * Q_norm + float(self.mu @ self.mu))

    def bayes_cross_entropy(self) -> float:
        """Return the smallest cross-entropy, in nats, any predictor can have: the mean entropy of ``P X q``.

        Exact, by enumerating the tokens that each query can read.

        Raises
        ------
        ValueError
            If that takes more than ten million numbers for a query; estimate it on samples of :meth:`stream` instead.

        Examples
        --------
        >>> task = SCBTask(P=[[0, 1], [1, 0]], Q=[[0.5, 0.5], [0.5, 0.5]])
        >>> round(task.bayes_cross_entropy(), 4)  # log 2 where the two tokens differ, in half of the contexts
        0.3466
        """
        if self.vocab_size ** (self.sparsity + 1) > MAX_ENUMERATION:
            raise ValueError(
                f"vocab_size ** (sparsity + 1) must be at most {MAX_ENUMERATION} for the exact value, "
                f"got {self.vocab_size} ** {self.sparsity + 1}; "
                "average -log of the Bayes-optimal probability of the target over samples instead"
            )
        return float(self.mu @ [self._mean_entropy(k) for k in range(self.vocab_size)])

    def _mean_entropy(self, query: int) -> float:
        prediction = np.zeros((self.vocab_size, 1))  # (N, cases so far)
        probability = np.ones(1)
        for weight in self.Q[self.support[:, query], query]:
            prediction = (prediction[:, :, None] + weight * self.P[:, None, :]).reshape(self.vocab_size, -1)
            probability = np.outer(probability, self.mu).ravel()
        logarithm = np.log(np.where(prediction > 0, prediction, 1))
        return float(-(prediction * logarithm).sum(axis=0) @ probability)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the task to ``path`` as a NumPy archive (.npz, without pickle)."""
        with open(path, "wb") as file:
            np.savez_compressed(file, P=self.P, Q=self.Q)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "SCBTask":
        """Read a task that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged or holds no valid task.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
        >>> with TemporaryDirectory() as folder:
        ...     task.save(f"{folder}/task.npz")
        ...     bool((SCBTask.load(f"{folder}/task.npz").P == task.P).all())
        True
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path must name a saved task, but there is no file {str(path)!r}")
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                P, Q = archive["P"], archive["Q"]
        except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, missing key
            raise ValueError(
                f"path must name a file written by SCBTask.save, but {str(path)!r} is not readable: {error}"
            ) from error
        return cls(P, Q)

    def __repr__(self) -> str:
        return (
            f"SCBTask(vocab_size={self.vocab_size}, seq_len={self.seq_len}, sparsity={self.sparsity}, "
            f"K_P={self.K_P:.3g}, K_Q={self.K_Q:.3g})"
        )
