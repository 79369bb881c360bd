"""How many samples until the support is named: one question, put to each way of looking, at any size of the task.

The family is as even as can be: uniform mu, K_P fixed, every weight 1 / S. So what is found depends on T, N and S, and
of what is drawn only on P, the positions and the samples. Derived in the chapter "Sample complexity, measured".
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from scb_nb import geometry, screening, validate
from scb_nb.estimators import moment_screen
from scb_nb.objective import batch_gradients
from scb_nb.probes import Probes, random_probes
from scb_nb.stages import SmallSteps
from scb_nb.state import State
from scb_nb.stream import Batch
from scb_nb.task import SCBTask
from scb_nb.validate import FloatArray

METHODS = ("screen", "probes", "one probe", "transfer", "large step", "small steps")
FALSE_ALARMS = 0.01
VISIBLE = 0.6  # at first sight something stands out in this share of the queries
SIZES = [round(50 * 2 ** (power / 4)) for power in range(64)]  # at which listening is judged
STEP_SIZE, STEPS = 0.1, 600  # of small steps; the most of them


def trial(
    method: str,
    seq_len: int,
    *,
    vocab_size: int = 3,
    sparsity: int = 2,
    K_P: float = 0.3,
    correlation: float = 1.0,
    ratio: float = 0.8,
    most: int = 3_200,
    seed: int = 0,
) -> dict[str, Any]:
    """Try a method on one task, and say at each of its looks what it finds.

    Parameters
    ----------
    method : str
        "screen", all "probes", "one probe", "transfer" (the V of another task is known), "large step" (half of the
        samples make the direction of V, the others listen) or "small steps" (what stands out in their A).
    seq_len, vocab_size, sparsity : int
        T, N and S.
    K_P : float
        The strength of P.
    correlation : float
        In [-1, 1]; for "transfer", that of the V that is known with P.
    ratio : float
        Above 0; for "small steps", B / (eta T), with eta = 0.1.
    most : int
        At least 50: no look has more samples. Small steps end by themselves.
    seed : int
        For the task, the samples, and the probes.

    Returns
    -------
    dict
        ``samples`` at each look; and ``seen``, a string with a letter for each: "." nothing, "s" first sight, "n" when
        exactly the support is named, "d" when exactly the support stands out, but downwards (of the large step only).

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or there is no such task.

    Examples
    --------
    >>> trial("transfer", seq_len=50, most=1_000)["seen"]  # from 50 samples to 951
    '.......sssssssnnnn'
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    correlation = validate.real("correlation", correlation, -1, 1)
    ratio = validate.real("ratio", ratio, 1e-6)
    sizes = list(takewhile(lambda n: n <= validate.integer("most", most, SIZES[0]), SIZES))
    task = SCBTask.random(vocab_size, seq_len, sparsity, K_P=K_P, q_floor=1.0, seed=seed)
    truth = torch.tensor(task.support)
    samples, seen = [], ""
    for n, up, down in _looks(method, task, sizes, correlation, ratio, seed):
        samples.append(n)
        if torch.equal(up, truth):
            seen += "n"
        elif down is not None and torch.equal(down, truth):
            seen += "d"
        else:
            seen += "s" if bool(up.any(0).double().mean() >= VISIBLE) else "."
    return {"samples": samples, "seen": seen}


Look = tuple[int, torch.Tensor, torch.Tensor | None]


def _looks(
    method: str, task: SCBTask, sizes: Sequence[int], correlation: float, ratio: float, seed: int
) -> Iterator[Look]:
    """Yield how many samples, what is found in them, (T, N), and, of a large step, what stands out downwards."""
    if method == "small steps":
        yield from _small_steps(task, ratio, seed)
    elif method in ("screen", "large step"):
        batch = task.sample(sizes[-1], seed, device="cpu")
        for n in sizes[:: 2 if method == "large step" else 1]:
            if method == "screen":
                yield n, moment_screen(batch[:n], FALSE_ALARMS), None
            else:
                height, critical = large_step(batch[:n]), screening.critical_value(task.Q.size, FALSE_ALARMS)
                yield n, height > critical, height < -critical
    else:
        yield from _listen(method, task, sizes, correlation, seed)


def large_step(batch: Batch) -> torch.Tensor:
    """Return how high each pull stands, in units of noise (T, N); for uniform mu.

    The first half of the batch makes the direction of V, from mu 1^T and uniform attention; the second half listens.
    """
    mu = torch.full((batch.vocab_size,), 1 / batch.vocab_size)
    start, half = State.uniform(mu, batch.tokens.shape[1]), len(batch) // 2
    D = -geometry.centre_V(batch_gradients(start.V, start.A, batch[:half]).V / mu, mu)
    pull = -batch_gradients(start.V + D / geometry.norm(D, mu), start.A, batch[half:]).A / mu
    return (pull - pull.median(0).values) / screening.noise_level(pull, mu)


