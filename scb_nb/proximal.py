"""Thresholds and projections that act on each column of A, (T, N); chapter 6 derives and compares them."""

import torch


def soft_threshold(A: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Return ``sign(A) max(|A| - threshold, 0)``, entry by entry: the proximal map of ``threshold`` times the l1 norm.

    It minimises ``1/2 ||Z - A||^2 + threshold ||Z||_1`` over Z. ``threshold`` is at least 0 and broadcasts.

    Examples
    --------
    >>> soft_threshold(torch.tensor([[3.0], [-2.0], [0.5]]), 1.0).T
    tensor([[ 2., -1.,  0.]])
    """
    return A.sign() * (A.abs() - threshold).clamp_min(0)


def restrict(A: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrix that is zero off ``support``, a boolean (T, N), and whose columns sum to one.

    What a column lacks, or has too much of, is spread evenly over its support; without any it becomes uniform.

    Examples
    --------
    >>> restrict(torch.tensor([[0.5], [0.25], [0.5]]), torch.tensor([[True], [True], [False]])).T
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    inside = A * support
    allowed = support | ~support.any(0)
    return inside + (1 - inside.sum(0)) / allowed.sum(0) * allowed


def sparse_sum_to_one(A: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """Soft-threshold A, then give each column back, evenly over the entries that survive, what it lacks of one.

    Entries below the threshold become exactly zero, and positive ones above it keep their differences. This is not the
    proximal map of the l1 norm under the constraint: chapter 6 says why that one would not do.

    Examples
    --------
    >>> sparse_sum_to_one(torch.tensor([[0.75], [0.5], [0.25]]), 0.25).T
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    thin = soft_threshold(A, threshold)
    return restrict(thin, thin != 0)


def project_simplex(A: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrix whose columns are probability vectors.

    Each column becomes max(a - shift, 0), with the shift that makes it sum to one (Duchi et al., 2008). On the simplex
    the l1 norm is constant, so this is also the proximal map of any multiple of it there.

    Examples
    --------
    >>> project_simplex(torch.tensor([[0.75], [0.5], [-1.0]])).T
    tensor([[0.6250, 0.3750, 0.0000]])
    """
    A = A - A.max(dim=0).values  # changes nothing, but beside large numbers rounding would lose the one
    descending = A.sort(dim=0, descending=True).values  # (T, N)
    counts = torch.arange(1, len(A) + 1, dtype=A.dtype, device=A.device)[:, None]  # (T, 1)
    shifts = (descending.cumsum(0) - 1) / counts  # the shift if that many entries stay positive
    kept = (descending > shifts).sum(0, keepdim=True).clamp_min(1)  # (1, N); 0 only where A is not finite
    return (A - shifts.gather(0, kept - 1)).clamp_min(0)
