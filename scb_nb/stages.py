"""The stages of training: frozen settings, each with a ``step`` that moves a :class:`scb_nb.state.State` on.

They see samples, and nothing of the task; thresholds and noise levels come from the data. Chapter 5 derives the first
stage, chapter 6 the second, and :func:`scb_nb.fit` runs them in turn.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from scb_nb import geometry, proximal, screening, validate
from scb_nb.objective import Gradients, batch_gradients
from scb_nb.state import State
from scb_nb.stream import Source


class Stage(Protocol):
    """One stage of training."""

    def step(self, state: State, source: Source) -> bool:
        """Move ``state`` on by one step, and say whether the stage is over."""


@dataclass(frozen=True, kw_only=True)
class LargeSteps:
    """Stage 1 in few, large steps: V by one normalised step from mu 1^T, the support by what then stands out.

    While attention is uniform, gradients add up, until some position stands out in a share ``visible`` of the queries.
    Then ``rounds`` more steps, each on fresh samples: V from mu 1^T with the attention found so far, the support from
    the gradient at uniform attention. Derived in chapter 5.

    Parameters
    ----------
    batch_size : int
        Samples for the step of V while attention is uniform; half as many for A.
    round_size : int
        Samples for V, and for A, in each of the later rounds.
    rounds : int
        At least 1.
    visible : float
        In (0, 1).
    false_alarms : float
        In (0, 1): the chance that noise alone stands out anywhere, at each look.
    max_steps : int
        How often it looks at uniform attention before it gives up.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=100, sparsity=2, K_P=0.5, seed=0)
    >>> result = fit(task.stream(seed=1, device="cpu"), [LargeSteps(batch_size=2_000, round_size=6_000)])
    >>> bool((result.support.numpy() == task.support).all())
    True
    """

    batch_size: int
    round_size: int
    rounds: int = 3
    visible: float = 0.6
    false_alarms: float = 0.01
    max_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("batch_size", "round_size", "rounds", "max_steps"):
            validate.integer(name, getattr(self, name), 1)
        for name in ("visible", "false_alarms"):
            validate.fraction(name, getattr(self, name))

    def step(self, state: State, source: Source) -> bool:
        """Take one large step of V, and look what stands out in the gradient of A."""
        start = State.uniform(state.mu, len(state.A))
        searching = "rounds" not in state.memory
        size_V, size_A = (self.batch_size, (self.batch_size + 1) // 2) if searching else (self.round_size,) * 2

        gradients = batch_gradients(start.V, state.A, source.chunks(size_V))
        direction = -geometry.centre_V(gradients.V / state.mu, state.mu)
        if searching:  # its start has not moved
            direction = state.add("direction of V", direction)
        state.V = start.V + direction / geometry.norm(direction, state.mu).clamp_min(1e-30)  # 0 if there is one token

        gradients = batch_gradients(state.V, start.A, source.chunks(size_A))
        state.loss = float(gradients.loss)
        pull = -gradients.A / state.mu
        if searching:
            pull = state.add("pull on A", pull)
        found = screening.outstanding(pull, state.mu, self.false_alarms)
        if not searching:
            state.support, state.A = found, screening.attention_on(found, pull)
            return bool(state.add("rounds", torch.ones(())) == self.rounds)
        if found.any(0).double().mean() >= self.visible:
            state.support, state.A = found, screening.attention_on(found, pull)
            state.memory = {"rounds": torch.zeros(())}
        elif state.step + 1 == self.max_steps:
            state.failure = f"no position stood out in {self.visible:.0%} of the queries"
        return False


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Many small steps of stochastic gradient descent on V and A, each on fresh samples.

    Parameters
    ----------
    steps : int
        How many, at least 1.
    batch_size : int
        Samples in each.
    step_size : float
        At least 0; for A as well, unless ``step_size_A`` says otherwise.
    precondition : bool
        Divide column n of the gradients by mu_n, else by 1 / N.
    project : bool
        Move along directions that keep 1^T V, V mu and 1^T A.
    sparsity : str
        What keeps A sparse. "support": only positions of the support move. "l1": all move, then
        :func:`scb_nb.proximal.sparse_sum_to_one` (without ``project`` :func:`scb_nb.proximal.soft_threshold`).
        "simplex": all move, then :func:`scb_nb.proximal.project_simplex`. "none": all move.
    l1 : float, optional
        Strength lambda of the l1 penalty, at least 0. By default, in each step and column, what the noise of the
        gradient alone exceeds nowhere with probability 1 - ``false_alarms``.
    average : bool
        Shrink the step sizes linearly to zero over the second half, and end at the mean over that half.
    false_alarms : float
        In (0, 1).

    Examples
    --------
    >>> stages = [Descent(steps=50, batch_size=16, step_size=0.1)]
    >>> fit(SCBTask.random(3, 30, 2, seed=0).stream(seed=1, device="cpu", share_mu=True), stages).samples
    800
    """

    steps: int
    batch_size: int
    step_size: float
    step_size_A: float | None = None
    precondition: bool = True
    project: bool = True
    sparsity: Literal["support", "l1", "simplex", "none"] = "none"
    l1: float | None = None
    average: bool = False
    false_alarms: float = 0.01

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            validate.integer(name, getattr(self, name), 1)
        for name in ("step_size", "step_size_A", "l1"):
            if name == "step_size" or getattr(self, name) is not None:
                validate.real(name, getattr(self, name), 0)
        for name in ("precondition", "project", "average"):
            validate.flag(name, getattr(self, name))
        validate.fraction("false_alarms", self.false_alarms)
        if self.sparsity not in ("support", "l1", "simplex", "none"):
            raise ValueError(f'sparsity must be "support", "l1", "simplex" or "none", got {self.sparsity!r}')

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch."""
        self.update(state, batch_gradients(state.V, state.A, source.chunks(self.batch_size)))
        last = (state.step + 1) % self.steps == 0
        if last and self.average:
            self._take_mean(state)
        return last

    def update(self, state: State, gradients: Gradients) -> None:
        """Take the step that these gradients ask for, exact ones or those of a batch.

        Examples
        --------
        >>> task = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0)
        >>> state = State.uniform(torch.tensor(task.mu), task.seq_len)
        >>> descent = Descent(steps=1, batch_size=1, step_size=0.5)
        >>> descent.update(state, population_gradients(state.V, state.A, task))
        >>> round(align(state.V, state.A, task).alpha_V, 6)  # step size / T: the first step of the flow
        0.0625
        """
        state.loss = float(gradients.loss)
        done = state.step % self.steps
        remaining = min(1.0, 2 * (1 - done / self.steps)) if self.average else 1.0
        rate_V, rate_A = (
            remaining * rate
            for rate in (self.step_size, self.step_size if self.step_size_A is None else self.step_size_A)
        )
        direction_V, direction_A = self._directions(state, gradients)
        state.V = state.V - rate_V * direction_V
        state.A = state.A - rate_A * direction_A
        if self.sparsity == "l1":
            penalty: torch.Tensor | float | None = self.l1
            if penalty is None:
                penalty = screening.threshold(direction_A, state.mu, self.false_alarms, tails=2)
            shrink = proximal.sparse_sum_to_one if self.project else proximal.soft_threshold
            state.A = shrink(state.A, rate_A * penalty)
        elif self.sparsity == "simplex":
            state.A = proximal.project_simplex(state.A)
        if self.sparsity in ("l1", "simplex"):
            state.support = state.A != 0
        if self.average and done >= self.steps // 2:
            for name in ("V", "A"):
                state.add(f"sum of {name}", getattr(state, name))

    def _directions(self, state: State, gradients: Gradients) -> tuple[torch.Tensor, torch.Tensor]:
        scale = state.mu if self.precondition else 1 / len(state.mu)
        direction_V, direction_A = gradients.V / scale, gradients.A / scale
        support = state.support if self.sparsity == "support" else None  # none: all positions
        if self.project:
            return geometry.centre_V(direction_V, state.mu), geometry.centre_A(direction_A, support)
        return direction_V, direction_A if support is None else direction_A * support

    def _take_mean(self, state: State) -> None:
        averaged = self.steps - self.steps // 2
        state.V, state.A = (state.memory.pop(f"sum of {name}") / averaged for name in ("V", "A"))
        if self.sparsity == "l1" and self.project:  # without what was there for a moment only
            state.A = proximal.restrict(state.A, state.support)


@dataclass(frozen=True, kw_only=True)
class SmallSteps(Descent):
    """Stage 1 in many small steps: descent on all positions, until the support stands out.

    It is over once the entries of A that stand out add up to ``visible``, in (0, 1), on average over the queries; they
    become the support. After ``steps`` steps it gives up.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> result = fit(task.stream(seed=1, device="cpu"), [SmallSteps(steps=1_000, batch_size=64, step_size=0.1)])
    >>> bool((result.support.numpy() == task.support).all())
    True
    """

    visible: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.fraction("visible", self.visible)

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch, and look what stands out in A."""
        last = super().step(state, source)
        found = screening.outstanding(state.A, state.mu, self.false_alarms)
        share = float((state.A * found).sum(0).mean())
        if share >= self.visible:
            state.support, state.A = found, screening.attention_on(found, state.A)
            return True
        if last:
            state.failure = f"what stands out in A holds {share:.0%} of the attention, not {self.visible:.0%}"
        return last


