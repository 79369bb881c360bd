"""The squared loss and its gradients: on a batch, obvious and fast; over all samples, in closed form.

The loss of one sample is 1/2 ||onehot(y) - V X A[:, k]||^2. Chapter 3 derives everything here.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import one_hot

from scb_nb import geometry, kernels
from scb_nb.model import attended_histogram, check_parameters
from scb_nb.stream import Batch

if TYPE_CHECKING:
    from scb_nb.task import SCBTask


class Gradients(NamedTuple):
    """The loss (a scalar tensor) and its gradients in V, shape (N, N), and in A, shape (T, N)."""

    loss: torch.Tensor
    V: torch.Tensor
    A: torch.Tensor


def reference_gradients(V: torch.Tensor, A: torch.Tensor, batch: Batch) -> Gradients:
    """Return the mean loss of a batch and its gradients, by writing the model down and letting autograd do the rest.

    The obvious form, which :func:`scb_nb.batch_gradients` is tested against: time and memory of order B T N.

    Examples
    --------
    >>> batch = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0).sample(100, seed=1, device="cpu")
    >>> V, A = torch.eye(3), torch.full((8, 3), 1 / 8)
    >>> pairs = zip(reference_gradients(V, A, batch), batch_gradients(V, A, batch))
    >>> all(torch.allclose(slow, fast, atol=1e-6) for slow, fast in pairs)
    True
    """
    check_parameters(V, A, batch)
    if len(batch) == 0:
        raise ValueError("batch must hold at least one sample, got none")
    V, A = V.detach().requires_grad_(), A.detach().requires_grad_()
    X = one_hot(batch.tokens, V.shape[1]).to(V.dtype)  # (B, T, N)
    Y = one_hot(batch.target, V.shape[1]).to(V.dtype)  # (B, N)
    prediction = torch.einsum("btn,tb,mn->bm", X, A[:, batch.query], V)  # (B, N)
    loss = 0.5 * (Y - prediction).square().sum(1).mean()
    loss.backward()
    assert V.grad is not None and A.grad is not None
    return Gradients(loss.detach(), V.grad, A.grad)


@torch.no_grad()
def batch_gradients(V: torch.Tensor, A: torch.Tensor, batch: Batch | Iterable[Batch]) -> Gradients:
    """Return the mean loss of a batch and its gradients, without one-hot tensors.

    With the histogram w = X A[:, k] and the residual r = V w - onehot(y) of each sample, the gradient in V is the mean
    of r w^T, and column k of the gradient in A collects (V^T r)[x_t] from the samples whose query is k. Time is of
    order B (T + N^2) + T N, derived in chapter 3.

    Parameters
    ----------
    V, A : tensor
        Shapes (N, N) and (T, N), one dtype and device.
    batch : Batch, or iterable of Batch
        Several are taken as the parts of one batch (``stream.chunks(batch_size)``), so that memory stays bounded.

    Raises
    ------
    TypeError, ValueError
        If V, A and the batch do not fit each other in shape, dtype or device, or there is no sample.

    Examples
    --------
    >>> batch = Batch([[0, 1]], query=[0], target=[1], vocab_size=2)
    >>> loss, _, gradient_A = batch_gradients(torch.eye(2), torch.full((2, 2), 0.5), batch)
    >>> loss, gradient_A  # the identity repeats tokens: query 0 should look less at position 0, more at position 1
    (tensor(0.2500), tensor([[ 0.5000,  0.0000],
            [-0.5000,  0.0000]]))
    """
    check_parameters(V, A)
    AT = A.T.contiguous()  # (N, T)
    squares, gradient_V, gradient_AT = V.new_zeros(()), torch.zeros_like(V), torch.zeros_like(AT)
    minus_one = V.new_full((), -1)
    samples = 0
    parts = [batch] if isinstance(batch, Batch) else batch
    if not isinstance(parts, Iterable):
        raise TypeError(f"batch must be an scb_nb.Batch or an iterable of them, got {type(batch).__name__}")
    for part in parts:
        check_parameters(V, A, part)
        histogram = attended_histogram(AT, part)  # (B, N)
        residual = histogram @ V.T  # (B, N)
        residual.scatter_add_(1, part.target[:, None], minus_one.expand(len(part), 1))
        squares += residual.square().sum()
        gradient_V += residual.T @ histogram  # (N, B) @ (B, N)
        add_pull(gradient_AT, residual @ V, part)
        samples += len(part)
    if samples == 0:
        raise ValueError("batch must hold at least one sample, got none")
    return Gradients(0.5 * squares / samples, gradient_V / samples, gradient_AT.T / samples)


def add_pull(gradient_AT: torch.Tensor, pull: torch.Tensor, batch: Batch) -> None:
    """Add (V^T r)[x_t] of each sample with query k to ``gradient_AT[k, t]`` (N, T), in place; ``pull`` (B, N) is V^T r.

    As a linear map it is the transpose of :func:`scb_nb.model.attended_histogram`.

    Examples
    --------
    >>> gradient_AT = torch.zeros(2, 3)
    >>> batch = Batch([[0, 1, 0]], query=[1], target=[0], vocab_size=2)
    >>> add_pull(gradient_AT, torch.tensor([[5.0, 7.0]]), batch)  # 5 to each token 0, 7 to each token 1
    >>> gradient_AT
    tensor([[0., 0., 0.],
            [5., 7., 5.]])
    """
    if kernels.usable(pull):
        kernels.add_pulls(pull, batch.compact, batch.query, gradient_AT)
    else:
        gradient_AT.index_add_(0, batch.query, pull.gather(1, batch.tokens))


def population_loss(V: torch.Tensor, A: torch.Tensor, task: "SCBTask") -> torch.Tensor:
    """Return the expected loss over all samples of the task, a scalar tensor; derived in chapter 3 for any V and A.

    1/2 + sum_k mu_k [ (S ||a_k||^2 + ||V mu||^2 s_k^2) / 2 - C <q_k, a_k> - (mu^T V mu) s_k ], where
    s_k = 1^T a_k,
    S = ||V||_mu^2 - ||V mu||^2 and C = <V, P>_mu - mu^T V mu. Differentiable.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
    >>> P, Q, mu = task.tensors(like=torch.zeros((), dtype=torch.float64))
    >>> abs(float(population_loss(P, Q, task)) - task.bayes_risk) < 1e-12  # P and Q are the best there is
    True
    """
    P, Q, mu = _fitting(V, A, task)
    mean = V @ mu  # (N,)
    spread = geometry.inner(V, V, mu) - mean @ mean
    signal = geometry.inner(V, P, mu) - mu @ mean
    sums = A.sum(0)  # (N,)
    quadratic = 0.5 * (spread * A.square().sum(0) + (mean @ mean) * sums.square())
    linear = signal * (Q * A).sum(0) + (mu @ mean) * sums
    return 0.5 + mu @ (quadratic - linear)


def population_gradients(V: torch.Tensor, A: torch.Tensor, task: "SCBTask") -> Gradients:
    """Return the expected loss and its exact gradients, for any V and A; derived in chapter 3.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
    >>> P, Q, mu = task.tensors(like=torch.zeros((), dtype=torch.float64))
    >>> _, gradient_V, gradient_A = population_gradients(P, Q, task)
    >>> bool(gradient_V.abs().max() < 1e-12), bool(gradient_A.abs().max() < 1e-12)
    (True, True)
    """
    P, Q, mu = _fitting(V, A, task)
    mean = V @ mu  # (N,)
    sums = A.sum(0)  # (N,)
    squares = A.square().sum(0)  # (N,)
    overlap = (Q * A).sum(0)  # (N,)
    gradient_V = (
        (mu @ squares) * V * mu
        + (mu @ (sums.square() - squares)) * torch.outer(mean, mu)
        - (mu @ overlap) * P * mu
        - (mu @ (sums - overlap)) * torch.outer(mu, mu)
    )
    spread = geometry.inner(V, V, mu) - mean @ mean
    signal = geometry.inner(V, P, mu) - mu @ mean
    gradient_A = mu * (spread * A + (mean @ mean) * sums - signal * Q - mu @ mean)
    return Gradients(population_loss(V, A, task), gradient_V, gradient_A)


def _fitting(V: torch.Tensor, A: torch.Tensor, task: "SCBTask") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    check_parameters(V, A)
    if A.shape != task.Q.shape:
        raise ValueError(f"A must have the shape of the task's Q, {task.Q.shape}, got {tuple(A.shape)}")
    return task.tensors(like=V)
