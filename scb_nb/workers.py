"""Where runs are done: in processes of this machine, through joblib, or on a Dask cluster.

Both ways take a task, a function of one argument, and yield what it returned for each of many arguments, as the calls
end: the place of the argument in their list, and the value; or a :class:`Died` where the worker died of the call.
"""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor

if TYPE_CHECKING:
    from distributed import Client, as_completed

# Seconds to wait for a scheduler that does not answer, and for workers where a cluster has none.
TO_CONNECT = 10
FOR_WORKERS = 60

Task = Callable[[Any], Any]
Ends = Generator[tuple[int, Any]]


class Died(RuntimeError):
    """The process that did a call died of it."""


def local(task: Task, arguments: Sequence[Any], jobs: int) -> Ends:
    """Call ``task`` in ``jobs`` processes of this machine, each kept to one core.

    When a process dies, joblib ends the others too. Which of the calls under way was the cause, halving tells: each
    half of them is tried on its own, until one call alone is left.
    """
    groups = [list(range(len(arguments)))]
    try:
        while groups:
            group, done = groups.pop(), set()
            begun: set[int] = set()
            ends = _parallel(task, arguments, group, jobs, begun.add)
            try:
                for index, value in ends:
                    done.add(index)
                    yield index, value
            except BrokenProcessPool:
                suspects = [index for index in group if index in begun - done]
                if len(suspects) == 1:
                    yield suspects[0], Died("its process died, of a crash or for want of memory")
                middle = len(suspects) // 2
                halves = [suspects[:middle], suspects[middle:]] if middle else []
                groups += [each for each in ([index for index in group if index not in begun], *halves) if each]
            finally:
                with warnings.catch_warnings(action="ignore"):  # if calls are under way, that is on purpose
                    ends.close()
    finally:
        # Else they would wait for more, and a later sweep would find its code as it was.
        get_reusable_executor().shutdown(kill_workers=True)


def _parallel(task: Task, arguments: Sequence[Any], group: list[int], jobs: int, note: Callable[[int], None]) -> Ends:
    """Call the task for a group of arguments, one at a time in each process, so that each end is told at once."""

    def calls() -> Iterator[Any]:
        for index in group:
            note(index)
            yield delayed(_call)(task, index, arguments[index])

    # A single job would stay in this process, which it might take with it: there are two, and one of them is idle.
    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(
            max(2, jobs),
            return_as="generator_unordered",
            pre_dispatch=jobs,
            batch_size=1,
            max_nbytes=None,
            initializer=_settle,
            initargs=(os.getpid(),),
        )
        return parallel(calls())


def _call(task: Task, index: int, argument: Any) -> tuple[int, Any]:
    return index, task(argument)


def _settle(parent: int) -> None:
    """Leave Ctrl-C to the process that started this one, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


@contextmanager
def connected(cluster: "str | Client") -> Iterator["Client"]:
    """Yield a client of the cluster, and close it if it was made here.

    Parameters
    ----------
    cluster : str or dask.distributed.Client
        The address of the scheduler, such as "tcp://host:8786", or a client of it.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ConnectionError
        If no scheduler answers there, or it has no workers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("a cluster needs Dask: pip install scb_nb[cluster]") from None
    if not isinstance(cluster, str | Client):
        raise TypeError(f"cluster must be an address such as 'tcp://host:8786' or a Dask Client, got {cluster!r}")
    try:
        client = Client(cluster, timeout=TO_CONNECT, set_as_default=False) if isinstance(cluster, str) else cluster
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {cluster!r}: {error}") from None
    try:
        try:
            client.wait_for_workers(1, timeout=FOR_WORKERS)
        except TimeoutError:
            raise ConnectionError(_no_workers(client)) from None
        yield client
    finally:
        if isinstance(cluster, str):
            client.close()


def on_cluster(task: Task, arguments: Sequence[Any], client: "Client") -> Ends:
    """Call ``task`` on the workers of a cluster; that of a call which failed is the exception.

    Dask itself repeats what was under way on a worker that is lost. What several workers died of, one after the other,
    is tried once more when all else is done, alone: it may only have been there when another call killed them.
    """
    from distributed.scheduler import KilledWorker

    suspects = []
    for index, value in _submit(task, arguments, range(len(arguments)), client):
        if isinstance(value, KilledWorker):
            suspects.append(index)
        else:
            yield index, value
    for suspect in suspects:
        for index, value in _submit(task, arguments, [suspect], client):
            yield (
                index,
                Died("every worker that tried it died, of a crash or for want of memory")
                if isinstance(value, KilledWorker)
                else value,
            )


def _submit(task: Task, arguments: Sequence[Any], places: Sequence[int], client: "Client") -> Ends:
    from distributed import as_completed

    futures = client.map(task, [arguments[index] for index in places], pure=False)
    place = dict(zip(futures, places, strict=True))
    ended = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
    del futures  # so that the cluster need not keep, or make again, what has arrived
    try:
        while place:
            _await(ended, client)
            future, value = next(ended)
            if future.cancelled():
                raise ConnectionError(f"the Dask scheduler at {client.scheduler.address} gave up the runs, or is gone")
            yield place.pop(future), value[1] if future.status == "error" else value
    finally:
        client.cancel(list(place))


def _await(ended: "as_completed", client: "Client") -> None:
    """Wait for a call to end; if there is nobody left to work on it, raise a ConnectionError."""
    seen = looked = time.monotonic()
    while not ended.has_ready():
        time.sleep(0.01)
        if (now := time.monotonic()) > looked + 1:
            looked, seen = now, now if client.nthreads() else seen
            if now > seen + FOR_WORKERS:
                raise ConnectionError(_no_workers(client))


def _no_workers(client: "Client") -> str:
    return f"the Dask scheduler at {client.scheduler.address} has had no workers for {FOR_WORKERS} seconds"
