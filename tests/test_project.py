"""The files that say what the project is agree with each other, and set-up says plainly what stops it."""

import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import scb_nb

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LOCK)}
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def wanted() -> list[Requirement]:
    """Every requirement in pyproject.toml, those of the extras included, but not the package itself."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


# What is pinned and what is asked for


def test_lock_pins_exactly() -> None:
    assert [line for line in LOCK if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_lock_satisfies_project(requirement: Requirement) -> None:
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_lock_installs_on_the_oldest_python() -> None:
    [oldest] = SpecifierSet(PROJECT["requires-python"])
    needs = {name: SpecifierSet(metadata(name).get("Requires-Python", "")) for name in PINS}
    assert {name: str(need) for name, need in needs.items() if f"{oldest.version}.0" not in need} == {}


def test_lock_takes_any_build_of_torch() -> None:
    assert Version(PINS["torch"] + "+cpu") in SpecifierSet(f"=={PINS['torch']}")
    assert Version(PINS["torch"] + "+cu130") in SpecifierSet(f"=={PINS['torch']}")


def test_environment_installs_the_lock() -> None:
    *conda, pip = ENVIRONMENT["dependencies"]
    assert {"-r requirements.lock", "-e ."} <= set(pip["pip"])
    assert f"pytorch-cpu={PINS['torch']}" in conda


def test_python_versions_agree() -> None:
    required = SpecifierSet(PROJECT["requires-python"])
    [conda] = [line for line in ENVIRONMENT["dependencies"] if str(line).startswith("python=")]
    assert f"{conda.partition('=')[2]}.0" in required
    [oldest] = [specifier.version for specifier in required]
    setup = (ROOT / "tools" / "setup.sh").read_text()
    assert set(re.findall(r"\b(3\.\d+) or newer", setup)) == {oldest}
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in setup


def test_version_is_told_alike() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == scb_nb.__version__
    assert f"## [{scb_nb.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_names_a_registry() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of the files that belong to the project")
    hosts = ("pypi" + ".org/simple", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org")
    texts = {name: (ROOT / name).read_bytes() for name in listing.stdout.split("\0") if (ROOT / name).is_file()}
    assert texts
    assert [(name, host) for name, text in texts.items() for host in hosts if host.encode() in text] == []


# tools/setup.sh, with Pythons that only act

GOOD_PYTHON = r"""#!/bin/sh
case "$*" in
    *"print("*) echo 3.12 ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install "*) echo "$*" >> pip-calls ;;
esac
"""


@pytest.fixture
def setup(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a copy of tools/setup.sh in tmp_path with a Python that is this script (None: there is none)."""
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "setup.sh"
    script.write_bytes((ROOT / "tools" / "setup.sh").read_bytes())
    python = tmp_path / "python"

    def run(text: str | None) -> subprocess.CompletedProcess[str]:
        if text is not None:
            python.write_text(text)
            python.chmod(0o755)
        return subprocess.run(["sh", str(script), str(python)], capture_output=True, text=True, check=False)

    return run


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed set-up prints."""
    assert result.returncode != 0
    [line] = result.stderr.splitlines()
    assert line.startswith("setup: ")
    return line


def test_setup_installs_lock_and_package(setup, tmp_path: Path) -> None:
    result = setup(GOOD_PYTHON)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 2
    assert (tmp_path / ".venv" / ".ready").exists()
    assert not (tmp_path / ".venv" / ".unfinished").exists()
    lock, package = (tmp_path / "pip-calls").read_text().splitlines()
    assert "-r requirements.lock" in lock
    assert "-e ." in package


def test_setup_keeps_a_venv_that_works(setup, tmp_path: Path) -> None:
    setup(GOOD_PYTHON)
    (tmp_path / ".venv" / "mine").touch()
    assert setup(GOOD_PYTHON).returncode == 0
    assert (tmp_path / ".venv" / "mine").exists()


def test_setup_mends_a_venv_that_was_not_finished(setup, tmp_path: Path) -> None:
    setup(GOOD_PYTHON)
    (tmp_path / ".venv" / ".unfinished").touch()
    (tmp_path / ".venv" / "half").touch()
    assert setup(GOOD_PYTHON).returncode == 0
    assert not (tmp_path / ".venv" / "half").exists()


def test_setup_leaves_a_strange_venv_alone(setup, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine").touch()
    assert "move it away" in complaint(setup(GOOD_PYTHON))
    assert (tmp_path / ".venv" / "mine").exists()


def test_setup_without_python(setup) -> None:
    assert "install Python 3.11 or newer" in complaint(setup(None))


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
def test_setup_with_an_old_python(setup, version: str) -> None:
    assert f"is Python {version}, and 3.11 or newer is needed" in complaint(setup(f"#!/bin/sh\necho {version}\n"))


def test_setup_without_the_venv_module(setup) -> None:
    python = GOOD_PYTHON.replace("esac", '    *ensurepip*) echo "No module named ensurepip" >&2; exit 1 ;;\nesac')
    assert "apt install python3.12-venv" in complaint(setup(python))


def test_setup_when_venv_fails(setup, tmp_path: Path) -> None:
    line = complaint(setup(GOOD_PYTHON.replace("mkdir -p .venv/bin", 'echo "no space left" >&2; exit 1; mkdir')))
    assert "build/setup.log" in line
    assert "no space left" in (tmp_path / "build" / "setup.log").read_text()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: No matching distribution found for torch", "found for torch"),
        ("WARNING: Retrying (Retry(total=4))\nERROR: No matching distribution", "no network?"),
        ("Killed", "Killed"),
    ],
)
def test_setup_when_pip_fails(setup, tmp_path: Path, said: str, expected: str) -> None:
    python = GOOD_PYTHON.replace('echo "$*" >> pip-calls', f"printf '{said}\\n' >&2; exit 1".replace("\n", "\\n"))
    line = complaint(setup(python))
    assert expected in line
    assert "build/setup.log" in line
    assert said in (tmp_path / "build" / "setup.log").read_text()
    assert not (tmp_path / ".venv" / ".ready").exists()
    assert setup(GOOD_PYTHON).returncode == 0


def test_setup_where_it_cannot_write(setup, tmp_path: Path) -> None:
    (tmp_path / "build").touch()  # a file in the place of the folder stops root as well
    assert "cannot write" in complaint(setup(GOOD_PYTHON))


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_setup_without_permission(setup, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "cannot write" in complaint(setup(None))
