"""Downloads of the built site, in the hands of a reader who has neither the repository nor a network."""

import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from environments import fresh_python
from nbformat.v4 import new_code_cell, new_notebook
from quoted import VALUES, quotes

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from plain import Book, package_version, wheel_name  # noqa: E402
from run_notebooks import find_notebooks, read_report, run  # noqa: E402

PAGES = find_notebooks(ROOT, [])
every_notebook = pytest.mark.parametrize("page", PAGES)

NUMBER = re.compile(r"\d[\d,]*(?:\.(\d+))?")


def agreement(pairs: list[tuple[str, str]]) -> float:
    """The share of numbers in the one text that are those in the other, up to two per cent or the last digit."""
    same = []
    for kept, told in pairs:
        numbers = [list(NUMBER.finditer(text)) for text in (kept, told)]
        if len(numbers[0]) != len(numbers[1]):
            same += [False] * max(map(len, numbers))
            continue
        for one, other in zip(*numbers, strict=True):
            a, b = (float(number[0].replace(",", "")) for number in (one, other))
            same.append(abs(a - b) <= max(0.02 * b, 1.01 * 10.0 ** -len(other[1] or "")))
    return sum(same) / len(same) if same else 1.0


def outputs(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell prints, in however many pieces, then what it records, and the kinds of all else that it shows."""
    found = cell.get("outputs", [])
    told = ["".join(output.text for output in found if output.get("name") == "stdout")]
    for data in (output.data for output in found if "data" in output):
        told.append("".join(text for kind, text in data.items() if "record" in kind) or str(sorted(data)))
    return told


class Reader(NamedTuple):
    """A folder with the site's notebooks, as they were downloaded and as they ran, and how it went."""

    downloaded: Path
    ran: Path
    seconds: dict[str, float]
    installed: Path


@pytest.fixture(scope="module")
def reader(address: str, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Install the site's package with a Python that has only what the package needs, and run the site's notebooks."""
    home = tmp_path_factory.mktemp("reader")
    python = fresh_python(home / "python")
    wheel = wheel_name(package_version(ROOT))
    urllib.request.urlretrieve(f"{address}_static/{wheel}", home / wheel)
    pip = [python, "-m", "pip", "--isolated", "install", "--quiet", "--no-index", "--no-deps", home / wheel]
    subprocess.run(pip, cwd=home, check=True)
    for page in PAGES:
        for folder in ("downloaded", "ran"):
            (home / folder / page).parent.mkdir(parents=True, exist_ok=True)
            urllib.request.urlretrieve(f"{address}_sources/{page}.ipynb", home / folder / f"{page}.ipynb")
    where = new_notebook(cells=[new_code_cell("import scb_nb\nprint(scb_nb.__file__)")])
    nbformat.write(where, home / "ran" / "where.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("PYTHONNOUSERSITE", "1")
        run(home / "ran", 2, 600, "--overwrite", python=str(python))
    seconds = read_report(home / "ran" / "report.xml", {**PAGES, "where": Path()})
    (told,) = outputs(nbformat.read(home / "ran" / "where.ipynb", 4).cells[0])
    return Reader(home / "downloaded", home / "ran", seconds, Path(told.strip()))


def test_the_package_is_that_of_the_site(reader: Reader) -> None:
    assert reader.installed.is_relative_to(reader.ran.parent / "python" / "env")


@every_notebook
def test_notebook_runs_from_the_download_alone(reader: Reader, page: str) -> None:
    assert page in reader.seconds


@every_notebook
def test_notebook_shows_what_the_site_shows(reader: Reader, page: str) -> None:
    """But for a few numbers, such as times."""
    then, now = (nbformat.read(folder / f"{page}.ipynb", 4) for folder in (reader.downloaded, reader.ran))
    shown = [(outputs(old), outputs(new)) for old, new in zip(then.cells, now.cells, strict=True)]
    assert any(old != [""] for old, _ in shown)
    assert [len(old) for old, _ in shown] == [len(new) for _, new in shown]
    assert agreement([pair for old, new in shown for pair in zip(old, new, strict=True)]) > 0.9


@every_notebook
def test_kept_notebook_quotes_the_numbers_of_the_site(address: str, page: str) -> None:
    with urllib.request.urlopen(f"{address}_sources/{page}.plain.ipynb") as file:
        told = nbformat.reads(file.read().decode(), 4)
    kept = nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", 4)
    values = [quotes(notebook, Book(ROOT).notebook(page, VALUES)) for notebook in (kept, told)]
    assert agreement(list(zip(*values, strict=True))) > 0.9, "make notebooks"
