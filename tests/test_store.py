"""The store of long runs: no run is done twice, none is lost, and what is damaged is noticed and done again."""

import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from joblib import cpu_count

import scb_nb
from experiments import bar, common
from scb_nb import provenance, store, workers
from scb_nb.files import write_whole
from scb_nb.store import Store, code_digest, kept, key, origin
from tests.helpers import Terminal

ROOT = Path(__file__).parents[1]

# An experiment that notes its calls in a file, since it may run in other processes.
EXPERIMENT = '''
"""An experiment."""

import os
import time

import numpy as np
import torch


def run(number, folder, sleep=0.0, error=""):
    """Square a number."""
    with open(f"{folder}/calls", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(sleep)
    if error:
        raise ValueError(error)
    return {"square": number**2, "process": os.getpid(), "threads": torch.get_num_threads()}


def arrays():
    """Return all kinds of numbers."""
    return {
        "float": np.float64(0.1),
        "single": np.float32(0.5),
        "integer": np.int64(7),
        "bool": np.bool_(True),
        "array": np.arange(6).reshape(2, 3),
        "tensor": torch.tensor([0.5, float("nan")]),
        "scalar": torch.tensor(3),
        "list": [np.int8(1), 2, "three"],
    }


def nothing():
    """Return no mapping."""


def no_number():
    """Return what no file can hold."""
    return {"state": object()}
'''


def one_by_one(task: Callable, arguments: list, jobs: int) -> Iterator[tuple[int, Any]]:
    """Stands in for the processes of a store: they take seconds to start."""
    for index, argument in enumerate(arguments):
        yield index, task(argument)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[mock.Mock]:
    """Do the runs in this process."""
    threads, local = torch.get_num_threads(), mock.Mock(side_effect=one_by_one)
    monkeypatch.setattr(workers, "local", local)
    yield local
    torch.set_num_threads(threads)


