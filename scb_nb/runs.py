"""The runs of an experiment, each on one core: done in processes of this machine or on a cluster, and timed."""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scb_nb import workers
from scb_nb.provenance import allocations, code_digest, here

if TYPE_CHECKING:
    from distributed import Client

Run = dict[str, Any]


def all_of(
    experiment: Callable[..., Any], settings: Sequence[Run], jobs: int, cluster: "str | Client | None", code: str
) -> Iterator[tuple[int, Run | str | Exception]]:
    """Do the runs, and yield the place of each in ``settings``, and its record or what went wrong, as they end."""
    if not settings:
        return
    if cluster is None:
        yield from workers.local(partial(_attempt, experiment), settings, min(jobs, len(settings)))
        return
    with workers.connected(cluster) as client:
        ready = client.run(_same_code, experiment, code, on_error="return")
        for address, error in ready.items():
            if isinstance(error, Exception) and not isinstance(error, OSError):  # else it was lost just then
                raise RuntimeError(f"the worker {address} cannot do these runs: {told(error)}")
        yield from workers.on_cluster(partial(_attempt_there, code, experiment), settings, client)


def _attempt(experiment: Callable[..., Any], settings: Run) -> Run | str:
    """Do one run, on one core, and return its record, or in a line what went wrong."""
    torch.set_num_threads(1)
    began, date, before = time.perf_counter(), datetime.now(UTC), allocations()
    try:
        result = json.loads(json.dumps(dict(experiment(**settings)), default=plain))
    except (Exception, SystemExit) as error:
        return told(error)
    used = [gpu for gpu, number in allocations().items() if number > before.get(gpu, 0)]
    origin = {
        "date": date.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 2),
        "device": " and ".join(used) or "cpu",
    }
    return {"settings": settings, "result": result, "origin": origin | here()}


def _attempt_there(code: str, experiment: Callable[..., Any], settings: Run) -> Run | str:
    """Do one run on a worker of a cluster, which the record names."""
    from distributed import get_worker

    _same_code(experiment, code)
    record = _attempt(experiment, settings)
    if isinstance(record, dict):
        record["origin"]["worker"] = get_worker().address
    return record


def _same_code(experiment: Callable[..., Any], code: str) -> None:
    """Raise a RuntimeError unless the code of the experiment is the same here as where the sweep was started."""
    if _code_here(experiment) != code:
        raise RuntimeError("its code differs: install there what is installed here, and start the workers again")


_code_here = cache(code_digest)  # once, since what is loaded stays as it was when the file changes


def told(error: BaseException) -> str:
    """Return what went wrong, and where in the file that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def plain(value: Any) -> Any:
    """Return a number of NumPy or torch, or an array of them, as JSON has it; a TypeError if it is none."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError(f"settings and results must be numbers, strings, lists and dicts, got {type(value).__name__}")