def _listen(method: str, task: SCBTask, sizes: Iterable[int], correlation: float, seed: int) -> Iterator[Look]:
    """Listen along fixed directions; what they heard adds up."""
    source = task.stream(seed, device="cpu", share_mu=True)
    P, _, mu = task.tensors(like=torch.empty(()))
    state = State.uniform(mu, task.seq_len)
    start = state.V
    if method == "transfer":
        along = P - start
        start = start + correlation * along / geometry.norm(along, mu)
        if abs(correlation) < 1:
            start = start + (1 - correlation**2) ** 0.5 * random_probes(mu, 1, seed, beside=along)[0]
    probes = Probes(batch_size=1, random={"transfer": 0, "one probe": 1}.get(method), visible=1e-9, seed=seed)
    for n in sizes:
        state.V = start  # found anew in each look, from all that was heard
        found = replace(probes, batch_size=n - source.position).step(state, source)
        yield n, state.support if found else torch.zeros_like(state.support), None


def _small_steps(task: SCBTask, ratio: float, seed: int) -> Iterator[Look]:
    """Walk, and look at A after each step; the last look is at what the rule of small steps ends with."""
    source = task.stream(seed, device="cpu", share_mu=True)
    state = State.uniform(torch.tensor(task.mu, dtype=torch.float32), task.seq_len)
    batch_size = max(1, round(STEP_SIZE * ratio * task.seq_len))
    stage = SmallSteps(steps=STEPS, batch_size=batch_size, step_size=STEP_SIZE, visible=VISIBLE)
    over = False
    while not over:
        over = stage.step(state, source)
        state.step += 1
        ended = over and not state.failure
        found = state.support if ended else screening.outstanding(state.A, state.mu, FALSE_ALARMS)
        yield source.position, found, None


# Reading trials


def until(trials: Iterable[dict[str, Any]], moment: str) -> FloatArray:
    """Return the samples until a moment in each trial, infinite where it does not come.

    Parameters
    ----------
    trials : iterable of dict
        As :func:`trial` returns them.
    moment : str
        "seen": first sight; "named": the first look at which exactly the support is named; "ended": the last look, if
        exactly the support is named then.

    Raises
    ------
    ValueError
        If there is no such moment.

    Examples
    --------
    >>> trials = [{"samples": [50, 59, 71], "seen": ".sn"}, {"samples": [50, 59, 71], "seen": "..."}]
    >>> until(trials, "named").tolist()
    [71.0, inf]
    """
    if moment not in ("seen", "named", "ended"):
        raise ValueError(f"moment must be seen, named or ended, got {moment!r}")
    found = []
    for each in trials:
        letters = each["seen"]
        if moment == "ended":
            place = len(letters) - 1 if letters.endswith("n") else -1
        else:
            place = next((i for i, letter in enumerate(letters) if letter == "n" or letter + moment[0] == "ss"), -1)
        found.append(math.inf if place < 0 else each["samples"][place])
    return np.array(found, dtype=float)


class PowerLaw(NamedTuple):
    """An exponent with the ends of its interval; the slopes over the lower and the upper sizes; and the same for bend.

    ``bend`` is the slope over the upper half of the sizes less that over the lower half (the middle one, of an odd
    number, belongs to both). If its interval does not hold zero, the medians follow no power law on this range.
    """

    exponent: float
    low: float
    high: float
    early: float
    late: float
    bend: float
    bend_low: float
    bend_high: float


