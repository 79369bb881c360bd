"""tools/run_notebooks.py says "all ran" only if all did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "run_notebooks.py"

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def notebook(code: str) -> str:
    return f"{HEADER}\n# A chapter\n\n```{{code-cell}} python\n{code}\n```\n"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of one page of text and two notebooks that pass."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text(
        "{format: jb-book, root: book/index, parts: [chapters: [file: book/one, sections: [file: book/two]]]}"
    )
    (tmp_path / "book" / "index.md").write_text("# Just text\n")
    (tmp_path / "book" / "one.md").write_text(notebook("assert 1 + 1 == 2"))
    (tmp_path / "book" / "two.md").write_text(notebook("print('two')"))
    return tmp_path


def run(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout.splitlines()[-1]


def test_all_pass(book: Path) -> None:
    stale = book / "build" / "notebooks" / "book" / "stale.ipynb"
    stale.parent.mkdir(parents=True)
    stale.write_text("not a notebook")
    result = run(book)
    assert result.returncode == 0, result.stdout + result.stderr
    assert last_line(result).startswith("2 of 2 notebooks ran to their end")
    assert not stale.exists()
    converted = json.loads((book / "build" / "notebooks" / "book" / "one.ipynb").read_text())
    assert converted["metadata"]["kernelspec"]["name"] == "python3"


def test_one_page_only(book: Path) -> None:
    (book / "book" / "one.md").write_text(notebook("1 / 0"))
    result = run(book, "book/two.md")
    assert result.returncode == 0, result.stdout + result.stderr
    assert last_line(result).startswith("1 of 1 notebooks")


def test_a_failing_cell(book: Path) -> None:
    (book / "book" / "one.md").write_text(notebook("1 / 0"))
    result = run(book)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stdout
    assert last_line(result).startswith("1 of 2 notebooks")


def test_a_skipped_notebook_has_not_run(book: Path) -> None:
    # A plugin that skips: pytest is content with that and exits with 0.
    (book / "skipper.py").write_text(
        "import pytest\n"
        "def pytest_runtest_setup(item):\n"
        "    if 'one' in item.nodeid:\n"
        "        pytest.skip('not today')\n"
    )
    result = run(book, PYTHONPATH=str(book), PYTEST_ADDOPTS="-p skipper")
    assert "1 skipped" in result.stdout
    assert result.returncode == 1
    assert last_line(result).startswith("1 of 2 notebooks")


def test_a_notebook_that_is_not_collected_has_not_run(book: Path) -> None:
    result = run(book, PYTEST_ADDOPTS="-k two")
    assert result.returncode == 1
    assert last_line(result).startswith("1 of 2 notebooks")


def remove_page(book: Path) -> None:
    (book / "book" / "two.md").unlink()


def remove_toc(book: Path) -> None:
    (book / "_toc.yml").unlink()


def remove_code(book: Path) -> None:
    for name in ("one", "two"):
        (book / "book" / f"{name}.md").write_text("# Text\n")


@pytest.mark.parametrize(
    ("break_it", "page", "complaint"),
    [
        (remove_page, [], "_toc.yml lists book/two, but there is no such .md file"),
        (remove_toc, [], "there is no "),
        (remove_code, [], "none of book/index, book/one, book/two is a notebook"),
        (lambda book: None, ["book/three"], "_toc.yml does not list book/three"),
        (lambda book: None, ["book/index"], "none of book/index is a notebook"),
    ],
)
def test_one_clear_line(book: Path, break_it, page: list[str], complaint: str) -> None:
    break_it(book)
    result = run(book, *page)
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"run_notebooks: {complaint}")


def test_help() -> None:
    result = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True, check=True)
    assert "_toc.yml" in result.stdout
