"""Many runs of descent as one: seeds, rates and penalties side by side, in tensors with the runs in front.

A step on few tokens costs what Python and PyTorch take to start their operations, whatever they work on. Runs that take
each step together share that cost. The samples remain each run's own, and so do the results: they are those of
:func:`scb_nb.fit`, up to rounding.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tqdm import trange

from scb_nb import geometry, proximal, validate
from scb_nb.model import attended_histogram
from scb_nb.objective import Gradients, add_pull
from scb_nb.stages import Descent
from scb_nb.state import State
from scb_nb.stream import Batch, Source
from scb_nb.training import FINISHED, Fit, Observer, estimate_mu

# What the runs must have in common.
SHARED = ("steps", "batch_size", "precondition", "project", "sparsity")


@torch.no_grad()
def fit_many(
    sources: Sequence[Source],
    stages: Sequence[Descent],
    *,
    observers: Iterable[Observer] = (),
    record_every: int | None = None,
    progress: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Fit]:
    """Return ``[fit(source, [stage]) for source, stage in zip(sources, stages)]``, from steps taken together.

    Worth it where a step has few tokens, some fifty thousand or less; with many, it is as fast as one run after
    another. Memory is of order R (B T + T N) for R runs.

    Parameters
    ----------
    sources : sequence
        R streams, one for each run, all with the same N and T, on one device. Each run takes the samples that it would
        take alone.
    stages : sequence of stages
        R of :class:`scb_nb.stages.Descent`. They may differ in ``step_size``, ``step_size_A`` and ``l1``, which must be
        given where ``sparsity`` is "l1". ``average`` must be off.
    observers : iterable of functions
        As for :func:`scb_nb.fit`; each is called for every run.
    record_every : int, optional
        Steps between records, at least 1; by default only start and end are recorded.
    progress : bool, optional
        Show a progress bar; by default only in a terminal.
    dtype : torch.dtype
        Of V and A.

    Returns
    -------
    list
        Of R :class:`scb_nb.training.Fit`. A run that leaves the finite numbers does not stop the others; its
        ``outcome`` says after which step it did.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or the runs do not fit each other.

    Examples
    --------
    >>> from scb_nb import SCBTask
    >>> task = SCBTask.random(vocab_size=3, seq_len=30, sparsity=2, K_P=0.5, seed=0)
    >>> stages = [Descent(steps=100, batch_size=16, step_size=rate) for rate in (0.05, 0.1, 0.2)]
    >>> [run.finished for run in fit_many([task.stream(seed, device="cpu") for seed in range(3)], stages)]
    [True, True, True]
    """
    _check(sources, stages)
    validate.float_dtype("dtype", dtype)
    observers = tuple(observers) if isinstance(observers, Iterable) else (observers,)
    if not all(map(callable, observers)):
        raise TypeError(f"observers must be functions, got {observers!r}")
    stage, began = stages[0], time.perf_counter()
    every = stage.steps if record_every is None else validate.integer("record_every", record_every, 1)

    first = [source.position for source in sources]
    mus = [estimate_mu(source) if source.mu is None else source.mu for source in sources]
    mu = torch.tensor(np.array(mus), dtype=dtype, device=sources[0].device)  # (R, N)
    starts = [State.uniform(each, sources[0].seq_len) for each in mu]
    V, A = torch.stack([start.V for start in starts]), torch.stack([start.A for start in starts])
    rates_V = mu.new_tensor([each.step_size for each in stages])
    rates_A = mu.new_tensor([each.step_size if each.step_size_A is None else each.step_size_A for each in stages])
    penalties = mu.new_tensor([each.l1 or 0.0 for each in stages])
    step = torch.vmap(lambda *given: _step(stage, *given))

    loss = mu.new_full((len(stages),), torch.nan)
    diverged = torch.zeros(len(stages), dtype=torch.int64, device=mu.device)  # after which step; 0 is never
    rows: list[list[dict[str, float]]] = [[] for _ in stages]
    for done in trange(stage.steps + 1, unit="step", disable=None if progress is None else not progress):
        if done:
            gradients = many_gradients(V, A, [source.draw(stage.batch_size) for source in sources])
            V, A = step(V, A, mu, gradients.V, gradients.A, rates_V, rates_A, penalties)
            loss = gradients.loss
            finite = V.isfinite().all(2).all(1) & A.isfinite().all(2).all(1)
            diverged = torch.where((diverged == 0) & ~finite, done, diverged)
        if done % every and done < stage.steps:
            continue
        for run, source in enumerate(sources):
            row: dict[str, float] = {"samples": source.position - first[run], "stage": 0, "step": done}
            row |= {"loss": float(loss[run]), "seconds": time.perf_counter() - began}
            for observer in observers:
                state = _state(stage, V[run], A[run], mu[run], row)
                row |= {name: float(value) for name, value in observer(state).items()}
            rows[run].append(row)
    return [
        Fit(
            _state(stage, V[run], A[run], mu[run], rows[run][-1]),
            {name: np.array([row[name] for row in rows[run]]) for name in rows[run][-1]},
            int(rows[run][-1]["samples"]),
            f"no longer finite after step {after}" if after else FINISHED,
            time.perf_counter() - began,
        )
        for run, after in enumerate(diverged.tolist())
    ]


def many_gradients(V: torch.Tensor, A: torch.Tensor, batches: Sequence[Batch]) -> Gradients:
    """Return losses (R,) and gradients (R, N, N) and (R, T, N) of R runs, each on a batch of its own, all of one size.

    ``V`` is (R, N, N) and ``A`` (R, T, N). The runs' attentions are laid side by side as if they were one run's with
    R N queries, so that one pass over the tokens serves all.

    Examples
    --------
    >>> batches = [Batch([[0, 1]], [0], [1], vocab_size=2), Batch([[1, 0]], [1], [0], vocab_size=2)]
    >>> V, A = torch.eye(2).repeat(2, 1, 1), torch.full((2, 2, 2), 0.5)
    >>> many_gradients(V, A, batches).loss
    tensor([0.2500, 0.2500])
    """
    runs, T, N = A.shape
    size = len(batches[0])
    own = N * torch.arange(runs, device=A.device).repeat_interleave(size)  # (R B,): where a run's queries begin
    compact, query, target = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("compact", "query", "target")
    )
    joint = Batch._trusted(compact, query + own, target, N)
    AT = A.mT.reshape(runs * N, T)
    histogram = attended_histogram(AT, joint).view(runs, size, N)
    residual = histogram @ V.mT  # (R, B, N)
    residual.view(-1, N).scatter_add_(1, target[:, None], residual.new_full((1, 1), -1).expand(len(joint), 1))
    gradient_AT = torch.zeros_like(AT)
    add_pull(gradient_AT, (residual @ V).view(-1, N), joint)
    loss = 0.5 * residual.square().sum((1, 2))
    return Gradients(loss / size, residual.mT @ histogram / size, gradient_AT.view(runs, N, T).mT / size)


def _step(
    stage: Descent,
    V: torch.Tensor,
    A: torch.Tensor,
    mu: torch.Tensor,
    gradient_V: torch.Tensor,
    gradient_A: torch.Tensor,
    rate_V: torch.Tensor,
    rate_A: torch.Tensor,
    penalty: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return V (N, N) and A (T, N) of one run after the step that :class:`scb_nb.stages.Descent` takes."""
    scale = mu if stage.precondition else 1 / len(mu)
    direction_V, direction_A = gradient_V / scale, gradient_A / scale
    if stage.project:
        direction_V, direction_A = geometry.centre_V(direction_V, mu), geometry.centre_A(direction_A)
    V, A = V - rate_V * direction_V, A - rate_A * direction_A
    if stage.sparsity == "l1":
        A = (proximal.sparse_sum_to_one if stage.project else proximal.soft_threshold)(A, rate_A * penalty)
    elif stage.sparsity == "simplex":
        A = proximal.project_simplex(A)
    return V, A


