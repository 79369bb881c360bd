"""What stands out of the noise in a matrix with one row per position, most of whose rows hold nothing but noise.

The noise is read off the matrix itself: positions outside the support are alike, and most are. Derived in chapter 5.
"""

import torch

from scb_nb import validate

# 1 / this many standard deviations is where half of a normal distribution's absolute values lie below.
MAD_TO_DEVIATION = 1.4826


def noise_level(A: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of the noise in each column of A (T, N), shape (N,).

    Column k rests on a fraction mu_k of the samples, so its noise is proportional to 1 / sqrt(mu_k). With that divided
    out all entries are alike, and the median of their distances from their column's median tells the deviation: the few
    entries of the support do not move it.

    Examples
    --------
    >>> A = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    >>> A[:100] += 1_000  # a few entries do not move it
    >>> noise_level(A, mu=torch.tensor([0.5, 0.5])).round(decimals=1)
    tensor([1., 1.])
    """
    distances = (A - A.median(0).values).abs() * mu.sqrt()
    return MAD_TO_DEVIATION * distances.median() / mu.sqrt()


def critical_value(entries: int, false_alarms: float) -> float:
    """Return how many standard deviations that many normal variables together exceed with this probability.

    ``false_alarms``, in (0, 1), bounds the chance that one of them, or more, lies above.

    Examples
    --------
    >>> round(critical_value(1, 0.025), 2), round(critical_value(1000, 0.025), 2)
    (1.96, 4.06)
    """
    tail = torch.tensor(validate.fraction("false_alarms", false_alarms) / entries, dtype=torch.float64)
    return float(-torch.special.ndtri(tail))


def threshold(A: torch.Tensor, mu: torch.Tensor, false_alarms: float, tails: int = 1) -> torch.Tensor:
    """Return how far above its column's median noise in A (T, N) exceeds nowhere, shape (N,), but for false alarms.

    With two ``tails``, how far to either side.

    Examples
    --------
    >>> A = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [1.0, 2.0]])
    >>> rare, frequent = threshold(A, torch.tensor([0.2, 0.8]), false_alarms=0.01)
    >>> float(rare / frequent)  # a quarter of the samples, twice the noise
    2.0
    """
    return critical_value(tails * A.numel(), false_alarms) * noise_level(A, mu)


def outstanding(A: torch.Tensor, mu: torch.Tensor, false_alarms: float) -> torch.Tensor:
    """Return which entries of A (T, N) lie so far above their column's median that noise does not explain it.

    ``false_alarms`` is the chance that any entry is named if all are normal noise. Boolean, shape (T, N).

    Examples
    --------
    >>> A = torch.tensor([[0.1], [-0.1], [0.2], [9.0], [0.0]])
    >>> outstanding(A, mu=torch.tensor([1.0]), false_alarms=0.01).T
    tensor([[False, False, False,  True, False]])
    """
    return A - A.median(0).values > threshold(A, mu, false_alarms)


def attention_on(support: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return attention (T, N) on ``support`` in proportion to ``weights``, uniform for a query without support.

    Examples
    --------
    >>> support = torch.tensor([[True, False], [True, False], [False, False], [False, False]])
    >>> attention_on(support, torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])).T
    tensor([[0.7500, 0.2500, 0.0000, 0.0000],
            [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    kept = torch.where(support, weights - weights.median(0).values, 0.0)
    return torch.where(support.any(0), kept / kept.sum(0), 1 / len(weights))
