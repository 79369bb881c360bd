"""The mu-weighted geometry in which the task is simple: inner products, norms, preconditioning and projection.

A column of V, P, A or Q matters as often as its token occurs, so columns are weighted by mu. All functions take tensors
of one dtype and device, with one column per token, (anything, N); chapter 3 derives them.
"""

import torch


def inner(left: torch.Tensor, right: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Return <left, right>_mu = sum_n mu_n <left[:, n], right[:, n]>, a scalar tensor.

    Examples
    --------
    >>> mu = torch.tensor([0.25, 0.75])
    >>> inner(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.ones(2, 2), mu)
    tensor(2.)
    """
    return ((left * right).sum(0) * mu).sum()


def norm(matrix: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Return ||matrix||_mu, the square root of <matrix, matrix>_mu, a scalar tensor.

    Examples
    --------
    >>> mu = torch.tensor([0.25, 0.75])
    >>> norm(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), mu)
    tensor(2.)
    """
    return inner(matrix, matrix, mu).sqrt()


def centre_V(direction: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Project ``direction`` (N, N), in the mu-weighted norm, onto {D : 1^T D = 0, D mu = 0}.

    Moving V along the result keeps its column sums and V mu unchanged.

    Examples
    --------
    >>> mu = torch.tensor([0.25, 0.75])
    >>> D = centre_V(torch.tensor([[1.0, 5.0], [3.0, 1.0]]), mu)
    >>> D.sum(0), D @ mu
    (tensor([0., 0.]), tensor([0., 0.]))
    """
    direction = direction - direction.mean(0)  # 1^T D = 0
    return direction - (direction @ mu)[:, None]  # D mu = 0


def centre_A(direction: torch.Tensor, support: torch.Tensor | None = None) -> torch.Tensor:
    """Project ``direction`` (T, N) onto {D : 1^T D = 0, D = 0 off the support}, by default with every position in it.

    Moving A along the result keeps its column sums. ``support`` is a boolean (T, N).

    Examples
    --------
    >>> centre_A(torch.tensor([[1.0], [3.0], [9.0]]), support=torch.tensor([[True], [True], [False]])).T
    tensor([[-1.,  1.,  0.]])
    """
    if support is None:
        return direction - direction.mean(0)
    inside = direction * support
    return inside - inside.sum(0) / support.sum(0).clamp_min(1) * support


def preconditioned(
    gradient_V: torch.Tensor, gradient_A: torch.Tensor, mu: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients in the mu-weighted norm, projected: the directions of stage 1.

    Token n occurs with probability mu_n, so column n of a gradient is proportional to mu_n; dividing by mu makes rare
    and frequent tokens learn equally fast. ``mu`` (N,) must be positive.

    Examples
    --------
    >>> mu = torch.tensor([0.25, 0.75])
    >>> _, direction_A = preconditioned(torch.zeros(2, 2), torch.tensor([[0.25, 0.75], [-0.25, -0.75]]), mu)
    >>> direction_A  # both columns alike, the rare token's and the frequent one's
    tensor([[ 1.,  1.],
            [-1., -1.]])
    """
    return centre_V(gradient_V / mu, mu), centre_A(gradient_A / mu)
