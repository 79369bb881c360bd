"""Sweeps: the same results in processes, on a cluster, and after any number of kills; a failure stops nothing else."""

import contextlib
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest

from experiments import common
from scb_nb import SCBTask, align, fit, runs, store, workers
from scb_nb.store import RunsFailed, Store
from scb_nb.sweeps import grid, main, recover
from tests.helpers import Terminal

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

ROOT = Path(__file__).parents[1]
TO_START = 60  # seconds that processes may take to start, on a machine with much else to do

EXPERIMENT = '''
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def run(seed, size=50, sleep=0.0):
    """Floats that would differ if threads or seeds did; and a note of the call."""
    with open(HERE / "calls", "a") as file:
        file.write(f"{seed}\\n")
    time.sleep(sleep)
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return {"trace": torch.linalg.matrix_power(x / 7, 9).trace(), "mean": np.random.default_rng(seed).normal(size=3)}


def where(seed):
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # Ctrl-C is for the process that waits
    blas = os.environ.get("OMP_NUM_THREADS")
    return {"process": os.getpid(), "threads": torch.get_num_threads(), "blas": blas, "deaf": deaf}


def long(seed):
    (HERE / f"begun {os.getpid()}").touch()
    time.sleep(60)


def moody(seed, fatal=(), once=()):
    if seed in fatal:
        os._exit(3)
    if seed in once and not (HERE / f"tried {seed}").exists():
        (HERE / f"tried {seed}").touch()
        os._exit(3)
    if seed % 4 == 1:
        raise ValueError(f"no {seed}")
    if seed % 4 == 2:
        raise SystemExit(2)
    return {"seed": seed}
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module of experiments, in a folder that other processes find."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "swept.py").write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("swept")
        sys.modules.pop("swept", None)


@pytest.fixture(scope="module")
def cluster(module: ModuleType) -> Iterator[str]:
    """Two worker processes and their scheduler, by its address."""
    options = {"dashboard_address": ":0", "silence_logs": 50, "host": "127.0.0.1"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as made:
        yield made.scheduler_address


def compared(records: list[dict]) -> list[tuple[dict, dict]]:
    return [(record["settings"], record["result"]) for record in records]


def calls(module: ModuleType) -> list[int]:
    """The seeds of the runs since the last look."""
    path = Path(str(module.__file__)).parent / "calls"
    seeds = [int(line) for line in path.read_text().split()] if path.exists() else []
    path.unlink(missing_ok=True)
    return seeds


# The same, wherever it is done


def test_a_cluster_and_processes_give_the_same_results(module: ModuleType, cluster: str, tmp_path: Path) -> None:
    """Bit for bit, in the same order; on each of two workers, whom the records name. What is kept is not done again."""
    settings = grid(seed=range(12), size=[40, 60], sleep=0.05)
    records = Store(tmp_path / "cluster.jsonl").run(module.run, settings, cluster=cluster)
    assert len(calls(module)) == 24
    assert compared(records) == compared(Store(tmp_path / "local.jsonl").run(module.run, settings, jobs=2))
    assert len(calls(module)) == 24
    with distributed.Client(cluster, set_as_default=False) as client:
        assert {record["origin"]["worker"] for record in records} == set(client.nthreads())
        assert len(client.nthreads()) == 2
        assert Store(tmp_path / "local.jsonl").run(module.run, settings, cluster=client)[0]["settings"] == settings[0]
        assert calls(module) == []
        [record] = Store(tmp_path / "where.jsonl").run(module.where, [{"seed": 0}], cluster=client)
        assert record["result"]["threads"] == 1
        assert record["result"]["process"] != os.getpid()
        assert client.status == "running"  # it is the caller's


def test_processes_keep_to_one_core_and_end_with_the_sweep(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # not for them
    records = Store(tmp_path / "x.jsonl").run(module.where, grid(seed=range(8)), jobs=2)
    assert {record["result"]["threads"] for record in records} == {1}
    assert {record["result"]["blas"] for record in records} == {"1"}
    assert all(record["result"]["deaf"] for record in records)
    deadline = time.monotonic() + 10
    for process in {record["result"]["process"] for record in records} - {os.getpid()}:
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{process}").exists()


# Kills


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def be_killed(folder: str, kills: int, cluster: str | None = None) -> None:
    """In a process of its own: sweep, and be killed at random moments; then sweep to the end. Prints what was kept.

    Half the kills take the workers too, half leave them to notice. Processes are forked, since a second for each to
    start would leave little but starts to be killed.
    """
    from joblib.externals.loky.backend.context import set_start_method

    sys.path.insert(0, folder)
    run = importlib.import_module("swept").run
    with warnings.catch_warnings(action="ignore"):
        set_start_method("fork", force=True)
    rng, size, sizes = random.Random(0), 300, []
    path = Path(folder) / "killed.jsonl"
    where = {"jobs": 2} if cluster is None else {"cluster": cluster}
    while True:
        child = os.fork()
        if child == 0:
            os.setsid()
            with mock.patch.object(store, "commit", str):
                Store(path).run(run, grid(seed=range(size), sleep=0.02), **where)
            os._exit(0)
        if len(sizes) < kills:
            before, deadline = size_of(path), time.monotonic() + TO_START
            # A third is killed somewhere on the way to its first run, the others after it.
            while len(sizes) % 3 and size_of(path) <= before and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            (os.kill if rng.random() < 0.5 else os.killpg)(child, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        kept = len(Store(path).records())
        if ended == 0 and len(sizes) == kills:
            break
        if ended == -signal.SIGKILL:
            assert kept >= (sizes[-1] if sizes else 0), "a run was lost"
            sizes.append(kept)
        else:
            assert ended == 0
            size += 100  # it was done before it was killed
    print(size, *sizes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("where", "kills"), [("processes", 30), ("cluster", 8)])
def test_killed_at_any_moment_a_sweep_goes_on(
    where: str, kills: int, module: ModuleType, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Thirty times: nothing is lost, only what was under way is done again, and the results are those of one sweep."""
    address = request.getfixturevalue("cluster") if where == "cluster" else None
    folder = Path(str(module.__file__)).parent
    calls(module)
    command = f"from tests.test_sweeps import be_killed; be_killed({str(folder)!r}, {kills}, {address!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    size, *kept = map(int, done.stdout.split())
    assert len(kept) == kills
    assert len(set(kept)) > kills // 4, "killed before anything was done"
    settings, path = grid(seed=range(size), sleep=0.02), folder / "killed.jsonl"
    seeds = calls(module)
    assert set(seeds) == set(range(size))
    assert len(seeds) <= size + 6 * kills
    lines = path.read_bytes().splitlines()
    assert len(lines) == size
    with mock.patch.object(workers, "local", one_by_one):
        unbroken = Store(tmp_path / "unbroken.jsonl").run(module.run, settings)
        assert compared(list(Store(path).records().values())) == compared(unbroken)
    path.unlink()
    assert not [each for each in folder.iterdir() if each.suffix in (".part", ".lock")]


def one_by_one(task: Callable, arguments: list, jobs: int) -> Iterator[tuple[int, object]]:
    """Stands in for processes."""
    with mock.patch("time.sleep"):
        yield from ((index, task(argument)) for index, argument in enumerate(arguments))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"  # ended, and nobody has looked
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_worker_outlives_a_sweep_that_was_killed(module: ModuleType, tmp_path: Path) -> None:
    """Not even one that has a long run to do."""
    folder = Path(str(module.__file__)).parent
    script = f"""
import sys
sys.path.insert(0, {str(folder)!r})
import swept
from scb_nb.store import Store
Store({str(tmp_path / "x.jsonl")!r}).run(swept.long, [{{"seed": seed}} for seed in range(20)], jobs=2)
"""
    sweep = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    deadline = time.monotonic() + TO_START
    while not any(folder.glob("begun *")) and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    assert any(folder.glob("begun *"))
    time.sleep(1.0)  # also the other may have begun by now
    deadline = time.monotonic() + 10
    for process in [int(path.name.split()[1]) for path in folder.glob("begun *")]:
        while alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(process)


def test_ctrl_c_keeps_what_is_done_and_says_so(module: ModuleType, tmp_path: Path) -> None:
    folder, path = Path(str(module.__file__)).parent, tmp_path / "x.jsonl"
    command = [sys.executable, "-m", "scb_nb.sweeps", "swept:run", "--set", "seed=0:200", "sleep=0.2", "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    sweep = subprocess.Popen(
        [*command, "--store", str(path)], env=environment, cwd=tmp_path, text=True, start_new_session=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + TO_START
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, told = sweep.communicate(timeout=TO_START)
    assert sweep.returncode == 130
    kept = len(Store(path).records())
    assert 0 < kept < 200
    assert told.strip() == f"stopped: {kept} of 200 runs are kept in {path}; the same call goes on from there"


# Failures


def test_a_run_that_takes_its_process_with_it_is_named(module: ModuleType, tmp_path: Path) -> None:
    """And so is any other that fails; all else is kept, also what was under way beside it."""
    settings = grid(seed=range(12), fatal=[[3]], once=[[7]])
    with pytest.raises(RunsFailed, match="7 of 12 runs failed:") as told:
        Store(tmp_path / "x.jsonl").run(module.moody, settings, jobs=2)
    why = {settings["seed"]: text for settings, text in told.value.failures}
    assert why.pop(3) == "Died: its process died, of a crash or for want of memory"
    assert {seed: text.split(" (")[0] for seed, text in why.items()} == {
        **{seed: f"ValueError: no {seed}" for seed in (1, 5, 9)},
        **dict.fromkeys((2, 6, 10), "SystemExit: 2"),
    }
    assert re.fullmatch(r"ValueError: no 1 \(swept.py, line \d+\)", why[1])
    kept = Store(tmp_path / "x.jsonl").records().values()
    assert sorted(record["result"]["seed"] for record in kept) == [0, 4, 7, 8, 11]
    assert "'seed': 3" in str(told.value)


def test_many_failures_are_listed_in_part(tmp_path: Path, module: ModuleType) -> None:
    with mock.patch.object(workers, "local", one_by_one), pytest.raises(RunsFailed) as told:
        Store(tmp_path / "x.jsonl").run(module.moody, grid(seed=range(1, 200, 4)))
    first, *lines, last = str(told.value).splitlines()
    assert (first, len(lines), last) == ("50 of 50 runs failed:", 20, "and 30 more")
    assert len(told.value.failures) == 50


# Bad clusters


def test_a_worker_that_is_lost_and_one_that_fails(module: ModuleType, cluster: str, tmp_path: Path) -> None:
    """Others do what it had to do."""
    with distributed.Client(cluster, set_as_default=False) as client:
        process = client.run(os.getpid).popitem()[1]
        timer = threading.Timer(0.7, os.kill, (process, signal.SIGKILL))
        timer.start()
        records = Store(tmp_path / "x.jsonl").run(module.run, grid(seed=range(40), sleep=0.1), cluster=client)
        timer.join()
        assert [record["settings"]["seed"] for record in records] == list(range(40))
        with pytest.raises(RunsFailed, match="2 of 4 runs failed") as told:
            Store(tmp_path / "y.jsonl").run(module.moody, grid(seed=range(4)), cluster=client)
        assert sorted(text.split(" (")[0] for _, text in told.value.failures) == ["SystemExit: 2", "ValueError: no 1"]
    calls(module)


def test_a_worker_that_is_lost_while_code_is_compared_is_no_refusal(module: ModuleType) -> None:
    client = mock.Mock()
    client.run.return_value = {"tcp://lost": OSError("closed"), "tcp://here": None}
    with (
        mock.patch.object(workers, "connected", return_value=contextlib.nullcontext(client)),
        mock.patch.object(workers, "on_cluster", return_value=iter([(0, "end")])),
    ):
        assert list(runs.all_of(module.run, [{"seed": 0}], 1, "tcp://x", "code")) == [(0, "end")]
        client.run.return_value = {"tcp://here": RuntimeError("its code differs")}
        with pytest.raises(RuntimeError, match=r"the worker tcp://here cannot do these runs: .*its code differs"):
            list(runs.all_of(module.run, [{"seed": 0}], 1, "tcp://x", "code"))


def test_a_run_that_kills_every_worker_is_named(module: ModuleType, tmp_path: Path) -> None:
    """Those that were there when it did are tried again, alone."""
    killed = distributed.scheduler.KilledWorker("task", None, 4)
    tried = []

    def submit(task: Callable, arguments: list, places: list[int], client: object) -> Iterator:
        tried.append(list(places))
        yield from (
            (place, killed if place in (1, 2) and (place == 1 or len(places) > 1) else place) for place in places
        )

    with mock.patch.object(workers, "_submit", submit):
        ends = dict(workers.on_cluster(str, list("abcd"), mock.Mock()))
    assert tried == [[0, 1, 2, 3], [1], [2]]
    assert (ends[0], ends[2], ends[3]) == (0, 2, 3)
    assert isinstance(ends[1], workers.Died)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("tcp://127.0.0.1:9", ConnectionError, "no Dask scheduler answers at 'tcp://127.0.0.1:9': .*0 of 1 runs"),
        ("nonsense", ConnectionError, "no Dask scheduler answers at 'nonsense': missing port"),
        (8786, TypeError, r"cluster must be an address such as 'tcp://host:8786' or a Dask Client, got 8786"),
    ],
)
def test_no_scheduler(
    address: object, error: type, message: str, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TO_CONNECT", 1)
    with pytest.raises(error, match=message):
        Store(tmp_path / "x.jsonl").run(module.run, [{"seed": 0}], cluster=address)  # type: ignore[arg-type]


def test_no_workers_or_workers_without_the_package(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FOR_WORKERS", 1)
    run = Store(tmp_path / "x.jsonl").run
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as made:
        address = made.scheduler_address
        with pytest.raises(ConnectionError, match="has had no workers for 1 seconds: 0 of 1 runs are kept"):
            run(module.run, [{"seed": 0}], cluster=address)
        # Without -S Python reads the files by which a package is installed to be edited.
        bare = [sys.executable, "-S", "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
        environment = os.environ | {"PYTHONPATH": str(Path(np.__file__).parents[1])}
        worker = subprocess.Popen(
            [*bare, "--no-dashboard"],
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            monkeypatch.setattr(workers, "FOR_WORKERS", TO_START)
            with pytest.raises(RuntimeError, match=r"the worker tcp://.* cannot do these runs: .*No module named"):
                run(module.run, [{"seed": 0}], cluster=address)
        finally:
            worker.kill()
            worker.wait()


def test_workers_with_other_code_are_refused(module: ModuleType, cluster: str, tmp_path: Path) -> None:
    with (
        mock.patch.object(store, "code_digest", return_value="0" * 16),
        pytest.raises(RuntimeError, match=r"the worker tcp://.* cannot do these runs: RuntimeError: its code differs"),
    ):
        Store(tmp_path / "x.jsonl").run(module.run, [{"seed": 0}], cluster=cluster)
    with pytest.raises(RuntimeError, match="its code differs"):
        runs._attempt_there("0" * 16, module.run, {"seed": 0})


def test_without_dask_it_says_what_to_install(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install scb_nb\[cluster\]"):
        Store(tmp_path / "x.jsonl").run(module.run, [{"seed": 0}], cluster="tcp://127.0.0.1:9")


# Several sweeps, one store


def sweep_over(path: str, folder: str, first: int) -> None:
    """In a process of its own: add to a store, and rewrite it, again and again."""
    sys.path.insert(0, folder)
    run = importlib.import_module("swept").run
    with (
        mock.patch.object(workers, "local", one_by_one),
        mock.patch.multiple(store, commit=str, code_digest=lambda run: ""),
        mock.patch("os.fsync"),
    ):
        for number in range(1, 60):
            Store(path).run(run, grid(seed=range(first, first + 2 * number, 2), size=3))


def test_two_sweeps_into_one_store_lose_nothing(module: ModuleType, tmp_path: Path) -> None:
    path, folder = tmp_path / "x.jsonl", Path(str(module.__file__)).parent
    command = "from tests.test_sweeps import sweep_over; sweep_over({!r}, {!r}, {})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", command.format(str(path), str(folder), first)], env=environment, cwd=ROOT
        )
        for first in (0, 1)
    ]
    assert [sweep.wait() for sweep in both] == [0, 0]
    seeds = [record["settings"]["seed"] for record in Store(path).records().values()]
    assert sorted(seeds) == list(range(118))
    assert len(path.read_bytes().splitlines()) == 118
    calls(module)


# Progress


@pytest.mark.parametrize(("show", "told"), [(None, False), (True, True), (False, False)])
def test_where_there_is_no_terminal_progress_comes_in_lines(
    show: bool | None, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with store._Progress(10, 4, show) as bar:
        for _ in range(6):
            bar.set_postfix(failed=1, refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines) == 2) == told
    if told:
        assert " 4/10 " in lines[0]
        assert " 10/10 " in lines[1]
        assert "failed=1" in lines[1]
        assert "\r" not in lines[1]


def test_a_long_sweep_tells_where_it_is_also_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A line when half a minute has gone by, with the time that is left."""
    now = mock.Mock(return_value=1_000.0)
    with mock.patch("tqdm.std.time", now), store._Progress(100, 0, None) as bar:
        for second in range(80):
            now.return_value = 1_001.0 + second
            bar.update()
        lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[-1].split("<")[0].split()[0] for line in lines] == ["30/100", "60/100"]
    assert "<00:4" in lines[1]


def test_a_sweep_with_nothing_to_do_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with store._Progress(3, 3, None):
        pass
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


# Grids


def test_a_grid_is_the_nested_loops_as_they_are_written() -> None:
    made = grid(seq_len=[100, 200], rate=0.5, seed=range(2), name="ab", pair=[[1, 2]])
    common = {"rate": 0.5, "name": "ab", "pair": [1, 2]}
    assert made == [{"seq_len": T, "seed": seed} | common for T in (100, 200) for seed in (0, 1)]
    assert [list(each) for each in made] == [["seq_len", "rate", "seed", "name", "pair"]] * 4
    assert grid() == [{}]
    plain = grid(step=np.array([0.5, 1.0]), flag=(True, 1), none=None)
    assert plain == [{"step": s, "flag": f, "none": None} for s in (0.5, 1.0) for f in (True, 1)]
    assert type(plain[0]["step"]) is float


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], ValueError, "seed must have at least one value, got none"),
        (range(0), ValueError, "seed must have at least one value, got none"),
        ([1, 2, 1], ValueError, "seed must have each value once, got 1 twice"),
        ([[1], [1]], ValueError, r"seed must have each value once, got \[1\] twice"),
        (np.zeros((2, 2)), ValueError, r"seed must be a list or a 1-D array, got shape \(2, 2\)"),
        ({1, 2}, TypeError, r"seed must be a list, tuple, range, 1-D array or a single value, got \{1, 2\}"),
        (iter([1]), TypeError, "seed must be a list, tuple, range, 1-D array or a single value, got <list_iterator"),
        ([object()], TypeError, "must be numbers, strings, lists and dicts, got object"),
    ],
)
def test_bad_axes(values: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        grid(seed=values)


# The command line


@pytest.fixture
def command(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable:
    monkeypatch.setattr(workers, "local", one_by_one)

    def call(*arguments: str) -> str:
        try:
            main([*arguments, "--store", str(tmp_path / "x.jsonl")])
        except SystemExit as ended:
            return str(ended.code)
        return capsys.readouterr().out

    return call


def test_the_command_line_sweeps(command: Callable, module: ModuleType, tmp_path: Path) -> None:
    told = command("swept:run", "--set", "size=3,5", "seed=7,0:2", "--jobs", "1")
    assert told.startswith(f"{tmp_path / 'x.jsonl'}: 6 runs, ")
    records = Store(tmp_path / "x.jsonl").records().values()
    assert [record["settings"] for record in records] == grid(size=[3, 5], seed=[7, 0, 1])
    assert len(calls(module)) == 6
    command("swept:run", "--set", "size=3,5", "seed=0:2")
    assert calls(module) == []
    command("swept:run", "--set", "size=3,5", "seed=0:2", "--fresh")
    assert len(calls(module)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("swept",), "experiment must be given as module:function, got 'swept'"),
        (("swept:walk",), "the module swept has no function 'walk'"),
        (("crept:run",), "No module named 'crept'"),
        (("swept:HERE",), "experiment must be a function of a module, got"),
        (("swept:run", "--set", "seed"), "a setting must be given as name=value, name=value,value or name=start:stop"),
        (("swept:run", "--set", "seed="), "got 'seed='"),
        (("swept:run", "--set", "seed=3:3"), "seed must have at least one value"),
        (("swept:run", "--set", "seed=1", "seed=2"), "seed is set twice"),
        (("swept:run", "--set", "sed=1"), "settings must be the arguments of run, got {'sed': 1}: missing a required"),
        (("swept:run", "--set", "seed=1", "--jobs", "0"), "jobs must be an integer of at least 1, got 0"),
        (("swept:run", "--set", "seed=1", "--jobs", "2", "--cluster", "x"), "jobs must be left out where a cluster"),
        (("swept:run", "--set", "seed=1", "--cluster", "nonsense"), "no Dask scheduler answers at 'nonsense'"),
        (("swept:moody", "--set", "seed=0:4"), "2 of 4 runs failed:\n{'seed': 1}: ValueError: no 1"),
    ],
    ids=str,
)
def test_the_command_line_refuses(arguments: tuple[str, ...], message: str, command: Callable) -> None:
    assert message in command(*arguments)


def test_values_on_the_command_line(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = mock.Mock(return_value=[{"origin": {"date": "", "commit": "", "seconds": 1, "machine": ""}}])
    monkeypatch.setattr(Store, "run", taken)
    command("swept:run", "--set", "a=1,0.5,1e-3", "b=true,null", "c=one,two=2", "--cluster", "tcp://x:1")
    assert taken.call_args.args[1] == grid(a=[1, 0.5, 0.001], b=[True, None], c=["one", "two=2"])
    assert taken.call_args.kwargs == {"jobs": None, "cluster": "tcp://x:1", "fresh": False}


def test_experiments_take_a_cluster(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--cluster", "tcp://x:1"])
    with mock.patch.object(Store, "run", side_effect=ConnectionError) as taken, pytest.raises(ConnectionError):
        common.main("x", module.run, [{"seed": 1}], print, None)
    assert taken.call_args.kwargs["cluster"] == "tcp://x:1"


def test_recover_learns_the_task() -> None:
    result = recover(seq_len=60, vocab_size=3, K_P=0.5, seed=1)
    assert (result["outcome"], result["missed"], result["false"]) == ("finished", 0, 0)
    assert max(result["error_V"], result["error_A"]) < 0.05


def test_recover_takes_all_its_settings_and_tells_which_is_which() -> None:
    """Of a run that is stopped while every position is allowed."""
    task = SCBTask.random(4, 60, 3, K_P=0.5, mu_ratio=2, seed=2)
    end = fit(task.stream(2, device="cpu"), max_samples=1_000, progress=False)
    alignment = align(end.V, end.A, task)
    assert alignment.error_V != alignment.error_A
    result = recover(60, 4, 3, K_P=0.5, mu_ratio=2, seed=2, share_mu=False, max_samples=1_000)
    assert result == {
        "outcome": end.outcome,
        "samples": end.samples,
        "missed": 0,
        "false": int(end.support.sum()) - 12,
        "error_V": alignment.error_V,
        "error_A": alignment.error_A,
    }
    assert result["false"] > 0
    assert recover(60, 4, 3, K_P=0.5, mu_ratio=2, seed=2, max_samples=1_000) != result
