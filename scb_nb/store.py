"""Results of long runs, kept with their settings and their origin, so that no run is done twice.

A store is one text file with a line for each run. A line is written at once when its run ends, and carries a checksum:
what was cut off or damaged is noticed, and run again.
"""

import ast
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import scb_nb
from scb_nb import validate
from scb_nb.files import write_whole

# Where the book keeps its results: in the package, so that its notebooks find them wherever it is installed.
FOLDER = Path(__file__).parent / "results"

# The modules that a result of training depends on.
CORE = [
    "validate",
    "kernels",
    "sampling",
    "stream",
    "chains",
    "task",
    "model",
    "objective",
    "geometry",
    "theory",
    "proximal",
    "screening",
    "state",
    "stages",
    "training",
]

Record = dict[str, Any]
Experiment = Callable[..., Mapping[str, Any]]


class Store:
    """The runs of one experiment, in a file of one JSON object a line.

    Each record has ``settings``, ``result``, and ``origin``: date (UTC), seconds, commit, versions, machine, and the
    digest of the code (:func:`scb_nb.store.code_digest`).

    Parameters
    ----------
    path : path
        The file; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def records(self) -> dict[str, Record]:
        """Return the records that are whole, by the key of their settings; of several with one key, the last."""
        records = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []:
            digest, _, text = line.partition(" ")
            if digest == _digest(text):
                record = json.loads(text)
                records[key(record["settings"])] = record
        return records

    def run(
        self,
        experiment: Experiment,
        settings: Sequence[Mapping[str, Any]],
        *,
        jobs: int | None = None,
        fresh: bool = False,
        progress: bool | None = None,
    ) -> list[Record]:
        """Do the runs that are missing, in ``jobs`` processes, and return the records of all, in order.

        Parameters
        ----------
        experiment : function
            Of a module, so that other processes find it; called with the entries of one of the ``settings``, returns
            numbers and lists of numbers by name.
        settings : sequence of dict
            Of numbers, strings, lists and such.
        jobs : int, optional
            By default the number of cores.
        fresh : bool
            Do all runs again.
        progress : bool, optional
            Show a progress bar; by default only in a terminal.

        Raises
        ------
        RuntimeError
            If runs failed: which, and why. All others are kept.
        """
        name = getattr(experiment, "__name__", "<lambda>")
        if not callable(experiment) or name == "<lambda>":
            raise TypeError(f"experiment must be a function of a module, got {experiment!r}")
        if isinstance(settings, Mapping) or not all(isinstance(each, Mapping) for each in settings):
            raise TypeError(f"settings must be a sequence of dicts, got {settings!r}")
        jobs = (os.cpu_count() or 1) if jobs is None else validate.integer("jobs", jobs, 1)
        known = {} if fresh else self.records()
        missing = list({key(each): each for each in settings if key(each) not in known}.values())
        failures = []
        shared = {"commit": _commit(), "code": code_digest(experiment)}
        with ProcessPoolExecutor(
            min(jobs, max(1, len(missing))), multiprocessing.get_context("spawn"), _settle
        ) as pool:
            pending = {pool.submit(_timed, experiment, dict(each)): each for each in missing}
            show = None if progress is None else not progress
            for future in tqdm(as_completed(pending), total=len(pending), unit="run", disable=show):
                if error := future.exception():
                    failures.append(f"{dict(pending[future])}: {type(error).__name__}: {error}")
                    continue
                result, origin = future.result()
                self._append({"settings": dict(pending[future]), "result": result, "origin": origin | shared})
        self._tidy(settings)
        if failures:
            raise RuntimeError(f"{len(failures)} of {len(missing)} runs failed:\n" + "\n".join(failures))
        records = self.records()
        return [records[key(each)] for each in settings]

    def _append(self, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with open(self.path, "ab") as file:  # after a line that was cut off, on a line of its own
            file.write((b"" if whole else b"\n") + _line(record))
            file.flush()
            os.fsync(file.fileno())

    def _tidy(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the file in the order of ``settings``, and behind them what else is whole."""
        records = self.records()
        first = {key(each): records[key(each)] for each in settings if key(each) in records}
        content = b"".join(_line(record) for record in (first | records).values())
        if content:
            write_whole(self.path, content)


def kept(name: str) -> list[Record]:
    """Return the records that the book keeps of the experiment of that name, such as "bar".

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    path = FOLDER / f"{name}.jsonl"
    if not path.exists():
        raise FileNotFoundError(
            f"no results at {path}: in the book's repository, python -m experiments.{name} makes those it has"
        )
    return list(Store(path).records().values())


def origin(records: Sequence[Record]) -> str:
    """Return in one line when, where and how the records came about, for a caption."""
    origins = [record["origin"] for record in records]
    dates = sorted({each["date"][:10] for each in origins})
    commits = sorted({each["commit"][:7] for each in origins})
    seconds = sum(each["seconds"] for each in origins)
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines = " and ".join(sorted({each["machine"] for each in origins}))
    return f"{len(records)} runs, {when}, commit {', '.join(commits)}, {machines}, {seconds / 60:.0f} core minutes"


def key(settings: Mapping[str, Any]) -> str:
    """Return what identifies these settings, whatever their order: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def code_digest(experiment: Experiment) -> str:
    """Return a digest of the code that the experiment runs; comments, docstrings and layout do not count.

    That is the function and what it uses of its module, the modules of the package that all training runs, and those of
    the package from which its module imports functions or classes.
    """
    module = inspect.getmodule(experiment)
    core = [f"scb_nb.{name}" for name in CORE]
    origins = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    others = sorted(name for name in origins - {*core, __name__} if name.startswith("scb_nb."))
    own = _used_by(experiment.__name__, ast.parse(inspect.getsource(module)))  # type: ignore[arg-type]
    trees = [own, *(ast.parse(inspect.getsource(importlib.import_module(name))) for name in core + others)]
    for node in (node for tree in trees for node in ast.walk(tree)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return _digest("".join(ast.dump(tree) for tree in trees))


def _used_by(name: str, tree: ast.Module) -> ast.Module:
    """Return what a function uses of its module, itself included."""
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = {statement.name}
        else:
            nodes = list(ast.walk(statement))
            names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            names |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
            if not names:  # it may change what it names, as X[0] = 1 does
                names = {node.id for node in nodes if isinstance(node, ast.Name)}
                names = set() if "__name__" in names else names
        for each in names:
            definitions.setdefault(each, []).append(statement)
    used: list[ast.stmt] = []
    pending = [name]
    while pending:
        for statement in definitions.pop(pending.pop(), []):
            if statement not in used:
                used.append(statement)
                pending += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return ast.Module([statement for statement in tree.body if statement in used], [])


def _settle() -> None:
    """Keep this process to one core, and end it with the one that started it, even if that is killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _timed(experiment: Experiment, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    began, date = time.perf_counter(), datetime.now(UTC)
    result = json.loads(json.dumps(dict(experiment(**settings)), default=_plain))
    versions = {"python": platform.python_version(), "scb_nb": scb_nb.__version__}
    versions |= {"numpy": np.__version__, "torch": torch.__version__}
    return result, {
        "date": date.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 2),
        "versions": versions,
        "machine": f"{platform.machine()} {sys.platform}",
    }


def _commit() -> str:
    """Return the commit of the repository that the package lies in, with a + if files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*command, "diff", "--quiet", "HEAD", "--", "."], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed else "")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError(f"settings and results must be numbers, strings, lists and dicts, got {type(value).__name__}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(record: Record) -> bytes:
    text = json.dumps(record, sort_keys=True, default=_plain)
    return f"{_digest(text)} {text}\n".encode()