def _state(stage: Descent, V: torch.Tensor, A: torch.Tensor, mu: torch.Tensor, row: dict[str, float]) -> State:
    support = A != 0 if stage.sparsity in ("l1", "simplex") else torch.ones_like(A, dtype=torch.bool)
    return State(V.clone(), A.clone(), mu.clone(), support, loss=row["loss"], step=int(row["step"]))


def _check(sources: Sequence[Source], stages: Sequence[Descent]) -> None:
    """Raise a TypeError or ValueError that says what keeps these runs from being one."""
    if not isinstance(sources, Sequence) or not sources or not all(isinstance(each, Source) for each in sources):
        raise TypeError(f"sources must be a sequence of at least one stream, got {sources!r}")
    if len(set(map(id, sources))) < len(sources):
        raise ValueError("sources must be a stream for each run, got one of them twice")
    if not isinstance(stages, Sequence) or not all(type(each) is Descent for each in stages):
        raise TypeError(f"stages must be a sequence of scb_nb.stages.Descent, got {stages!r}")
    if len(stages) != len(sources):
        raise ValueError(f"stages must be as many as sources ({len(sources)}), got {len(stages)}")
    for name in ("vocab_size", "seq_len", "device"):
        if len(found := {getattr(each, name) for each in sources}) > 1:
            raise ValueError(f"sources must have the same {name}, got {sorted(map(str, found))}")
    for name in SHARED:
        if len(found := {getattr(each, name) for each in stages}) > 1:
            raise ValueError(f"stages must have the same {name}, got {sorted(map(str, found))}")
    if any(each.average for each in stages):
        raise ValueError("stages must have average off")
    if stages[0].sparsity == "l1" and any(each.l1 is None for each in stages):
        raise ValueError('stages must have l1 given where sparsity is "l1"')
