"""The loops over tokens that every gradient needs, compiled by Numba where it is installed (the extra ``fast``).

Each has a plain form in NumPy or PyTorch, at its place of use, and adds in the same order, so the numbers are the same
to the last bit. They run on one core and without Python's lock.
"""

from collections.abc import Callable
from typing import Any

import torch

try:
    from numba import njit
except ImportError:
    COMPILED = False

    def njit(**options: Any) -> Callable[[Callable], Callable]:  # type: ignore[no-redef]
        """Leave a function as it is: nobody calls it then."""
        return lambda function: function
else:
    COMPILED = True


def usable(values: torch.Tensor) -> bool:
    """Say whether the compiled loops can take these values: Numba is there, on the CPU, and no derivative is wanted."""
    return (
        COMPILED
        and values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.float64)
        and not (values.requires_grad and torch.is_grad_enabled())
    )


@njit(cache=True, nogil=True)
def look_up(words, table, certain, packed, unsure):  # type: ignore[no-untyped-def]
    """Write ``table[word]`` for each word into ``packed``; list the words from ``certain`` on, return how many."""
    count = 0
    for i in range(len(words)):
        word = words[i]
        packed[i] = table[word]
        if word >= certain:
            unsure[count] = i
            count += 1
    return count


@njit(cache=True, nogil=True)
def add_histograms(AT, tokens, query, histogram):  # type: ignore[no-untyped-def]
    """Add ``AT[k, t]`` (N, T) to ``histogram[b, x_t]`` (B, N) for all tokens x of each sample b with its query k."""
    rows, length = tokens.shape
    whole = rows // 4 * 4
    for b in range(0, whole, 4):  # four at once, since each addition waits for the one before it to the same entry
        k0, k1, k2, k3 = query[b], query[b + 1], query[b + 2], query[b + 3]
        for t in range(length):
            histogram[b, tokens[b, t]] += AT[k0, t]
            histogram[b + 1, tokens[b + 1, t]] += AT[k1, t]
            histogram[b + 2, tokens[b + 2, t]] += AT[k2, t]
            histogram[b + 3, tokens[b + 3, t]] += AT[k3, t]
    for b in range(whole, rows):
        for t in range(length):
            histogram[b, tokens[b, t]] += AT[query[b], t]


@njit(cache=True, nogil=True)
def add_pulls(values, tokens, query, gradient):  # type: ignore[no-untyped-def]
    """Add ``values[b, x_t]`` (B, N) to ``gradient[k, t]`` (N, T) for all tokens x of each sample b with its query k."""
    rows, length = tokens.shape
    for b in range(rows):
        k = query[b]
        for t in range(length):
            gradient[k, t] += values[b, tokens[b, t]]