def power_law(sizes: ArrayLike, samples: ArrayLike, *, level: float = 0.9, draws: int = 1_000) -> PowerLaw:
    """Fit median samples by a power of the size, by least squares in logarithms, and ask whether they follow one.

    Parameters
    ----------
    sizes : array of shape (L,)
        T, N or S; positive and growing, at least 3 of them.
    samples : array of shape (L, tasks)
        Infinite where a trial does not come to its end; the median at each size is finite.
    level : float
        In (0, 1). Intervals come from medians over tasks that are drawn again with replacement, at each size apart. An
        infinite one among these counts as the most samples that any trial took.
    draws : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type, shape or range.

    Examples
    --------
    >>> round(power_law([100, 200, 400], [[30, 31, 29], [60, 62, 58], [120, 124, 116]]).exponent, 6)
    1.0
    """
    x, table = validate.real_array("sizes", sizes), validate.real_array("samples", samples)
    level, draws = validate.fraction("level", level), validate.integer("draws", draws, 1)
    if x.ndim != 1 or len(x) < 3 or not (x > 0).all() or not (np.diff(x) > 0).all():
        raise ValueError(f"sizes must be at least 3 positive, growing numbers, got {x.tolist()}")
    if table.ndim != 2 or len(table) != len(x) or table.shape[1] == 0:
        raise ValueError(f"samples must have shape ({len(x)}, tasks), got {table.shape}")
    if not (table > 0).all() or not np.isfinite(np.median(table, axis=1)).all():
        raise ValueError("samples must be positive, with a finite median at each size")
    chosen = np.random.default_rng(0).integers(table.shape[1], size=(draws, *table.shape))
    drawn = np.median(np.take_along_axis(table[None], chosen, axis=2), axis=2)
    medians = np.minimum(np.vstack([np.median(table, axis=1), drawn]), table[np.isfinite(table)].max())
    half = (len(x) + 1) // 2
    slopes, early, late = (
        np.polyfit(np.log(x[part]), np.log(medians[:, part]).T, 1)[0]
        for part in (slice(None), slice(half), slice(-half, None))
    )
    bend, ends = late - early, [(1 - level) / 2, (1 + level) / 2]
    found = slopes[0], *np.quantile(slopes[1:], ends), early[0], late[0], bend[0], *np.quantile(bend[1:], ends)
    return PowerLaw(*map(float, found))


# What theory expects


def expected(
    method: str,
    seq_len: int,
    *,
    vocab_size: int = 3,
    sparsity: int = 2,
    K_P: float = 0.3,
    correlation: float = 1.0,
) -> float:
    """Return the samples at which the odds are even that all positions are named, by the formulas of the book.

    Heights are taken as normal and independent. For "screen", for "transfer", for "large step" with a correlation of V
    as long as its formula says, without its scatter, and for "small steps" that are looked at on their way, as long as
    they have not begun to grow. The parameters are those of :func:`trial`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or there is no formula for the method; N is at least 2, and
        ``correlation`` not zero.

    Examples
    --------
    >>> [round(expected("transfer", seq_len=T)) for T in (100, 10_000)]  # like log T
    [386, 535]
    >>> [round(expected("large step", seq_len=T)) for T in (100, 10_000)]  # like sqrt(T)
    [1245, 10075]
    """
    seq_len, sparsity = validate.integer("seq_len", seq_len, 1), validate.integer("sparsity", sparsity, 1)
    vocab_size, K_P = validate.integer("vocab_size", vocab_size, 2), validate.real("K_P", K_P, 1e-9)
    if validate.real("correlation", correlation, -1, 1) == 0:
        raise ValueError("correlation must not be 0: no number of samples would do")
    entries, odds = seq_len * vocab_size, 0.5 ** (1 / (vocab_size * sparsity))
    spare = float(torch.special.ndtri(torch.tensor(odds, dtype=torch.float64)))
    tails = 2 if method == "transfer" else 1
    needed = ((screening.critical_value(tails * entries, FALSE_ALARMS) + spare) * sparsity) ** 2 / K_P
    star = (vocab_size - 1) * (1 - 1 / vocab_size) / K_P * seq_len  # n_*
    if method == "transfer":
        return needed / correlation**2
    if method == "large step":
        return needed + math.sqrt(needed * (needed + 4 * star))
    if method == "small steps":
        return math.sqrt(2 * needed * star)
    if method == "screen":
        freedom = (vocab_size - 1) ** 2
        above = chi_critical(freedom, entries) - freedom + 2 * spare**2
        # A noncentral chi-squared variable as a normal one with its mean and variance.
        root = math.sqrt(4 * above - 4 * spare**2 + 2 * freedom)
        return (above + spare * root) * sparsity**2 / K_P
    raise ValueError(f"method must be screen, transfer, large step or small steps, got {method!r}")


def chi_critical(freedom: int, entries: int, false_alarms: float = FALSE_ALARMS) -> float:
    """Return what one or more of so many chi-squared variables exceed with this probability, at most."""
    half = torch.tensor(validate.integer("freedom", freedom, 1) / 2, dtype=torch.float64)
    tail = validate.fraction("false_alarms", false_alarms) / validate.integer("entries", entries, 1)
    low, high = 0.0, freedom + 1e4
    for _ in range(100):
        middle = (low + high) / 2
        above = float(torch.special.gammaincc(half, half.new_tensor(middle / 2))) > tail
        low, high = (middle, high) if above else (low, middle)
    return low
