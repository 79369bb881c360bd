"""Training from samples: one call that runs the stages in turn, watches them, and can be stopped and resumed.

Training sees a source of samples and nothing else of the task. What is to be compared with the truth is measured by
observers, whose results go into the history and nowhere else.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from scb_nb import validate
from scb_nb.checkpoint import Checkpoint
from scb_nb.stages import Stage, default_stages
from scb_nb.state import State
from scb_nb.stream import Batch, BatchStream, Source
from scb_nb.theory import align
from scb_nb.validate import FloatArray

if TYPE_CHECKING:
    from scb_nb.task import SCBTask

Observer = Callable[[State], Mapping[str, float]]

FINISHED = "finished"


class Diverged(ArithmeticError):
    """Training left the finite numbers; the message says where, and with which settings.

    Examples
    --------
    >>> from scb_nb.stages import Descent
    >>> stream = SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0).stream(seed=1, device="cpu")
    >>> fit(stream, [Descent(steps=1_000, batch_size=16, step_size=1e3)])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    scb_nb.training.Diverged: V or A is no longer finite after step ...
    """


@dataclass(frozen=True, eq=False)
class Fit:
    """What a training run came to.

    Attributes
    ----------
    state : State
        Where it ended; ``fit(source, stages, start=state)`` goes on from there.
    history : dict of ndarray
        One entry for each record: ``samples`` seen, ``stage``, ``step`` within it, ``loss`` of the batch before the
        step, ``seconds``, and what the observers returned.
    samples : int
        How many samples the run took; of a batch, each time that one was taken counts.
    outcome : str
        "finished", or what stopped it.
    seconds : float
        How long it took, time between a stop and its resumption not counted.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> result = fit(task.stream(seed=1, device="cpu"), max_samples=1_000)
    >>> result.finished, result.outcome
    (False, 'stopped at max_samples = 1000')
    """

    state: State
    history: dict[str, FloatArray]
    samples: int
    outcome: str
    seconds: float

    @property
    def V(self) -> torch.Tensor:
        """The value matrix, shape (N, N): the estimate of P."""
        return self.state.V

    @property
    def A(self) -> torch.Tensor:
        """The attention, shape (T, N): the estimate of Q."""
        return self.state.A

    @property
    def support(self) -> torch.Tensor:
        """The positions that each query reads, as found; boolean, shape (T, N)."""
        return self.state.support

    @property
    def finished(self) -> bool:
        """Whether every stage came to its end."""
        return self.outcome == FINISHED

    def __repr__(self) -> str:
        return f"Fit({self.outcome} after {self.samples:,} samples, {self.seconds:.1f} s)"


def fit(
    source: Source | Batch,
    stages: Sequence[Stage] | None = None,
    *,
    start: State | None = None,
    observers: Iterable[Observer] = (),
    record_every: int = 10,
    max_samples: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> Fit:
    """Train the linear transformer on samples, and find V, A and the positions that each query reads.

    Parameters
    ----------
    source : Stream or BatchStream or Batch
        Where the samples come from. A batch is taken as ``BatchStream(batch)``, which repeats its samples as often as
        training asks for more. If the source has no ``mu``, that is estimated first, from the context tokens.
    stages : sequence of stages, optional
        What to run in turn, such as :class:`scb_nb.stages.LargeSteps`; by default
        :func:`scb_nb.stages.default_stages`. Where contexts are long, those of :func:`scb_nb.probes.stages` need
        fewer samples before the first positions are found; and more gradients.
    start : State, optional
        Where to start instead of at V = mu 1^T and uniform attention. It is not changed.
    observers : iterable of functions
        Each is called with a copy of the state, and returns numbers by name for the history; they cannot influence
        training. :func:`scb_nb.distances` compares with the truth. A single function will do as well.
    record_every : int
        Steps between records, at least 1; the start of the run and the end of each stage are always recorded.
    max_samples : int, optional
        Stop after the step with which this many samples have been taken; a resumed run may be given more.
    checkpoint : path, optional
        File that the run is saved to, at most every ``checkpoint_seconds`` and at its end. If it is there, the run goes
        on from it, and gives the same numbers as one that was never stopped. ``source`` and settings must be the same.
    progress : bool, optional
        Show a progress bar; by default only in a terminal.
    dtype : torch.dtype
        Of V and A; with ``start``, it is that of ``start``.

    Raises
    ------
    Diverged
        If V or A is no longer finite.
    TypeError, ValueError
        If an argument is not of its type or range, or the checkpoint is damaged or of another run.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> result = fit(task.stream(seed=1, device="cpu"))
    >>> bool((result.support.numpy() == task.support).all())
    True
    """
    if isinstance(source, Batch):
        source = BatchStream(source)
    _check_source(source)
    stages = default_stages(source.vocab_size, source.seq_len) if stages is None else stages
    if not isinstance(stages, Sequence) or not stages or not all(map(_is_stage, stages)):
        raise TypeError(f"stages must be a sequence of at least one stage, got {stages!r}")
    observers = tuple(observers) if isinstance(observers, Iterable) else (observers,)
    if not all(map(callable, observers)):
        raise TypeError(f"observers must be functions, got {observers!r}")
    if start is not None:
        if not isinstance(start, State):
            raise TypeError(f"start must be a State, got {type(start).__name__}")
        start.check(source)
    validate.integer("record_every", record_every, 1)
    validate.real("checkpoint_seconds", checkpoint_seconds, 0)
    validate.float_dtype("dtype", dtype)
    if max_samples is not None:
        validate.integer("max_samples", max_samples, 1)
    if checkpoint is not None and not isinstance(checkpoint, str | PathLike):
        raise TypeError(f"checkpoint must be a path, got {checkpoint!r}")

    settings = source, tuple(stages), start, dtype
    run = _Run(*settings, checkpoint=None if checkpoint is None else Checkpoint(Path(checkpoint), *settings))
    saved = time.perf_counter()
    with tqdm(disable=None if progress is None else not progress, unit=" samples", unit_scale=True) as bar:
        if not run.rows:
            run.record(observers)
        while not run.outcome(max_samples):
            over = run.step()
            if over or run.state.step % record_every == 0:
                run.record(observers)
                bar.set_description(f"stage {run.state.stage + 1} of {len(stages)}, loss {run.state.loss:.4f}")
                bar.update(run.samples - bar.n)
            if over:
                run.next_stage()
            if time.perf_counter() - saved >= checkpoint_seconds:
                run.save()
                saved = time.perf_counter()
        run.save()
    if run.rows[-1]["samples"] != run.samples:  # stopped between two records
        run.record(observers)
    return run.result(run.outcome(max_samples))


def _check_source(source: Any) -> None:
    if not isinstance(source, Source):
        raise TypeError(f"source must be a stream such as task.stream(seed), or a Batch, got {type(source).__name__}")


def _is_stage(value: Any) -> bool:
    return callable(getattr(value, "step", None)) and not isinstance(value, type)


class _Run:
    """A run under way."""

    def __init__(
        self,
        source: Source,
        stages: tuple[Stage, ...],
        start: State | None,
        dtype: torch.dtype,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.source, self.stages, self.checkpoint = source, stages, checkpoint
        self.rows: list[dict[str, float]] = []
        self.first, self.began, self.earlier = source.position, time.perf_counter(), 0.0
        if saved := checkpoint and checkpoint.load():
            self.state, progress = saved
            self.rows, self.earlier = progress["rows"], progress["seconds"]
            source.position = self.first + progress["samples"]
        elif start is None:
            mu = estimate_mu(source) if source.mu is None else source.mu
            self.state = State.uniform(torch.tensor(mu, dtype=dtype, device=source.device), source.seq_len)
        else:
            self.state = replace(deepcopy(start), stage=0, step=0, memory={}, failure="")

    @property
    def samples(self) -> int:
        return self.source.position - self.first

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.began

    def outcome(self, max_samples: int | None) -> str:
        """Return why the run is over, or nothing if it is not."""
        if self.state.failure:
            return f"gave up in stage {self.state.stage + 1}: {self.state.failure}"
        if self.state.stage == len(self.stages):
            return FINISHED
        if max_samples is not None and self.samples >= max_samples:
            return f"stopped at max_samples = {max_samples}"
        return ""

    def step(self) -> bool:
        """Take one step of the current stage, and say whether it was the last that it can take."""
        state = self.state
        stage = self.stages[state.stage]
        over = stage.step(state, self.source)
        state.step += 1
        if not (state.V.isfinite().all() and state.A.isfinite().all()):
            raise Diverged(
                f"V or A is no longer finite after step {state.step} of stage {state.stage + 1}, "
                f"{self.samples} samples, with {stage!r}; smaller step sizes may help"
            )
        return over or bool(state.failure)

    def next_stage(self) -> None:
        if not self.state.failure:
            self.state.stage, self.state.step, self.state.memory = self.state.stage + 1, 0, {}

    def record(self, observers: Iterable[Observer]) -> None:
        state = self.state
        row: dict[str, float] = {
            "samples": self.samples,
            "stage": state.stage,
            "step": state.step,
            "loss": state.loss,
            "seconds": self.seconds,
        }
        for observer in observers:
            copies = {name: getattr(state, name).clone() for name in ("V", "A", "mu", "support")}
            row |= {name: float(value) for name, value in observer(replace(state, memory={}, **copies)).items()}
        self.rows.append(row)

    def result(self, outcome: str) -> Fit:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        history = {name: np.array([row.get(name, np.nan) for row in self.rows]) for name in names}
        return Fit(self.state, history, self.samples, outcome, self.seconds)

    def save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(self.state, samples=self.samples, seconds=self.seconds, rows=self.rows)


def estimate_mu(source: Source, tokens: int = 1_000_000) -> FloatArray:
    """Return the frequencies of the context tokens of the next samples, shape (N,), all positive.

    It takes as many samples as hold that many ``tokens``, but at most 10,000. One is added to every count, so that a
    token that did not occur has a small frequency and not none.

    Examples
    --------
    >>> stream = BatchStream(Batch([[0, 0, 1]], query=[0], target=[1], vocab_size=3))
    >>> estimate_mu(stream, tokens=3).tolist()  # (2, 1, 0) tokens, and one more of each
    [0.5, 0.3333333333333333, 0.16666666666666666]
    """
    _check_source(source)
    samples = min(10_000, -(-validate.integer("tokens", tokens, 1) // source.seq_len))
    counts = np.ones(source.vocab_size)
    for part in source.chunks(samples):
        counts += np.bincount(part.tokens.flatten().cpu(), minlength=source.vocab_size)
    return counts / counts.sum()


def distances(task: "SCBTask") -> Observer:
    """Return an observer that compares with the truth.

    It records the six numbers of :class:`scb_nb.theory.Alignment`, and how many of the positions that training allows
    belong to the support of Q (``hits``) and how many do not (``false_entries``).

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> history = fit(task.stream(seed=1, device="cpu"), observers=distances(task)).history
    >>> history["hits"][[0, -1]].tolist(), history["false_entries"][[0, -1]].tolist()  # all 90 allowed; then the 6
    ([6.0, 6.0], [84.0, 0.0])
    """

    def observe(state: State) -> Mapping[str, float]:
        truth = torch.tensor(task.support, device=state.support.device)
        hits, chosen = int((state.support & truth).sum()), int(state.support.sum())
        return {**align(state.V, state.A, task)._asdict(), "hits": hits, "false_entries": chosen - hits}

    return observe
