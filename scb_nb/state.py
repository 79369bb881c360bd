"""The state of training: all that it knows, from step to step and from stage to stage."""

from dataclasses import dataclass, field

import torch

from scb_nb import validate
from scb_nb.stream import Source


@dataclass
class State:
    """All that training knows: what a stage reads and writes, and what a checkpoint keeps.

    Attributes
    ----------
    V, A : tensor
        Shapes (N, N) and (T, N).
    mu : tensor of shape (N,)
        The token distribution, given or estimated.
    support : boolean tensor of shape (T, N)
        The positions that A may use: all of them at the start.
    loss : float
        The mean loss of the latest batch, before its step; NaN at the start.
    stage, step : int
        The number of the stage, and of its steps so far, both from 0.
    memory : dict of tensors
        What the stage carries from step to step; emptied between stages.
    failure : str
        Why training cannot go on, if so.
    """

    V: torch.Tensor
    A: torch.Tensor
    mu: torch.Tensor
    support: torch.Tensor
    loss: float = float("nan")
    stage: int = 0
    step: int = 0
    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    failure: str = ""

    @classmethod
    def uniform(cls, mu: torch.Tensor, seq_len: int) -> "State":
        """Return the state that knows mu (N,) and nothing else: V = mu 1^T, A = 1 1^T / T, every position allowed.

        Examples
        --------
        >>> state = State.uniform(torch.tensor([0.25, 0.75]), seq_len=4)
        >>> state.V[:, 0], state.A[:, 0], bool(state.support.all())
        (tensor([0.2500, 0.7500]), tensor([0.2500, 0.2500, 0.2500, 0.2500]), True)
        """
        A = mu.new_full((seq_len, len(mu)), 1 / seq_len)
        return cls(mu[:, None].repeat(1, len(mu)), A, mu, torch.ones_like(A, dtype=torch.bool))

    def check(self, source: Source) -> None:
        """Raise a TypeError or ValueError if training on ``source`` cannot start here."""
        validate.float_dtype("start.V.dtype", self.V.dtype)
        N, T = source.vocab_size, source.seq_len
        for name, shape in {"V": (N, N), "A": (T, N), "mu": (N,), "support": (T, N)}.items():
            tensor = getattr(self, name)
            dtype = torch.bool if name == "support" else self.V.dtype
            if (tensor.shape, tensor.dtype, tensor.device.type) != (shape, dtype, source.device.type):
                raise ValueError(
                    f"start must have {name} of shape {shape} and {dtype} on {source.device}, "
                    f"got {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
                )
            if not tensor.isfinite().all():
                raise ValueError(f"start must be finite, got a NaN or an infinity in {name}")

    def add(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Add ``value`` to the sum of that name in memory, and return the sum."""
        self.memory[name] = self.memory[name] + value if name in self.memory else value
        return self.memory[name]