@pytest.fixture
def quick(here: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at the repository and the code either."""
    monkeypatch.setattr(store, "commit", lambda: "0" * 40)
    monkeypatch.setattr(store, "code_digest", lambda experiment: "0" * 16)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Write a module, and import it; other processes find it too."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(text: str = EXPERIMENT) -> ModuleType:
        made.append(f"experiment_{os.getpid()}_{len(made)}")
        (tmp_path / f"{made[-1]}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(made[-1])

    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def run(module: Callable[..., ModuleType]) -> Callable[..., dict]:
    return module().run


def wanted(folder: Path, count: int = 5, **more: object) -> list[dict]:
    return [{"number": number, "folder": str(folder), **more} for number in range(count)]


def calls(folder: Path) -> list[int]:
    """The numbers of the runs since the last look."""
    path = folder / "calls"
    numbers = [int(line) for line in path.read_text().split()] if path.exists() else []
    path.unlink(missing_ok=True)
    return numbers


def squares(records: list[dict]) -> list[int]:
    assert [record["settings"]["number"] ** 2 for record in records] == [r["result"]["square"] for r in records]
    return [record["result"]["square"] for record in records]


# What is done, and done once


def test_missing_runs_are_done_once_in_the_order_asked_for(quick: None, run: Callable, tmp_path: Path) -> None:
    results = Store(tmp_path / "results" / "x.jsonl")
    settings = wanted(tmp_path)
    assert results.records() == {}
    assert squares(results.run(run, settings[:2], jobs=1)) == [0, 1]
    assert calls(tmp_path) == [0, 1]
    assert squares(results.run(run, settings[::-1], jobs=1)) == [16, 9, 4, 1, 0]
    assert calls(tmp_path) == [4, 3, 2]
    assert squares(results.run(run, settings, jobs=2)) == [0, 1, 4, 9, 16]
    assert calls(tmp_path) == []
    assert squares(list(Store(results.path).records().values())) == [0, 1, 4, 9, 16]  # the file is in this order too
    assert results.run(run, settings[3:4], jobs=1)[0] == results.records()[key(settings[3])]
    assert len(results.records()) == 5


def test_settings_that_are_asked_for_twice_are_run_once(quick: None, run: Callable, tmp_path: Path) -> None:
    settings = wanted(tmp_path, 2)
    assert squares(Store(tmp_path / "x.jsonl").run(run, [*settings, *settings], jobs=1)) == [0, 1, 0, 1]
    assert calls(tmp_path) == [0, 1]


def test_nothing_to_do(quick: None, run: Callable, tmp_path: Path) -> None:
    assert Store(tmp_path / "x.jsonl").run(run, []) == []
    assert not (tmp_path / "x.jsonl").exists()


def test_fresh_does_all_again_and_leaves_other_settings_alone(
    quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, settings = Store(tmp_path / "x.jsonl"), wanted(tmp_path)
    results.run(run, settings, jobs=1)
    lines = results.path.read_bytes().splitlines()
    calls(tmp_path)
    monkeypatch.setattr(store, "code_digest", lambda experiment: "1" * 16)
    fresh = results.run(run, settings[:2], jobs=1, fresh=True)
    assert squares(fresh) == [0, 1]
    assert [record["origin"]["code"][0] for record in fresh] == ["1", "1"]
    assert calls(tmp_path) == [0, 1]
    assert len(results.path.read_bytes().splitlines()) == 5  # the old ones are gone
    assert results.path.read_bytes().splitlines()[2:] == lines[2:]


@pytest.mark.parametrize(
    ("jobs", "count", "workers"),
    [(3, 5, 3), (3, 2, 2), (1, 5, 1), (None, 2 * cpu_count(), cpu_count())],
    ids=["fewer jobs", "fewer runs", "one job", "a job for each core"],
)
def test_as_many_workers_as_jobs_but_not_more_than_runs(
    quick: None, here: mock.Mock, run: Callable, tmp_path: Path, jobs: int | None, count: int, workers: int
) -> None:
    Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path, count), jobs=jobs)
    assert here.call_args.args[2] == workers


def test_runs_in_other_processes(module: Callable[..., ModuleType], tmp_path: Path) -> None:
    """Each on one core; one that fails is told, and the others are kept."""
    experiment, results = module(), Store(tmp_path / "x.jsonl")
    settings = wanted(tmp_path, 4)
    settings[1]["error"] = "no such number"
    with pytest.raises(RuntimeError, match=r"1 of 4 runs failed:\n\{.*'number': 1.*\}: ValueError: no such number"):
        results.run(experiment.run, settings, jobs=1)
    assert calls(tmp_path) == [0, 1, 2, 3]
    records = results.run(experiment.run, [settings[i] for i in (0, 2, 3)], jobs=1)
    assert squares(records) == [0, 4, 9]
    assert calls(tmp_path) == []
    assert os.getpid() not in {record["result"]["process"] for record in records}
    assert {record["result"]["threads"] for record in records} == {1}


def test_failures_are_listed_and_all_else_is_kept(quick: None, module: Callable, tmp_path: Path) -> None:
    experiment, results = module(), Store(tmp_path / "x.jsonl")
    settings = wanted(tmp_path)
    results.run(experiment.run, settings[3:], jobs=1)
    settings[0]["error"], settings[2]["error"] = "first", "second"
    with pytest.raises(RuntimeError) as told:
        results.run(experiment.run, settings, jobs=1)
    first, *lines = str(told.value).splitlines()
    assert first == "2 of 3 runs failed:"
    assert [line.rpartition(": ")[2].split()[0] for line in sorted(lines)] == ["first", "second"]
    assert all(str(settings[i]) in str(told.value) for i in (0, 2))
    assert sorted(record["settings"]["number"] for record in results.records().values()) == [1, 3, 4]
    for name, message in (("nothing", "NoneType"), ("no_number", "must be numbers, .* got object")):
        with pytest.raises(RuntimeError, match=rf"1 of 1 runs failed:\n\{{\}}: TypeError: .*{message}"):
            results.run(getattr(experiment, name), [{}], jobs=1)
    assert len(results.records()) == 3


def test_a_fresh_run_that_fails_leaves_the_old_record(quick: None, module: Callable, tmp_path: Path) -> None:
    fails = "import os\ndef run(number):\n    if os.path.exists(__file__ + 'x'):\n        1 / 0\n    return {}\n"
    experiment, results = module(fails), Store(tmp_path / "x.jsonl")
    results.run(experiment.run, [{"number": 1}], jobs=1)
    content = results.path.read_bytes()
    Path(f"{experiment.__file__}x").touch()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        results.run(experiment.run, [{"number": 1}], jobs=1, fresh=True)
    assert results.path.read_bytes() == content


def test_a_sweep_that_is_stopped_tells_what_is_kept_of_it_and_what_failed(
    quick: None, here: mock.Mock, run: Callable, tmp_path: Path
) -> None:
    def stopped(task: Callable, arguments: list, jobs: int) -> Iterator[tuple[int, Any]]:
        yield from one_by_one(task, arguments[:2], jobs)
        raise KeyboardInterrupt

    results, settings = Store(tmp_path / "x.jsonl"), wanted(tmp_path)
    results.run(run, settings[3:], jobs=1)  # of another sweep
    settings[1]["error"] = "no such number"
    here.side_effect = stopped
    told = (
        r"stopped: 1 of 3 runs are kept in .*x\.jsonl; .* from there\n\{.*'number': 1.*\}: ValueError: no such number"
    )
    with pytest.raises(KeyboardInterrupt, match=told):
        results.run(run, settings[:3], jobs=1)


def test_numbers_of_numpy_and_torch_are_results(quick: None, module: Callable, tmp_path: Path) -> None:
    [record] = Store(tmp_path / "x.jsonl").run(module().arrays, [{}])
    result = record["result"]
    assert np.isnan(result["tensor"].pop())
    assert result == {
        "float": 0.1,
        "single": 0.5,
        "integer": 7,
        "bool": True,
        "array": [[0, 1, 2], [3, 4, 5]],
        "tensor": [0.5],
        "scalar": 3,
        "list": [1, 2, "three"],
    }


def test_numbers_of_numpy_are_settings(quick: None, run: Callable, tmp_path: Path) -> None:
    results, [plain] = Store(tmp_path / "x.jsonl"), wanted(tmp_path, 1)
    assert squares(results.run(run, [plain | {"number": np.int64(3), "sleep": np.float64(0)}], jobs=1)) == [9]
    assert squares(results.run(run, [{"sleep": 0.0, **plain, "number": 3}], jobs=1)) == [9]
    assert calls(tmp_path) == [3]


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_progress(
    quick: None, run: Callable, tmp_path: Path, progress: bool | None, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path), jobs=1, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("5/5" in err) == shown
    assert (err == "") == (not shown)


def test_progress_in_a_terminal(quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path), jobs=1)
    assert "5/5" in sys.stderr.getvalue()  # type: ignore[attr-defined]


# Damage


def damaged(lines: list[bytes], what: str) -> bytes:
    """A file of five lines whose third is damaged, or whose last is cut off."""
    if what == "cut off":
        return b"".join(lines)[:-20]
    if what == "newline missing":
        return b"".join(lines)[:-1]
    third = {
        "wrong digit": lines[2].replace(b'"square": 4', b'"square": 5'),
        "wrong bit": lines[2][:100] + bytes([lines[2][100] ^ 0x80]) + lines[2][101:],
        "wrong checksum": b"0" * 16 + lines[2][16:],
        "no checksum": lines[2][17:],
        "garbage": b"garbage\n",
        "no text": bytes(range(256)) + b"\n",
        "line break": lines[2][:60] + b"\n" + lines[2][60:],
        "empty line": b"\n",
        "lost": b"",
    }
    return b"".join([*lines[:2], third[what], *lines[3:]])


@pytest.mark.parametrize(
    ("what", "redone"),
    [
        ("cut off", [4]),
        ("newline missing", []),
        *((what, [2]) for what in ("wrong digit", "wrong bit", "wrong checksum", "no checksum", "garbage", "no text")),
        *((what, [2]) for what in ("line break", "empty line", "lost")),
    ],
)
def test_damage_is_noticed_and_done_again(
    quick: None, run: Callable, tmp_path: Path, what: str, redone: list[int]
) -> None:
    results, settings = Store(tmp_path / "x.jsonl"), wanted(tmp_path)
    results.run(run, settings, jobs=1)
    lines = results.path.read_bytes().splitlines(keepends=True)
    calls(tmp_path)
    results.path.write_bytes(damaged(lines, what))
    assert squares(list(results.records().values())) == [n**2 for n in range(5) if n not in redone]
    assert squares(results.run(run, settings, jobs=1)) == [0, 1, 4, 9, 16]
    assert calls(tmp_path) == redone
    mended = results.path.read_bytes().splitlines(keepends=True)
    assert len(mended) == 5
    assert [line for n, line in enumerate(mended) if n not in redone] == [
        line for n, line in enumerate(lines) if n not in redone
    ]


def test_each_run_is_on_the_disk_when_it_ends(
    quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("os.fsync", lambda number: sizes.append(os.fstat(number).st_size))
    Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path, 3), jobs=1)
    lines = (tmp_path / "x.jsonl").read_bytes().splitlines(keepends=True)
    assert sizes[:3] == list(np.cumsum([len(line) for line in lines]))


@pytest.mark.skipif(store.fcntl is None, reason="no locks on Windows")
def test_a_record_goes_into_the_file_that_took_the_old_ones_place(
    quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this sweep waits for the file, another one rewrites it, at each of the first two times."""
    path, lock, waits = tmp_path / "x.jsonl", store.fcntl.flock, []

    def wait(file: Any, kind: int) -> None:
        waits.append(kind)
        if len(waits) < 3:
            write_whole(path, path.read_bytes())
        lock(file, kind)

    monkeypatch.setattr(store.fcntl, "flock", wait)
    assert squares(Store(path).run(run, wanted(tmp_path, 1), jobs=1)) == [0]
    assert len(waits) == 4  # the third to add the record, the fourth to put all in order


def test_an_empty_file_is_a_store_without_runs(quick: None, run: Callable, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    assert Store(tmp_path / "x.jsonl").records() == {}
    assert squares(Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path, 2), jobs=1)) == [0, 1]


