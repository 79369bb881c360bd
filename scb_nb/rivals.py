"""Rivals of :mod:`scb_nb.stages` under the same interface: plain descent, with the optimisers of PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from scb_nb import screening, validate
from scb_nb.objective import batch_gradients
from scb_nb.state import State
from scb_nb.stream import Source

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "adam": torch.optim.Adam,
}


def optimizer_step(
    state: State, optimizer: str, **moves: tuple[torch.Tensor, torch.Tensor, float]
) -> list[torch.Tensor]:
    """Return tensors after one step of an optimiser; each is given by name, with its gradient and its step size.

    What the optimiser remembers stays in the state's memory under these names, so that a checkpoint has it.
    """
    parameters, groups = {}, []
    for name, (value, gradient, rate) in moves.items():
        parameters[name] = value.clone()
        parameters[name].grad = gradient
        groups.append({"params": [parameters[name]], "lr": rate})
    stepper = OPTIMIZERS[optimizer](groups)
    for name, parameter in parameters.items():
        suffix = f" of {name}"
        known = {key.removesuffix(suffix): value for key, value in state.memory.items() if key.endswith(suffix)}
        known.pop("sum", None)  # that of the iterates
        if known:
            stepper.state[parameter] = known
    stepper.step()
    for name, parameter in parameters.items():
        state.memory |= {f"{key} of {name}": value for key, value in stepper.state[parameter].items()}
    return list(parameters.values())


@dataclass(frozen=True, kw_only=True)
class PlainDescent:
    """Descent along the plain gradients of the batch loss: no preconditioning, no projection, no penalty.

    Parameters
    ----------
    optimizer : str
        "sgd", "momentum" (SGD with momentum 0.9) or "adam", with the defaults of :mod:`torch.optim`.
    steps : int
        How many, at least 1.
    batch_size : int
        Samples in each, at least 1.
    step_size : float
        At least 0; for A as well, unless ``step_size_A`` says otherwise.
    decay : bool
        Shrink the step sizes linearly to zero over the second half.
    average : bool
        End at the mean over the second half.

    Examples
    --------
    >>> stages = [PlainDescent(optimizer="adam", steps=100, batch_size=64, step_size=0.01)]
    >>> history = fit(SCBTask.random(3, 30, 2, K_P=0.5, seed=0).stream(seed=1, device="cpu"), stages).history
    >>> bool(history["loss"][-1] < history["loss"][1])
    True
    """

    optimizer: Literal["sgd", "momentum", "adam"]
    steps: int
    batch_size: int
    step_size: float
    step_size_A: float | None = None
    decay: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, str) or self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        for name in ("steps", "batch_size"):
            validate.integer(name, getattr(self, name), 1)
        for name in ("step_size", "step_size_A"):
            if name == "step_size" or getattr(self, name) is not None:
                validate.real(name, getattr(self, name), 0)
        for name in ("decay", "average"):
            validate.flag(name, getattr(self, name))

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch."""
        gradients = batch_gradients(state.V, state.A, source.chunks(self.batch_size))
        state.loss = float(gradients.loss)
        remaining = min(1.0, 2 * (1 - state.step / self.steps)) if self.decay else 1.0
        step_size_A = self.step_size if self.step_size_A is None else self.step_size_A
        state.V, state.A = optimizer_step(
            state,
            self.optimizer,
            V=(state.V, gradients.V, remaining * self.step_size),
            A=(state.A, gradients.A, remaining * step_size_A),
        )
        if self.average and state.step >= self.steps // 2:
            for name in ("V", "A"):
                state.add(f"sum of {name}", getattr(state, name))
        last = state.step + 1 == self.steps
        if last and self.average:
            averaged = self.steps - self.steps // 2
            state.V, state.A = (state.memory.pop(f"sum of {name}") / averaged for name in ("V", "A"))
        return last


@dataclass(frozen=True, kw_only=True)
class Trim:
    """Keep what stands out in A, divide the attention among it, and take no samples for that. V stays as it is.

    Each column is judged by its own noise: that of plain descent need not follow 1 / sqrt(mu).

    Parameters
    ----------
    false_alarms : float
        In (0, 1): the chance that noise alone stands out anywhere.

    Examples
    --------
    >>> state = State.uniform(torch.tensor([1.0]), seq_len=5)
    >>> state.A = torch.tensor([[0.1], [-0.1], [0.2], [9.0], [0.0]])
    >>> over = Trim().step(state, source=None)  # it takes no samples
    >>> state.A.T
    tensor([[0., 0., 0., 1., 0.]])
    """

    false_alarms: float = 0.01

    def __post_init__(self) -> None:
        validate.fraction("false_alarms", self.false_alarms)

    def step(self, state: State, source: Source) -> bool:
        """Trim A; it is the only step."""
        N = len(state.mu)
        one = state.mu.new_ones(1)
        columns = state.A.split(1, dim=1)  # N of shape (T, 1)
        state.support = torch.cat([screening.outstanding(c, one, self.false_alarms / N) for c in columns], dim=1)
        state.A = screening.attention_on(state.support, state.A)
        return True
