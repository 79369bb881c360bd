"""The one-layer linear transformer: f(X, k) = V X A[:, k]. Chapter 3 derives it from queries, keys and values."""

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import nn

from scb_nb import kernels, validate
from scb_nb.stream import Batch
from scb_nb.validate import Device


class LinearTransformer(nn.Module):
    """A one-layer transformer with linear attention whose scores see the positions and the query token only.

    Parameters
    ----------
    V : array of shape (N, N)
        The value matrix; column n is what token n contributes to the prediction.
    A : array of shape (T, N)
        The attention; column k is the weight of each position when the query is k.
    dtype : torch.dtype, optional
        By default float32 for NumPy arrays and lists, unchanged for tensors.
    device : str or torch.device, optional
        By default that of V if it is a tensor, else a GPU when there is one.

    Raises
    ------
    TypeError
        If V or A is not an array of real numbers.
    ValueError
        If the shapes do not fit, or an entry is not finite.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
    >>> model = LinearTransformer(task.P, task.Q)
    >>> model(task.sample(5, seed=1)).shape
    torch.Size([5, 3])
    """

    def __init__(self, V: ArrayLike, A: ArrayLike, *, dtype: torch.dtype | None = None, device: Device = None) -> None:
        super().__init__()
        if isinstance(V, torch.Tensor):
            dtype = dtype or V.dtype
            device = device or V.device
        dtype = validate.float_dtype("dtype", dtype or torch.float32)
        device = validate.device(device)
        for name, value in (("V", V), ("A", A)):
            array = validate.real_array(name, value)
            tensor = torch.tensor(array, dtype=dtype, device=device)
            if not tensor.isfinite().all():
                raise ValueError(f"{name} must be finite in {dtype}, got a NaN or an infinity among its entries")
            self.register_parameter(name, nn.Parameter(tensor))
        check_parameters(self.V, self.A)

    V: nn.Parameter
    A: nn.Parameter

    @classmethod
    def uniform(
        cls, mu: ArrayLike, seq_len: int, *, dtype: torch.dtype | None = None, device: Device = None
    ) -> "LinearTransformer":
        """Return the model that knows nothing but mu: V = mu 1^T, and A = 1 1^T / T attends everywhere alike.

        ``mu`` (N,) is a probability vector; ``seq_len`` is at least 1.

        Examples
        --------
        >>> model = LinearTransformer.uniform([0.25, 0.75], seq_len=4, device="cpu")
        >>> model(Batch([[0, 0, 0, 1]], query=[0], target=[1], vocab_size=2)).tolist()  # mu, whatever the context
        [[0.25, 0.75]]
        """
        frequencies = torch.tensor(validate.probability_columns("mu", mu, (None,)))
        size = len(frequencies)
        seq_len = validate.integer("seq_len", seq_len, 1)
        V = frequencies[:, None].expand(size, size)
        A = torch.full((seq_len, size), 1 / seq_len, dtype=torch.float64)
        return cls(V, A, dtype=dtype or torch.float32, device=validate.device(device))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the predictions, shape (B, N): row b estimates the distribution of ``target[b]``.

        Examples
        --------
        >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
        >>> predictions = LinearTransformer(task.P, task.Q, device="cpu")(task.sample(5, seed=1, device="cpu"))
        >>> bool(torch.allclose(predictions.sum(1), torch.ones(5)))  # at P and Q they are probabilities
        True
        """
        return predict(self.V, self.A, batch)

    def extra_repr(self) -> str:
        return (
            f"vocab_size={self.A.shape[1]}, seq_len={self.A.shape[0]}, dtype={self.V.dtype}, device='{self.V.device}'"
        )


def predict(V: torch.Tensor, A: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return V X A[:, k] for each sample, shape (B, N), without ever forming the one-hot context X.

    ``X A[:, k]`` is a histogram of the context tokens, each counted with the attention of its position.

    Raises
    ------
    TypeError, ValueError
        If V (N, N), A (T, N) and the batch do not fit each other in shape, dtype or device.

    Examples
    --------
    >>> V = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    >>> A = torch.tensor([[1.0, 0.5], [0.0, 0.5]])  # query 0 reads position 0, query 1 both
    >>> predict(V, A, Batch([[0, 1], [0, 1]], query=[0, 1], target=[0, 0], vocab_size=2))
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]])
    """
    check_parameters(V, A, batch)
    return attended_histogram(A.T.contiguous(), batch) @ V.T  # (B, N)


def attended_histogram(AT: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return X A[:, k] for each sample, shape (B, N): entry n is the attention that falls on token n.

    ``AT`` (N, T) is A transposed and contiguous, so that the attention of a query lies side by side in memory.

    Examples
    --------
    >>> A = torch.tensor([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]])
    >>> attended_histogram(A.T.contiguous(), Batch([[0, 1, 0]], query=[0], target=[1], vocab_size=2))
    tensor([[0.7500, 0.2500]])
    """
    empty = AT.new_zeros(len(batch), batch.vocab_size)
    if kernels.usable(AT):
        kernels.add_histograms(AT, batch.compact, batch.query, empty)
        return empty
    attention = AT.index_select(0, batch.query)  # (B, T)
    return empty.scatter_add(1, batch.tokens, attention)  # (B, N)


def check_parameters(V: Any, A: Any, *batches: Any) -> None:
    """Raise a TypeError or ValueError that says what does not fit, if V (N, N), A (T, N) and the batches do not."""
    for name, value in (("V", V), ("A", A)):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            got = f"dtype {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    if V.ndim != 2 or V.shape[0] != V.shape[1] or V.numel() == 0:
        raise ValueError(f"V must be a non-empty square matrix (N, N), got shape {tuple(V.shape)}")
    if A.ndim != 2 or A.shape[1] != V.shape[1] or A.numel() == 0:
        raise ValueError(f"A must have shape (T, {V.shape[1]}), one column per token as V has, got {tuple(A.shape)}")
    if V.dtype != A.dtype or V.device != A.device:
        raise ValueError(f"A must have the dtype and device of V, {V.dtype} on {V.device}, got {A.dtype} on {A.device}")
    for batch in batches:
        if not isinstance(batch, Batch):
            raise TypeError(f"batch must be an scb_nb.Batch, got {type(batch).__name__}")
        if batch.vocab_size != V.shape[1] or batch.seq_len != A.shape[0]:
            raise ValueError(
                f"batch must have vocab_size {V.shape[1]} and seq_len {A.shape[0]} as V and A have, "
                f"got {batch.vocab_size} and {batch.seq_len}"
            )
        if batch.device != V.device:
            raise ValueError(f"batch must be on the device of V, {V.device}, got {batch.device}")
