"""Samples, and nothing else of a task: what training is allowed to see.

A stream is an endless sequence of samples that is cut into batches as one likes: sample i depends on the seed and the
kind of device, not on how the samples before it were asked for. It is made in blocks, each from a generator of its own,
so memory stays bounded and any sample can be reached directly.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from scb_nb import validate
from scb_nb.sampling import GuideTable, cumulative, inverse
from scb_nb.validate import Device, FloatArray

if TYPE_CHECKING:
    from scb_nb.task import SCBTask

# Tokens in one block: large enough to hide Python's overhead, small enough for the cache.
BLOCK_TOKENS = 1 << 19


class Batch:
    """Samples of one task: context ``tokens`` (B, T), ``query`` (B,) and ``target`` (B,), int64 on one device.

    Iterating over a batch gives the three. ``compact`` holds the tokens as they came, in a byte each from a stream of
    at most 256 tokens on the CPU; ``tokens`` are made of it when they are first asked for.

    Parameters
    ----------
    tokens, query, target : array of integers
        Shapes (B, T), (B,) and (B,); all entries from 0 to ``vocab_size`` - 1.
    vocab_size : int
        N, at least 1.

    Raises
    ------
    TypeError
        If an array does not hold integers.
    ValueError
        If shapes, ranges or devices do not fit.

    Examples
    --------
    >>> tokens, query, target = Batch([[0, 1, 1]], [0], [1], vocab_size=2)
    >>> tokens.shape
    torch.Size([1, 3])
    >>> Batch([[0, 1], [1, 1], [1, 0]], query=[0, 1, 1], target=[1, 0, 1], vocab_size=2)[:2]
    Batch(batch_size=2, seq_len=2, vocab_size=2, device='cpu')
    """

    __slots__ = ("_tokens", "compact", "query", "target", "vocab_size")
    _tokens: torch.Tensor | None
    compact: torch.Tensor
    query: torch.Tensor
    target: torch.Tensor

    def __init__(self, tokens: Any, query: Any, target: Any, vocab_size: int) -> None:
        self.vocab_size = validate.integer("vocab_size", vocab_size, 1)
        self.compact = self._tokens = validate.index_tensor("tokens", tokens, 2, vocab_size)
        for name, value in (("query", query), ("target", target)):
            tensor = validate.index_tensor(name, value, 1, vocab_size)
            if len(tensor) != len(self.compact):
                raise ValueError(
                    f"{name} must have one entry per row of tokens ({len(self.compact)}), got {len(tensor)}"
                )
            if tensor.device != self.device:
                raise ValueError(f"{name} must be on the device of tokens ({self.device}), got {tensor.device}")
            setattr(self, name, tensor)

    @classmethod
    def _trusted(cls, compact: torch.Tensor, query: torch.Tensor, target: torch.Tensor, vocab_size: int) -> "Batch":
        """Make a batch of tensors known to be right, without the cost of looking at each."""
        batch = cls.__new__(cls)
        batch.compact, batch.query, batch.target, batch.vocab_size = compact, query, target, vocab_size
        batch._tokens = None
        return batch

    @property
    def tokens(self) -> torch.Tensor:
        """The context tokens, shape (B, T), int64."""
        if self._tokens is None:
            self._tokens = self.compact.to(torch.int64)
        return self._tokens

    @property
    def seq_len(self) -> int:
        """T, the number of context tokens."""
        return self.compact.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.compact.device

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.tokens, self.query, self.target))

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, rows: slice) -> "Batch":
        if not isinstance(rows, slice):
            raise TypeError(f"a batch takes a slice of samples such as batch[:8], got {rows!r}")
        if rows.step is not None and rows.step < 1:
            raise ValueError(f"a batch takes slices with a step of at least 1, got {rows!r}")
        return Batch._trusted(self.compact[rows], self.query[rows], self.target[rows], self.vocab_size)

    def __repr__(self) -> str:
        return (
            f"Batch(batch_size={len(self)}, seq_len={self.seq_len}, vocab_size={self.vocab_size}, "
            f"device='{self.device}')"
        )


class Source(ABC):
    """An endless sequence of samples, cut into batches as one likes; :class:`Stream` or :class:`BatchStream`."""

    vocab_size: int
    seq_len: int
    mu: FloatArray | None
    seed: int
    device: torch.device
    _position = 0

    @property
    def position(self) -> int:
        """The number of samples handed out so far. Assign to it to jump anywhere, as when a run is resumed."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        self._position = validate.integer("position", value)

    def draw(self, batch_size: int) -> Batch:
        """Return the next ``batch_size`` samples (at least 1) as one batch.

        Beyond the batch itself, memory stays bounded by one block; :meth:`chunks` avoids the batch as well.

        Examples
        --------
        >>> stream = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0).stream(seed=1, device="cpu")
        >>> stream.draw(5)
        Batch(batch_size=5, seq_len=8, vocab_size=3, device='cpu')
        """
        parts = list(self.chunks(batch_size))
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.compact, part.query, part.target) for part in parts), strict=True)
        compact, query, target = (torch.cat(column) for column in columns)
        return Batch._trusted(compact, query, target, self.vocab_size)

    def chunks(self, batch_size: int) -> Iterator[Batch]:
        """Yield the next ``batch_size`` samples (at least 1) in pieces of bounded memory.

        The cuts are the same whenever the same samples are asked for. All ``batch_size`` samples count as handed out
        when this is called.

        Examples
        --------
        >>> stream = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0).stream(seed=1, device="cpu")
        >>> [len(part) for part in stream.chunks(100_000)]
        [58254, 41746]
        """
        start = self._position
        self._position += validate.integer("batch_size", batch_size, 1)  # at once: no sample is handed out twice
        return self._chunks(start, self._position)

    @abstractmethod
    def _chunks(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield samples ``start`` to ``stop`` - 1."""


class Stream(Source):
    """An endless, reproducible sequence of fresh samples; made by :meth:`scb_nb.SCBTask.stream`.

    Batches share memory with the stream: clone a tensor before writing into it.

    Attributes
    ----------
    vocab_size, seq_len : int
        N and T.
    mu : ndarray of shape (N,), or None
        The token distribution, where it was asked for.
    seed : int
        The seed; with the kind of device it fixes every sample.
    device : torch.device
        Where the samples are made and stay.
    position : int
        The number of samples handed out so far. Assign to it to jump anywhere, for instance when a run is resumed.

    Examples
    --------
    >>> stream = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0).stream(seed=1, device="cpu")
    >>> whole = stream.draw(100)
    >>> stream.position = 40
    >>> torch.equal(stream.draw(60).tokens, whole.tokens[40:])
    True
    """

    def __init__(self, task: "SCBTask", seed: int, device: Device = None, share_mu: bool = False) -> None:
        self.seed = validate.integer("seed", seed)
        self.device = validate.device(device)
        self.vocab_size, self.seq_len = task.vocab_size, task.seq_len
        self.mu = task.mu if share_mu else None
        self._block_rows = max(1, BLOCK_TOKENS // max(self.seq_len + 1, self.vocab_size))
        self._block_index = -1
        self._guide = GuideTable(task.mu)
        self._mu_edges = self._table(cumulative(task.mu))
        self._P_edges = self._table(cumulative(task.P))
        # Only the positions that can be read are kept: (sparsity, N) instead of (T, N).
        positions = np.argsort(task.Q == 0, axis=0, kind="stable")[: task.sparsity]
        self._positions = self._table(positions)
        self._Q_edges = self._table(cumulative(np.take_along_axis(task.Q, positions, axis=0)))

    def _table(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=self.device)

    def _chunks(self, start: int, stop: int) -> Iterator[Batch]:
        while start < stop:
            index, offset = divmod(start, self._block_rows)
            if index != self._block_index:
                self._block = self._make_block(index)
                self._block_index = index
            rows = min(stop - start, self._block_rows - offset)
            start += rows
            yield self._block[offset : offset + rows]

    def _make_block(self, index: int) -> Batch:
        rows = self._block_rows
        seeds = np.random.SeedSequence(self.seed, spawn_key=(index,))
        if self.device.type == "cpu":
            bits = np.random.PCG64(seeds)
            context = torch.from_numpy(self._guide.draw((rows, self.seq_len), bits))
            if context.dtype != torch.uint8:  # PyTorch has no look-up in larger unsigned ones
                context = context.to(torch.int64)
            query = torch.from_numpy(self._guide.draw((rows, 1), bits)[:, 0]).to(torch.int64)
            uniform = torch.from_numpy(np.random.Generator(bits).random((2, rows)))
        else:
            generator = torch.Generator(self.device).manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
            options: dict[str, Any] = {"generator": generator, "device": self.device, "dtype": torch.float64}
            context = inverse(self._mu_edges, torch.rand((rows, self.seq_len), **options))
            query = inverse(self._mu_edges, torch.rand(rows, **options))
            uniform = torch.rand((2, rows), **options)
        return self._answer(context, query, uniform)

    def _answer(self, context: torch.Tensor, query: torch.Tensor, uniform: torch.Tensor) -> Batch:
        """Complete context (B, T) and query (B,) to samples; uniform numbers (2, B) choose position and answer."""
        slot = inverse(self._Q_edges[:, query], uniform[0])  # (B,)
        position = self._positions[slot, query]  # (B,)
        selected = context.gather(1, position[:, None])[:, 0].to(torch.int64)  # (B,)
        target = inverse(self._P_edges[:, selected], uniform[1])  # (B,)
        return Batch._trusted(context, query, target, self.vocab_size)


class BatchStream(Source):
    """Samples of your own as a stream: each once, in random order, then all again in another order, without end.

    Parameters
    ----------
    batch : Batch
        The samples.
    mu : array of shape (N,), optional
        The token distribution, positive, where it is known.
    seed : int
        For the order.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type, shape or range.

    Examples
    --------
    >>> from scb_nb.stream import BatchStream
    >>> stream = BatchStream(Batch([[0, 1], [1, 1], [1, 0]], query=[0, 1, 1], target=[1, 0, 1], vocab_size=2))
    >>> len(stream.draw(5))
    5
    """

    def __init__(self, batch: Batch, *, mu: ArrayLike | None = None, seed: int = 0) -> None:
        if not isinstance(batch, Batch):
            raise TypeError(f"batch must be an scb_nb.Batch, got {type(batch).__name__}")
        if len(batch) == 0:
            raise ValueError("batch must hold at least one sample, got none")
        self._batch = batch
        self.vocab_size, self.seq_len, self.device = batch.vocab_size, batch.seq_len, batch.device
        self.mu = None if mu is None else validate.probability_columns("mu", mu, (self.vocab_size,))
        if self.mu is not None and not self.mu.all():
            raise ValueError("mu must be positive, got a zero among its entries")
        self.seed = validate.integer("seed", seed)
        self._pass = -1

    def _chunks(self, start: int, stop: int) -> Iterator[Batch]:
        rows = max(1, BLOCK_TOKENS // self.seq_len)
        while start < stop:
            number, offset = divmod(start, len(self._batch))
            if number != self._pass:
                order = np.random.default_rng([self.seed, number]).permutation(len(self._batch))
                self._order, self._pass = torch.from_numpy(order).to(self.device), number
            chosen = self._order[offset : offset + min(rows, stop - start)]
            start += len(chosen)
            batch = self._batch
            yield Batch._trusted(batch.compact[chosen], batch.query[chosen], batch.target[chosen], self.vocab_size)
