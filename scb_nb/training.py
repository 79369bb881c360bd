"""Training from samples: one call that runs the stages in turn, watches them, and can be stopped and resumed.

Training sees a source of samples and nothing else of the task. What is to be compared with the truth is measured by
observers, whose results go into the history and nowhere else.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from scb_nb import validate
from scb_nb.files import write_whole
from scb_nb.stages import LargeSteps, SparseDescent, Stage, State
from scb_nb.stream import Batch, BatchStream, Source
from scb_nb.theory import align
from scb_nb.validate import FloatArray

if TYPE_CHECKING:
    from scb_nb.task import SCBTask

Observer = Callable[[State], Mapping[str, float]]

FINISHED = "finished"


class Diverged(ArithmeticError):
    """Training left the finite numbers; the message says where, and with which settings."""


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


def default_stages(vocab_size: int, seq_len: int) -> tuple[Stage, ...]:
    """Return the stages that :func:`scb_nb.fit` runs by default, for N tokens and T positions.

    Large steps, each of whose looks at uniform attention takes 3,000 + 3 T / 4 samples, then descent on the support,
    whose samples do not depend on T. The numbers were chosen on tasks other than those of ``experiments/bar.py``.
    """
    return (
        LargeSteps(batch_size=2_000 + seq_len // 2, round_size=2_000 * vocab_size),
        SparseDescent(steps=200 + 40 * vocab_size, batch_size=256, step_size=0.3),
    )


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
        :func:`scb_nb.training.default_stages`. Where contexts are long, those of :func:`scb_nb.probes.stages` need
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

    run = _Run(source, tuple(stages), start, dtype, None if checkpoint is None else Path(checkpoint))
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
    """A run under way, and the file that it is saved to."""

    def __init__(
        self, source: Source, stages: tuple[Stage, ...], start: State | None, dtype: torch.dtype, path: Path | None
    ) -> None:
        self.source, self.stages, self.path = source, stages, path
        self.rows: list[dict[str, float]] = []
        self.first, self.began, self.earlier = source.position, time.perf_counter(), 0.0
        # What a checkpoint must agree in, so that it is not taken up by another run.
        self.identity = {
            "stages": repr(stages),
            "source": [type(source).__name__, source.vocab_size, source.seq_len, source.seed, source.device.type],
            "position": source.position,
            "samples": _fingerprint(source),
            "mu": None if source.mu is None else source.mu.tolist(),
            "start": None if start is None else hashlib.sha256(_packed(start)).hexdigest(),
            "dtype": str(dtype),
        }
        if path is not None and path.exists():
            self.load()
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
        if self.path is None:
            return
        header = {"identity": self.identity, "samples": self.samples, "seconds": self.seconds, "rows": self.rows}
        write_whole(self.path, _packed(self.state, **header))

    def load(self) -> None:
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:  # type: ignore[arg-type]
                header = json.loads(str(archive["header"]))
                tensors = {name: torch.tensor(archive[name], device=self.source.device) for name in header["names"]}
        except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, missing key
            raise ValueError(
                f"checkpoint must name a file written by fit, but {str(self.path)!r} is not readable: {error}; "
                "remove it to start anew"
            ) from error
        theirs = header["identity"]
        if different := [name for name, value in self.identity.items() if theirs.get(name) != value]:
            raise ValueError(
                f"checkpoint must be of the same run, but {str(self.path)!r} was saved with another "
                f"{' and '.join(different)}: {[theirs.get(name) for name in different]}, "
                f"not {[self.identity[name] for name in different]}"
            )
        V, A, mu, support = (tensors.pop(name) for name in ("V", "A", "mu", "support"))
        memory = {name.removeprefix("memory "): value for name, value in tensors.items()}
        self.state = State(V, A, mu, support, **header["state"], memory=memory)
        self.rows, self.earlier = header["rows"], header["seconds"]
        self.source.position = self.first + header["samples"]


def _fingerprint(source: Source) -> str:
    """Return a digest of the next hundred samples, without taking them."""
    position = source.position
    digest = hashlib.sha256()
    for tensor in source.draw(100):
        digest.update(tensor.numpy(force=True).tobytes())
    source.position = position
    return digest.hexdigest()[:16]


def _packed(state: State, **header: Any) -> bytes:
    """Return a state, and what else is known, as a NumPy archive without pickle."""
    tensors = {name: getattr(state, name) for name in ("V", "A", "mu", "support")}
    tensors |= {f"memory {name}": value for name, value in state.memory.items()}
    header["names"] = list(tensors)  # so that none can be missing unnoticed
    header["state"] = {name: getattr(state, name) for name in ("loss", "stage", "step", "failure")}
    arrays: dict[str, Any] = {name: value.numpy(force=True) for name, value in tensors.items()}
    buffer = BytesIO()
    np.savez(buffer, header=np.array(json.dumps(header)), **arrays)
    return buffer.getvalue()


def estimate_mu(source: Source, tokens: int = 1_000_000) -> FloatArray:
    """Return the frequencies of the context tokens of the next samples, shape (N,), all positive.

    It takes as many samples as hold that many ``tokens``, but at most 10,000. One is added to every count, so that a
    token that did not occur has a small frequency and not none.
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
    """

    def observe(state: State) -> Mapping[str, float]:
        truth = torch.tensor(task.support, device=state.support.device)
        hits, chosen = int((state.support & truth).sum()), int(state.support.sum())
        return {**align(state.V, state.A, task)._asdict(), "hits": hits, "false_entries": chosen - hits}

    return observe
