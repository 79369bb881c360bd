"""What a notebook meets elsewhere: its first cell with and without the package, and JupyterLab with the chapters."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from environments import fresh_python

import scb_nb

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import plain  # noqa: E402

VERSION = scb_nb.__version__
ADDRESS = "https://github.com/some/book"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A Python of its own, where the package is not installed."""
    return fresh_python(tmp_path)


def install_act(python: Path, version: str) -> None:
    """Put what only looks like the package of that version there."""
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    (packages / "scb_nb.py").write_text(f'__version__ = "{version}"\n')


def run(python: Path, cell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a cell in IPython, in an empty folder."""
    folder = python.parents[2] / "empty"
    folder.mkdir()
    (folder / "cell.ipy").write_text(cell)
    command = [str(python), "-m", "IPython", "--colors=NoColor", "cell.ipy"]
    environment = os.environ | {"IPYTHONDIR": str(folder / "home"), "PYTHONPATH": ""} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_versions_agree() -> None:
    assert plain.package_version(ROOT) == VERSION


def test_without_package_and_address_it_says_what_to_install(elsewhere: Path) -> None:
    result = run(elsewhere, plain.first_cell(VERSION, ""))
    assert result.returncode != 0
    told = result.stdout + result.stderr
    assert f"ImportError: Install scb_nb {VERSION} first." in told
    assert f"%pip install scb_nb-{VERSION}-py3-none-any.whl" in told
    assert "No module named 'scb_nb'" in told, "the cause is told as well"


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_with_the_package_it_does_nothing(elsewhere: Path, address: str) -> None:
    install_act(elsewhere, VERSION)
    result = run(elsewhere, plain.first_cell(VERSION, address))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_with_another_version_it_warns(elsewhere: Path, address: str) -> None:
    install_act(elsewhere, "0.0.1")
    result = run(elsewhere, plain.first_cell(VERSION, address))
    assert result.returncode == 0
    assert f"This notebook was written for scb_nb {VERSION}, and 0.0.1 is installed" in result.stderr


def test_it_installs_the_tag_of_its_version(elsewhere: Path, tmp_path: Path) -> None:
    """From a repository on this machine, in which only the tag has the right version."""
    package = tmp_path / "repository"
    (package / "scb_nb").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, package)
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.example"]

    def commit(version: str, *tag: str) -> None:
        (package / "scb_nb" / "__init__.py").write_text(f'"""A package."""\n__version__ = "{version}"\n')
        for command in (["add", "."], ["commit", "--quiet", "-m", version], *([["tag", *tag]] if tag else [])):
            subprocess.run(["git", *identity, *command], cwd=package, check=True)

    subprocess.run(["git", "init", "--quiet"], cwd=package, check=True)
    commit(VERSION, f"v{VERSION}")
    commit("9.9.9")
    alone = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_CONFIG_FILE": os.devnull}
    cell = plain.first_cell(VERSION, f"{package.as_uri()}/") + "\nprint(scb_nb.__version__, scb_nb.__file__)\n"
    result = run(elsewhere, cell, **alone)
    assert result.returncode == 0, result.stdout + result.stderr
    version, file = result.stdout.split()[-2:]
    assert version == VERSION
    assert Path(file).is_relative_to(elsewhere.parents[1])


def test_a_failed_installation_is_an_error(elsewhere: Path, tmp_path: Path) -> None:
    result = run(elsewhere, plain.first_cell(VERSION, (tmp_path / "nowhere").as_uri()), PIP_CONFIG_FILE=os.devnull)
    assert result.returncode != 0
    assert "No module named 'scb_nb'" in result.stdout + result.stderr


def test_address_is_in_one_place(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert plain.repository(ROOT) == config["repository"]["url"]
    (tmp_path / "_config.yml").write_text("title: Without")
    assert plain.repository(tmp_path) == ""
    address = plain.repository(ROOT).rstrip("/")
    if address:
        command = ["git", "grep", "--files-with-matches", "-F", address, "--", ".", ":!notebooks"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
        assert told == ["_config.yml"]


# make lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """What ``make lab`` serves, by its path; it gets a port of its own and opens no browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --allow-root --port={port} --ServerApp.port_retries=0 --IdentityProvider.token=secret"
    command = ["make", "--old-file=.venv/.ready", "lab", f"LAB={options}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def ask(path: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={"Authorization": "token secret"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    address, deadline = f":{port}/lab?token=", time.monotonic() + 120
    try:
        while address not in (told := (tmp_path / "log").read_text()):
            assert server.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
        yield ask
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_lab_opens_the_chapters_as_notebooks(lab: Callable[[str], str]) -> None:
    chapter = json.loads(lab("api/contents/book/stage_one.ipynb"))
    assert chapter["type"] == "notebook"
    assert len(chapter["content"]["cells"]) > 20
    assert "python3" in json.loads(lab("api/kernelspecs"))["kernelspecs"]
    assert "JupyterLab" in lab("lab")
