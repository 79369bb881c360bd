"""Exact and fast draws of independent tokens.

A token is drawn by inversion: cut [0, 1) into intervals as long as the probabilities, and see into which a uniform
number u falls. :func:`inverse` does just that. :class:`GuideTable` draws the same distribution many times faster:
the first 16 bits of u fix the answer for nearly every u, so they are looked up in a table, and the few u that share
their 16 bits with a cut get their remaining bits from a second draw. Nothing is rounded away, so the draw stays exact.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from scb_nb import kernels
from scb_nb.validate import FloatArray

WORD_BITS = 16
WORDS = 1 << WORD_BITS
REST_BITS = 53 - WORD_BITS
# A word draws several tokens at once as long as their joint outcomes are this few: more would mean more second draws.
MAX_JOINT_OUTCOMES = 256


def cumulative(probabilities: FloatArray) -> FloatArray:
    """Return the upper ends of the intervals, along axis 0, with the last possible outcome ending at exactly 1.

    Without the last step, rounding could leave a gap below 1 into which a uniform number falls.
    """
    edges = np.cumsum(probabilities, axis=0)
    possible_from_here = np.logical_or.accumulate(probabilities[::-1] > 0, axis=0)[::-1]
    edges[:-1][~possible_from_here[1:]] = 1.0
    edges[-1] = 1.0
    return np.minimum(edges, 1.0)


def inverse(edges: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the outcome whose interval holds each uniform number.

    ``edges`` is (M,) for one distribution, or (M, B) for one column each; ``uniform`` is of any shape, or (B,).
    """
    if edges.ndim == 1:
        return torch.searchsorted(edges, uniform, right=True)
    return (uniform >= edges).sum(0)  # (M, B) -> (B,)


class GuideTable:
    """Independent draws from ``probabilities`` (M,), ``width`` of them from each 16-bit random word."""

    def __init__(self, probabilities: FloatArray) -> None:
        outcomes = len(probabilities)
        self.width = max(width for width in (1, 2, 4, 8) if width == 1 or outcomes**width <= MAX_JOINT_OUTCOMES)
        joint = probabilities
        for _ in range(self.width - 1):
            joint = np.multiply.outer(joint, probabilities)
        self._edges = cumulative(joint.ravel())
        grid = np.arange(WORDS + 1) / WORDS
        lowest = np.searchsorted(self._edges, grid[:-1], side="right")
        highest = np.searchsorted(self._edges, grid[1:], side="left")
        # Any relabelling of equally likely words is as good: put those without a cut first, so one comparison tells
        # them apart.
        self._bucket = np.argsort(lowest != highest, kind="stable")
        self._certain = int((lowest == highest).sum())
        # The tokens of one joint outcome lie side by side in memory, so that one look-up moves them all.
        dtype = np.min_scalar_type(outcomes - 1)
        digits = np.unravel_index(np.arange(joint.size), joint.shape)
        self._tokens = np.ascontiguousarray(np.stack(digits, axis=-1), dtype=dtype)  # (M^width, width)
        packed = self._pack(self._tokens)
        self._table = packed[lowest[self._bucket]]  # (2^16,)

    def _pack(self, tokens: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        return tokens.view(f"u{tokens.itemsize * self.width}")[:, 0]

    def draw(self, shape: tuple[int, int], bits: np.random.PCG64) -> NDArray[np.unsignedinteger]:
        """Return tokens of the given ``shape`` (rows, columns)."""
        count = shape[0] * shape[1]
        words = bits.random_raw(-(-count // (4 * self.width))).view(np.uint16)
        packed = self.look_up(words, np.random.Generator(bits))
        return packed.view(self._tokens.dtype)[:count].reshape(shape)

    def look_up(self, words: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.unsignedinteger]:
        """Return the packed tokens of each word; ``rng`` gives the remaining bits where a word does not suffice."""
        if kernels.COMPILED:
            packed, unsure = kernels.look_up(words, self._table, self._certain)
        else:
            packed = self._table.take(words)
            unsure = np.flatnonzero(words >= self._certain) if self._certain < WORDS else np.empty(0, np.intp)
        if unsure.size:
            rest = rng.integers(1 << REST_BITS, size=unsure.size) / (1 << REST_BITS)
            uniform = (self._bucket[words[unsure]] + rest) / WORDS  # all 53 bits of it, without rounding, below 1
            packed[unsure] = self._pack(self._tokens)[np.searchsorted(self._edges, uniform, side="right")]
        return packed
