"""Results of long runs, kept with their settings and their origin, so that no run is done twice.

A store is one text file with a line for each run. A line is written at once when its run ends, and carries a checksum:
what was cut off or damaged is noticed, and run again.
"""

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from joblib import cpu_count
from tqdm import tqdm

from scb_nb import runs, validate
from scb_nb.files import write_whole
from scb_nb.provenance import checksum, code_digest, commit
from scb_nb.runs import plain, told

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from distributed import Client

# Where the book keeps its results: in the package, so that its notebooks find them wherever it is installed.
FOLDER = Path(__file__).parent / "results"

# How many failures a message lists.
SHOWN = 20

Record = dict[str, Any]
Experiment = Callable[..., Mapping[str, Any]]


class RunsFailed(RuntimeError):
    """Some runs of a sweep failed, and all others are kept.

    Attributes
    ----------
    failures : list of (dict, str)
        The settings of each, and what went wrong.
    """

    def __init__(self, failures: list[tuple[dict[str, Any], str]], total: int) -> None:
        self.failures = failures
        super().__init__(f"{len(failures)} of {total} runs failed:{_listed(failures)}")


class Store:
    """The runs of one experiment, in a file of one JSON object a line.

    Each record has ``settings``, ``result``, and ``origin``: date (UTC), seconds, commit, versions, machine, device,
    the address of the worker on a cluster, and the digest of the code (:func:`scb_nb.provenance.code_digest`).

    Parameters
    ----------
    path : path
        The file; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def records(self) -> dict[str, Record]:
        """Return the records that are whole, by the key of their settings; of several with one key, the last.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "runs.jsonl"
        ...     _ = path.write_text("a line that was cut o")
        ...     Store(path).records()  # it does not count, so its run will be done again
        {}
        """
        records = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []:
            digest, _, text = line.partition(" ")
            if digest == checksum(text):
                record = json.loads(text)
                records[key(record["settings"])] = record
        return records

    def run(
        self,
        experiment: Experiment,
        settings: Sequence[Mapping[str, Any]],
        *,
        jobs: int | None = None,
        cluster: "str | Client | None" = None,
        fresh: bool = False,
        progress: bool | None = None,
    ) -> list[Record]:
        """Do the runs that are missing, in ``jobs`` processes or on a cluster, and return the records of all, in order.

        A run that fails does not stop the others, not even if it takes its process with it. What was killed goes on
        with the same call, and so does what lacked a few runs. Several sweeps may share a store; what two of them lack,
        both do.

        Parameters
        ----------
        experiment : function
            Of a module, so that other processes find it; called with the entries of one of the ``settings``, returns
            numbers and lists of numbers by name.
        settings : sequence of dict
            Of numbers, strings, lists and such; :func:`scb_nb.sweeps.grid` makes them.
        jobs : int, optional
            Processes on this machine; by default the number of cores.
        cluster : str or dask.distributed.Client, optional
            Do the runs there: the address of a Dask scheduler, such as "tcp://host:8786", or a client of it. The
            experiment and this package must be installed on its workers, as they are here.
        fresh : bool
            Do all runs again.
        progress : bool, optional
            Show a progress bar, or where there is no terminal a line every half minute; by default none there for
            what takes less.

        Raises
        ------
        RunsFailed
            When all is done, if runs failed: which, and why. All others are kept.
        ImportError, ConnectionError
            If Dask is not installed; if there is no scheduler at the address, or none of its workers is left.
        RuntimeError
            If the code on the workers is not the same as here.
        """
        if not callable(experiment) or not getattr(experiment, "__qualname__", "<lambda>").isidentifier():
            raise TypeError(f"experiment must be a function of a module, got {experiment!r}")
        if isinstance(settings, Mapping) or not all(isinstance(each, Mapping) for each in settings):
            raise TypeError(f"settings must be a sequence of dicts, got {settings!r}")
        if jobs is not None and cluster is not None:
            raise ValueError(f"jobs must be left out where a cluster does the runs, got {jobs!r}")
        jobs = cpu_count() if jobs is None else validate.integer("jobs", jobs, 1)
        if experiment.__module__ == "__main__" and (
            cluster is not None or not hasattr(sys.modules["__main__"], "__file__")
        ):
            raise TypeError(
                f"experiment must be a function of a module in a file, which workers import, got {experiment!r}"
            )
        every = {key(each): dict(each) for each in settings}
        known = {} if fresh else self.records()
        missing = [each for name, each in every.items() if name not in known]
        for each in missing:
            _bind(experiment, each)
        shared = {"commit": commit(), "code": code_digest(experiment)}
        failures: list[tuple[dict[str, Any], str]] = []
        try:
            with _Progress(len(every), len(every) - len(missing), progress) as bar:
                for index, end in runs.all_of(experiment, missing, jobs, cluster, shared["code"]):
                    if isinstance(end, dict):
                        self._append({**end, "origin": end["origin"] | shared})
                    else:
                        failures.append((missing[index], end if isinstance(end, str) else told(end)))
                        bar.set_postfix(failed=len(failures), refresh=False)
                    bar.update()
        except (KeyboardInterrupt, ConnectionError) as error:
            done = len(self.records().keys() & every.keys())
            kept = f"{done} of {len(every)} runs are kept in {self.path}; the same call goes on from there"
            raise type(error)(f"{str(error) or 'stopped'}: {kept}{_listed(failures)}") from None
        self._tidy(settings)
        if failures:
            raise RunsFailed(failures, len(missing))
        records = self.records()
        return [records[name] for name in map(key, settings)]

    def _append(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            whole = file.read() in (b"", b"\n")
            file.write((b"" if whole else b"\n") + _line(record))  # after a line that was cut off, on a line of its own
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file to read it and to add to it, while other processes wait with theirs; they see it as it is then.

        The lock ends with the process that holds it. Where the system has none, two processes must not share a store.
        """
        while True:
            with open(self.path, "ab+") as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):  # else it was rewritten meanwhile
                    yield file
                    return

    def _tidy(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the file in the order of ``settings``, and behind them what else is whole."""
        if not self.path.exists():
            return
        with self._locked():
            records = self.records()
            first = {name: records[name] for name in map(key, settings) if name in records}
            write_whole(self.path, b"".join(_line(record) for record in (first | records).values()))


def kept(name: str) -> list[Record]:
    """Return the records that the book keeps of the experiment of that name, such as "bar".

    Raises
    ------
    FileNotFoundError
        If there are none.

    Examples
    --------
    >>> sorted(kept("bar")[0])
    ['origin', 'result', 'settings']
    """
    path = FOLDER / f"{name}.jsonl"
    if not path.exists():
        raise FileNotFoundError(
            f"no results at {path}: in the book's repository, python -m experiments.{name} makes those it has"
        )
    return list(Store(path).records().values())


def origin(records: Sequence[Record]) -> str:
    """Return in one line when, where and how the records came about, for a caption.

    Examples
    --------
    >>> found = {"date": "2026-01-31T12:00:00", "commit": "0123456789", "machine": "x86_64 linux", "seconds": 60.0}
    >>> origin([{"origin": found}, {"origin": found}])
    '2 runs, 2026-01-31, commit 0123456, x86_64 linux, 2 core minutes'
    """
    origins = [record["origin"] for record in records]
    dates = sorted({each["date"][:10] for each in origins})
    commits = sorted({each["commit"][:7] for each in origins})
    seconds = sum(each["seconds"] for each in origins)
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines = " and ".join(sorted({each["machine"] for each in origins}))
    return f"{len(records)} runs, {when}, commit {', '.join(commits)}, {machines}, {seconds / 60:.0f} core minutes"


def key(settings: Mapping[str, Any]) -> str:
    """Return what identifies these settings, whatever their order: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=plain).encode()).hexdigest()[:16]