def be_killed(folder: str) -> None:
    """In a process of its own: start twelve runs of 30 ms, and kill them again and again, until all are done.

    What was written outlives the process, so there is no need to wait for the disk.
    """
    sys.path.insert(0, folder)
    run = importlib.import_module("experiment").run
    rng = np.random.default_rng(0)
    for attempt in range(40):
        child = os.fork()
        if child == 0:
            with (
                mock.patch.multiple(store, commit=str, code_digest=str),
                mock.patch.object(workers, "local", one_by_one),
                mock.patch("os.fsync"),
            ):
                Store(Path(folder) / "x.jsonl").run(run, wanted(Path(folder), 12, sleep=0.03), jobs=1)
            os._exit(0)
        time.sleep(rng.uniform(0.05, 0.2) + 0.01 * attempt)
        os.kill(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(ended, flush=True)
        if ended == 0:
            break


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_loses_what_was_under_way_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    command = [sys.executable, "-c", f"from tests.test_store import be_killed; be_killed({str(tmp_path)!r})"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    ended = [int(line) for line in done.stdout.split()]
    assert ended[-1] == 0
    assert set(ended[:-1]) == {-signal.SIGKILL}
    numbers = calls(tmp_path)
    assert set(numbers) == set(range(12))
    assert 12 <= len(numbers) <= 12 + 2 * (len(ended) - 1)  # the next may begin while the last is being written
    assert squares(list(Store(tmp_path / "x.jsonl").records().values())) == [n**2 for n in range(12)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "experiment.py",
        "x.jsonl",
    ]


# Settings and code


def test_the_key_does_not_depend_on_the_order_or_the_kind_of_numbers() -> None:
    plain = {"seed": 3, "rates": [0.5, 2], "name": "x"}
    assert re.fullmatch(r"[0-9a-f]{16}", key(plain))
    for other in (
        {"name": "x", "rates": [0.5, 2], "seed": 3},
        {"name": "x", "rates": (0.5, 2), "seed": np.int32(3)},
        {"name": np.str_("x"), "rates": [np.float64(0.5), torch.tensor(2)], "seed": 3},
    ):
        assert key(other) == key(plain)
    others = ({**plain, "seed": 4}, {**plain, "rates": [2, 0.5]}, {**plain, "more": None}, {"seed": 3})
    assert len({key(each) for each in (plain, *others)}) == 5


CODE = """
def run(seed):
    total = 0
    for i in range(3):
        total += i * seed
    return {"total": total}
"""
SAME_CODE = '''
"""What it is for."""
# A comment.

def run(seed):
    """Return the total."""
    total = 0  # at first

    for i in range(
        3,
    ):
        """Not a docstring, but no code either."""
        total += (i * seed)
    return {'total': total}
'''


def test_the_digest_of_the_code_sees_code_only(module: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = code_digest(module(CODE).run)
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    assert code_digest(module(CODE).run) == digest
    assert code_digest(module(SAME_CODE).run) == digest
    for old, new in (("range(3)", "range(4)"), ("+=", "-="), ('"total"', '"sum"'), ("i * seed", "seed * i")):
        assert code_digest(module(CODE.replace(old, new)).run) != digest


def test_the_digest_of_the_code_covers_what_the_function_uses_of_its_module(module: Callable) -> None:
    used = "ONE, TWO = 1, 2\n\ndef add(total, i):\n    return total + ONE * i\n\n"
    code = used + CODE.replace("total += i * seed", "total = add(total, i)")
    digest = code_digest(module(code).run)
    for old, new in (("ONE, TWO = 1", "ONE, TWO = 3"), ("total + ONE", "total - ONE"), ("total = add", "ONE = add")):
        assert code_digest(module(code.replace(old, new)).run) != digest, new
    changing = "SIZES = {}\nSIZES['a'] = 1\n\n" + code.replace("range(3)", "range(SIZES['a'])")
    changed = changing.replace("['a'] = 1", "['a'] = 2")
    assert code_digest(module(changing).run) != code_digest(module(changed).run)
    unused = "\ndef report(records):\n    print(run(1), records)\n\nif __name__ == '__main__':\n    report([])\n"
    assert code_digest(module(code + unused).run) == digest


def test_the_digest_of_the_code_covers_what_training_runs(
    module: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A constant changed in any of these modules changes it; and no module that these import is left out."""
    run = module(CODE).run
    digest, read = code_digest(run), provenance.inspect.getsource
    for name in provenance.CORE:
        one = importlib.import_module(f"scb_nb.{name}")
        changed = lambda m, one=one: read(m) + ("\nnew = 1\n" if m is one else "")  # noqa: E731
        monkeypatch.setattr(provenance.inspect, "getsource", changed)
        assert code_digest(run) != digest, name
    monkeypatch.undo()
    names = re.compile(r"from scb_nb(?:\.(\w+))? import ([\w, ]+)")
    imported = set()
    for name in provenance.CORE:
        for of, what in names.findall((ROOT / "scb_nb" / f"{name}.py").read_text()):
            imported |= {of} if of else set(what.split(", "))
    assert imported - set(provenance.CORE) == {"checkpoint"}  # what a run is saved to, if it is


def with_line(line: str, name: str) -> Callable[[ModuleType], str]:
    """Reads sources; there is a line more at the end of that module of the package."""
    read, one = provenance.inspect.getsource, importlib.import_module(f"scb_nb.{name}")
    return lambda module: read(module) + (f"\n{line}\n" if module is one else "")


USES = {
    "a class": ("from scb_nb.rivals import Trim", {"rivals"}),
    "a function": ("from scb_nb.estimators import chi_squared as other_name", {"estimators"}),
    "what a class made": ("from scb_nb.rivals import Trim\nSTAGES = Trim()\ndel Trim", {"rivals"}),
    "two modules": (
        "from scb_nb.rivals import Trim\nfrom scb_nb.estimators import Estimate",
        {"rivals", "estimators"},
    ),
    "the store, and others": ("import numpy as np\nfrom scb_nb.store import kept, key", set()),
    "what all training runs": ("from scb_nb import SCBTask, fit", set()),
}


@pytest.mark.parametrize(("imports", "covered"), USES.values(), ids=USES.keys())
def test_the_digest_of_the_code_covers_what_the_experiment_imports_from(
    imports: str, covered: set[str], module: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in a module of the package that it does not use changes nothing; a comment never does."""
    monkeypatch.setattr(provenance, "CORE", ["stages", "task", "training"])  # for a quick test
    run = module(f"{imports}\n{CODE}").run
    digest = code_digest(run)
    for name in ("rivals", "estimators", "figures", "files", "store", "stages"):
        for line, sees in (("new = 1", name in covered | {"stages"}), ("# New.", False)):
            with monkeypatch.context() as patched:
                patched.setattr(provenance.inspect, "getsource", with_line(line, name))
                assert (code_digest(run) != digest) == sees, name


@pytest.mark.parametrize(("name", "covered"), [("rivals", {"rivals"}), ("price", {"rivals", "estimators"})])
def test_the_digests_of_the_book_cover_the_rivals_and_estimators_that_they_run(
    name: str, covered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = importlib.import_module(f"experiments.{name}").run
    digest = code_digest(run)
    for other in ("rivals", "estimators"):
        with monkeypatch.context() as patched:
            patched.setattr(provenance.inspect, "getsource", with_line("new = 1", other))
            assert (code_digest(run) != digest) == (other in covered)


# Where results come from


def test_every_record_tells_its_origin(here: mock.Mock, module: Callable, tmp_path: Path) -> None:
    run = module().run
    [record] = Store(tmp_path / "x.jsonl").run(run, wanted(tmp_path, 1, sleep=0.11), jobs=1)
    assert set(record) == {"settings", "result", "origin"}
    assert record["settings"] == wanted(tmp_path, 1, sleep=0.11)[0]
    told = record["origin"]
    assert 0.1 < told["seconds"] < 30
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["date"])
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", told["commit"])
    assert told["code"] == code_digest(run)
    assert told["versions"]["scb_nb"] == scb_nb.__version__
    assert set(told["versions"]) == {"python", "scb_nb", "numpy", "torch"}
    assert told["machine"].endswith(sys.platform)
    assert told["device"] == "cpu"
    assert set(told) == {"date", "seconds", "commit", "code", "versions", "machine", "device"}


def test_the_commit_has_a_plus_if_the_package_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "repository" / "package"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "store.py"))
    assert provenance.commit() == "unknown"
    (package / "store.py").write_text("x = 1\n")
    (package.parent / "other.py").write_text("x = 1\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(package.parent), *command], check=True, capture_output=True)
    assert re.fullmatch(r"[0-9a-f]{40}", provenance.commit())
    (package.parent / "other.py").write_text("x = 2\n")
    assert re.fullmatch(r"[0-9a-f]{40}", provenance.commit())
    (package / "store.py").write_text("x = 2\n")
    assert re.fullmatch(r"[0-9a-f]{40}\+", provenance.commit())


def record_of(date: str, commit: str, seconds: float, machine: str = "x86_64 linux") -> dict:
    return {"origin": {"date": f"{date}T12:00:00+00:00", "commit": commit, "seconds": seconds, "machine": machine}}


def test_the_line_of_origin() -> None:
    one = record_of("2031-05-06", "0123456789abcdef", 60)
    assert origin([one]) == "1 runs, 2031-05-06, commit 0123456, x86_64 linux, 1 core minutes"
    records = [one, record_of("2031-05-04", "fedcba9876543210+", 1_000, "arm64 darwin"), one]
    line = origin(records)
    assert line.startswith("3 runs, 2031-05-04 to 2031-05-06, commit 0123456, fedcba9")
    assert line.endswith("arm64 darwin and x86_64 linux, 19 core minutes")


def test_kept_results(quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    records = Store(tmp_path / "squares.jsonl").run(run, wanted(tmp_path), jobs=1)
    assert kept("squares") == records
    with pytest.raises(FileNotFoundError, match=r"no results at .*cubes\.jsonl: .* python -m experiments\.cubes makes"):
        kept("cubes")


def test_the_results_come_with_the_package() -> None:
    assert Path(scb_nb.__file__).parent / "results" == store.FOLDER


# The command line


@pytest.fixture
def command(
    quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    monkeypatch.setattr(common, "FOLDER", tmp_path)
    monkeypatch.setattr(common, "code_digest", store.code_digest)

    def call(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        common.main("x", run, wanted(tmp_path, 3), lambda records: print(squares(records)), "Squares.")
        return capsys.readouterr().out.splitlines()

    return call


def test_the_command_line_runs_what_is_missing_and_reports(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, source = command("--jobs", "1")
    assert report == "[0, 1, 4]"
    assert source.startswith("3 runs, ")
    assert calls(tmp_path) == [0, 1, 2]
    assert command() == [report, source]
    assert calls(tmp_path) == []
    monkeypatch.setattr(common, "code_digest", lambda run: "another")
    assert command()[2:] == ["3 of 3 runs are older than the code: --fresh does them again"]


def test_the_command_line_does_all_again_if_asked(command: Callable, tmp_path: Path) -> None:
    command()
    calls(tmp_path)
    assert command("--fresh", "--jobs", "1")[0] == "[0, 1, 4]"
    assert calls(tmp_path) == [0, 1, 2]


@pytest.fixture
def tuned(
    quick: None, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """The command line of an experiment that takes up the best of two numbers that were tried before."""
    monkeypatch.setattr(common, "FOLDER", tmp_path)
    monkeypatch.setattr(common, "code_digest", store.code_digest)
    tuning = [{"number": number, "folder": str(tmp_path)} for number in (10, 11)]

    def settings() -> list[dict]:
        tried = Store(tmp_path / "x_tuning.jsonl").records().values()
        best = max(tried, key=lambda record: record["result"]["square"])["settings"]["number"]
        return [{"number": number, "folder": str(tmp_path)} for number in (best + 1, 1)]

    def call(*arguments: str, **changes: Any) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["x", "--jobs", "1", *arguments])
        options: dict[str, Any] = {"settings": settings, "tuning": tuning, **changes}
        common.main("x", run, report=lambda records: print(squares(records)), description=None, **options)
        return capsys.readouterr().out.splitlines()

    return call


def test_tuning_comes_first_and_the_runs_depend_on_it(tuned: Callable, tmp_path: Path) -> None:
    """It is kept apart, is not reported, and is not done twice."""
    report, source = tuned()
    assert report == "[144, 1]"
    assert source.startswith("2 runs, ")
    assert calls(tmp_path) == [10, 11, 12, 1]
    assert squares(list(Store(tmp_path / "x_tuning.jsonl").records().values())) == [100, 121]
    assert squares(list(Store(tmp_path / "x.jsonl").records().values())) == [144, 1]
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["x.jsonl", "x_tuning.jsonl"]
    assert tuned() == [report, source]
    assert calls(tmp_path) == []
    assert tuned("--fresh")[0] == report
    assert calls(tmp_path) == [10, 11, 12, 1]


def test_old_tuning_counts_as_old(tuned: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(tuned()) == 2
    monkeypatch.setattr(common, "code_digest", lambda experiment: "1" * 16)
    assert tuned()[-1].startswith("4 of 4 runs are older than the code")


def test_more_tuning_may_choose_another_run(tuned: Callable, tmp_path: Path) -> None:
    tuned()
    calls(tmp_path)
    more = [{"number": number, "folder": str(tmp_path)} for number in (10, 11, 20)]
    assert tuned(tuning=more)[0] == "[441, 1]"
    assert calls(tmp_path) == [20, 21]
    assert len(Store(tmp_path / "x.jsonl").records()) == 3  # the former winner's is kept


def test_nothing_is_chosen_after_a_tuning_that_failed(tuned: Callable, tmp_path: Path) -> None:
    bad = [{"number": 5, "folder": str(tmp_path)}, {"number": 6, "folder": str(tmp_path), "error": "no such number"}]
    with pytest.raises(RuntimeError, match="1 of 2 runs failed:"):
        tuned(tuning=bad)
    assert calls(tmp_path) == [5, 6]
    assert not (tmp_path / "x.jsonl").exists()


def test_without_tuning_settings_may_be_a_function_or_a_list(tuned: Callable, tmp_path: Path) -> None:
    chosen = [{"number": 3, "folder": str(tmp_path)}]
    for given in (chosen, lambda: chosen):
        assert tuned(settings=given, tuning=())[0] == "[9]"
    assert calls(tmp_path) == [3]
    assert not (tmp_path / "x_tuning.jsonl").exists()


def test_the_help_says_what_the_experiment_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And runs nothing."""
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        common.main("x", math.gcd, pytest.fail, pytest.fail, "Squares.\n\nBy line.", tuning=[{"number": 1}])
    told = capsys.readouterr().out
    assert "python -m experiments.x" in told
    assert "Squares.\n\nBy line." in told


@pytest.mark.parametrize("arguments", [("--jobs", "0"), ("--jobs", "two"), ("--fast",)], ids=" ".join)
def test_the_command_line_refuses_what_it_does_not_know(command: Callable, arguments: tuple[str, ...]) -> None:
    with pytest.raises((SystemExit, ValueError)):
        command(*arguments)


def test_the_interval_of_a_median() -> None:
    assert common.interval([0.25]) == (0.25, 0.25)
    assert common.interval([3, 3, 3, 3]) == (3, 3)
    rng = np.random.default_rng(0)
    values = rng.normal(size=21)
    low, high = common.interval(values)
    assert low < np.median(values) < high
    assert common.interval(values) == (low, high)
    wider = common.interval(values, level=0.99)
    assert wider[0] <= low < high <= wider[1]


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """About 90% of 300 intervals from 21 numbers each; 1.7% is one standard error."""
    rng = np.random.default_rng(0)
    ends = np.array([common.interval(rng.exponential(size=21), draws=500) for _ in range(300)])
    inside = (ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])
    assert inside.mean() == pytest.approx(0.9, abs=0.07)


def test_the_bar_runs_twenty_tasks_of_each_size_with_and_without_mu() -> None:
    settings = bar.settings()
    assert len(settings) == len({key(each) for each in settings}) == len(bar.SIZES) * 2 * bar.TASKS
    result = bar.run(seq_len=60, vocab_size=3, sparsity=2, seed=1, mu_known=True)
    assert (result["outcome"], result["missed"], result["false"]) == ("finished", 0, 0)
    assert max(result["error_V"], result["error_A"]) < 0.05


def test_the_report_of_the_bar_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that takes more samples than it may counts as little as one with a wrong support."""
    names = ("K_P", "outcome", "samples", "missed", "false", "error_V", "error_A")
    results = [
        dict(zip(names, values, strict=True))
        for values in (
            (0.3, "finished", 100_000, 0, 0, 0.01, 0.02),
            (0.3, "finished", 200_000, 1, 0, 0.03, 0.5),
            (0.3, "finished", 9_000_000, 0, 0, 0.02, 0.01),
        )
    ]
    records = [
        {"settings": {"seq_len": T, "vocab_size": N, "sparsity": S, "mu_known": known}, "result": result}
        for T, N, S in bar.SIZES
        for known in (True, False)
        for result in results
    ]
    bar.report(records)
    _, first, *_ = lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * len(bar.SIZES)
    assert " ".join(first.split()) == "500 3 2 known 1/3 200,000 (9,000,000) 0.0200 (0.0300) 0.0200 (0.5000)"


# Files


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_whole(path, b"first")
    assert path.read_bytes() == b"first"
    write_whole(path, b"second, and longer")
    write_whole(path, b"")
    assert path.read_bytes() == b""
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(f"os.{step}", mock.Mock(side_effect=OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("step", "content"), [("fsync", b"old"), ("replace", b"old"), ("unlink", b"new")])
def test_a_write_that_is_killed_leaves_the_old_file_or_the_new_one(step: str, content: bytes, tmp_path: Path) -> None:
    """And nothing else, once the next write is done."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    script = f"""
import os, pathlib, runpy, signal
files = runpy.run_path({str(ROOT / "scb_nb" / "files.py")!r})
killed = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
os.{step} = killed
files["write_whole"](pathlib.Path({str(path)!r}), b"new")
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        if step != "unlink":
            assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == content
    write_whole(path, b"newest")
    assert path.read_bytes() == b"newest"
    assert os.listdir(tmp_path) == ["file"]


def test_records_are_lines_of_json_behind_a_checksum(quick: None, run: Callable, tmp_path: Path) -> None:
    """So that they can be read without the package, and compared line by line."""
    results = Store(tmp_path / "x.jsonl")
    records = results.run(run, wanted(tmp_path, 3), jobs=1)
    lines = results.path.read_text().splitlines()
    assert [json.loads(line.partition(" ")[2]) for line in lines] == records
    assert all(re.match(r"[0-9a-f]{16} \{", line) for line in lines)