@dataclass(frozen=True, kw_only=True)
class SparseDescent(Descent):
    """Stage 2: descent on the support, and then one Newton step of A with the mean gradient, over all positions.

    The mean gradient tells the weights of weak positions from noise where that of a batch cannot. The step is divided
    by the curvature of the loss in A, known from V, so that it ends where the loss is least. It is then thresholded, as
    :func:`scb_nb.proximal.sparse_sum_to_one` does, at what its noise exceeds nowhere. Positions below are dropped; if
    others are admitted, a pass of ``steps`` steps follows, at most ``passes`` in all. Derived in chapter 6.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> large, sparse = default_stages(3, 30)[0], SparseDescent(steps=100, batch_size=64, step_size=0.3)
    >>> A = fit(task.stream(seed=1, device="cpu"), [large, sparse]).A
    >>> ((A != 0).sum(0)).tolist()  # two positions for each query; all else is exactly zero
    [2, 2, 2]
    """

    sparsity: Literal["support", "l1", "simplex", "none"] = field(default="support", init=False)
    average: bool = field(default=True, init=False)
    passes: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.integer("passes", self.passes, 1)

    def update(self, state: State, gradients: Gradients) -> None:
        """Take the step that these gradients ask for, and keep that of A, over all positions, in mind."""
        if state.step % self.steps >= self.steps // 2:
            state.add("sum of gradients", gradients.A)
        super().update(state, gradients)

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch, and at the end of a pass the Newton step."""
        if not super().step(state, source):
            return False
        curvature = geometry.norm(state.V, state.mu) ** 2 - (state.V @ state.mu).square().sum()
        pull = -state.memory.pop("sum of gradients") / (self.steps - self.steps // 2) / state.mu
        newton = (pull - pull.median(0).values) / curvature
        threshold = screening.threshold(newton, state.mu, self.false_alarms)
        attention = (state.A + newton).clamp_min(0)
        support = attention > threshold
        admitted = bool((support & ~state.support).any())
        state.support, state.A = support, proximal.sparse_sum_to_one(attention, threshold)
        return not admitted or state.step + 1 == self.passes * self.steps


def default_stages(vocab_size: int, seq_len: int) -> tuple[Stage, ...]:
    """Return the stages that :func:`scb_nb.fit` runs by default, for N tokens and T positions.

    Large steps, each of whose looks at uniform attention takes 3,000 + 3 T / 4 samples, then descent on the support,
    whose samples do not depend on T. The numbers were chosen on tasks other than those of ``experiments/bar.py``.

    Examples
    --------
    >>> large, sparse = default_stages(vocab_size=3, seq_len=1_000)
    >>> large.batch_size, sparse.steps
    (2500, 320)
    """
    return (
        LargeSteps(batch_size=2_000 + seq_len // 2, round_size=2_000 * vocab_size),
        SparseDescent(steps=200 + 40 * vocab_size, batch_size=256, step_size=0.3),
    )