def _listed(failures: Sequence[tuple[Record, str]]) -> str:
    """Return a line for each of the first failures, each behind a line break."""
    lines = [f"\n{settings}: {why}" for settings, why in failures[:SHOWN]]
    return "".join(lines) + (f"\nand {len(failures) - SHOWN} more" if len(failures) > SHOWN else "")


def _bind(experiment: Experiment, settings: Mapping[str, Any]) -> None:
    """Raise a TypeError if these are not the arguments of the experiment, before any run begins."""
    try:
        inspect.signature(experiment).bind(**settings)
    except TypeError as error:
        raise TypeError(f"settings must be the arguments of {experiment.__name__}, got {settings}: {error}") from None


class _Progress(tqdm):
    """Runs done, failed, and the time left: a bar in a terminal, elsewhere a line every half minute."""

    def __init__(self, total: int, done: int, show: bool | None) -> None:
        self.lines, self.gap = not sys.stderr.isatty(), ""
        settings = {"mininterval": 30, "miniters": 1, "delay": 0 if show else 30} if self.lines else {}
        hidden = show is False or done == total
        super().__init__(total=total, initial=done, unit="run", disable=hidden, **settings)

    def display(self, *args: Any, **options: Any) -> None:
        if not self.lines:
            super().display(*args, **options)
            return
        self.fp.write(f"{self.gap}{self}")
        self.fp.flush()
        self.gap = "\n"


def _line(record: Record) -> bytes:
    text = json.dumps(record, sort_keys=True, default=plain)
    return f"{checksum(text)} {text}\n".encode()
