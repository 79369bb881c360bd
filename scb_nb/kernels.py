"""The loops over tokens that every gradient needs, compiled by Numba where it is installed (the extra ``fast``).

Each has a plain form in NumPy or PyTorch, at its place of use, and adds in the same order: the numbers are the same to
the last bit. A loop runs on one core, since sharing so short a piece of work costs more than it saves; it does so
without Python's lock.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

try:
    from numba import njit
except ImportError:
    COMPILED = False
else:
    COMPILED = True


def compiled(loop: Callable) -> Callable:
    """Compile a loop when it is first called, and keep it for other sessions; without Numba leave it as it is."""
    if not COMPILED:
        return loop
    try:
        return njit(cache=True, nogil=True)(loop)
    except RuntimeError:  # there is no folder to keep it in, as in a container without a home
        return njit(nogil=True)(loop)


def usable(values: torch.Tensor) -> bool:
    """Say whether the compiled loops can take these values: Numba is there, on the CPU, and no derivative is wanted."""
    return (
        COMPILED
        and values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.float64)
        and not (values.requires_grad and torch.is_grad_enabled())
    )


def look_up(words: NDArray, table: NDArray, certain: int) -> tuple[NDArray, NDArray]:
    """Return ``table[word]`` for each word, and the places of the words from ``certain`` on."""
    found, unsure = np.empty(len(words), table.dtype), np.empty(len(words), np.intp)
    return found, unsure[: _look_up(words, table, certain, found, unsure)]


def add_histograms(AT: torch.Tensor, tokens: torch.Tensor, query: torch.Tensor, histogram: torch.Tensor) -> None:
    """Add ``AT[k, t]`` (N, T) to ``histogram[b, x_t]`` (B, N) for all tokens x of each sample b with its query k."""
    _add_histograms(AT.numpy(), tokens.numpy(), query.numpy(), histogram.numpy())


def add_pulls(pull: torch.Tensor, tokens: torch.Tensor, query: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add ``pull[b, x_t]`` (B, N) to ``gradient[k, t]`` (N, T) for all tokens x of each sample b with its query k."""
    _add_pulls(pull.numpy(), tokens.numpy(), query.numpy(), gradient.numpy())


@compiled
def _look_up(words, table, certain, found, unsure):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(words)):
        word = words[i]
        found[i] = table[word]
        if word >= certain:
            unsure[count] = i
            count += 1
    return count


@compiled
def _add_histograms(AT, tokens, query, histogram):  # type: ignore[no-untyped-def]
    rows, length = tokens.shape
    fours = rows // 4 * 4
    for b in range(0, fours, 4):  # four rows at once, since additions to one entry wait for each other
        k0, k1, k2, k3 = query[b], query[b + 1], query[b + 2], query[b + 3]
        for t in range(length):
            histogram[b, tokens[b, t]] += AT[k0, t]
            histogram[b + 1, tokens[b + 1, t]] += AT[k1, t]
            histogram[b + 2, tokens[b + 2, t]] += AT[k2, t]
            histogram[b + 3, tokens[b + 3, t]] += AT[k3, t]
    for b in range(fours, rows):
        for t in range(length):
            histogram[b, tokens[b, t]] += AT[query[b], t]


@compiled
def _add_pulls(pull, tokens, query, gradient):  # type: ignore[no-untyped-def]
    rows, length = tokens.shape
    chosen = np.empty(rows, np.intp)
    for k in range(len(gradient)):  # the samples of one query together, four at once: fewer visits to its gradient
        count = 0
        for b in range(rows):
            if query[b] == k:
                chosen[count] = b
                count += 1
        fours = count // 4 * 4
        for i in range(0, fours, 4):
            b0, b1, b2, b3 = chosen[i], chosen[i + 1], chosen[i + 2], chosen[i + 3]
            for t in range(length):
                total = gradient[k, t] + pull[b0, tokens[b0, t]]
                total += pull[b1, tokens[b1, t]]
                total += pull[b2, tokens[b2, t]]
                gradient[k, t] = total + pull[b3, tokens[b3, t]]
        for i in range(fours, count):
            b = chosen[i]
            for t in range(length):
                gradient[k, t] += pull[b, tokens[b, t]]
