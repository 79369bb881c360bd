"""tools/notebooks.py: chapters as notebooks that read well anywhere, for students without solutions."""

import ast
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from quoted import VALUES, quotes

from scb_nb import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import plain  # noqa: E402
from run_notebooks import find_notebooks  # noqa: E402

import notebooks  # noqa: E402

SOURCES = find_notebooks(ROOT, [])
every_page = pytest.mark.parametrize("page", SOURCES)


@pytest.fixture(scope="module")
def book() -> plain.Book:
    return plain.Book(ROOT)


def prose(notebook: Any) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook: Any) -> list[str]:
    """The code cells, but for the first, which sees to the package."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]


@every_page
def test_what_is_kept_is_current(book, page):
    """But for quoted values, which may depend on the machine; tests/browser/test_downloads.py compares these."""
    quotes(nbformat.read(ROOT / "notebooks" / f"{page}.ipynb", 4), book.notebook(page, VALUES))


def test_nothing_else_is_kept():
    kept = {path.relative_to(ROOT / "notebooks").as_posix() for path in (ROOT / "notebooks").rglob("*.*")}
    assert kept - {f"{page}.ipynb" for page in SOURCES} == set(), "make notebooks"


@every_page
def test_nothing_is_left_that_only_the_book_understands(book, page):
    notebook = book.notebook(page, VALUES)
    nbformat.validate(notebook)
    assert (
        re.findall(r"\{[a-z:-]+\}`|^[`:]{3,}\{.*|^\([\w-]+\)=|\$\$ \([\w-]+\)|^:[a-z]+: .*", prose(notebook), re.M)
        == []
    )
    assert not any(cell.get("outputs") for cell in notebook.cells)


@every_page
def test_all_code_and_prose_is_there(book, page):
    source = jupytext.read(SOURCES[page])
    notebook = book.notebook(page, VALUES)
    assert code(notebook) == [cell.source for cell in source.cells if cell.cell_type == "code"]
    words = re.sub(r"(?m)^:[a-z]+: .*$|^[`:]{3,}.*$|^\([\w-]+\)=|\{[a-z:]+\}`[^`]*`|^\$\$ \(.*\)$", " ", prose(source))
    missing = set(re.findall(r"[A-Za-z]{4,}", words)) - set(re.findall(r"[A-Za-z]{4,}", prose(notebook)))
    assert missing == set()


@every_page
def test_a_student_gets_exercises_and_no_solution(book, page):
    full = book.notebook(page, VALUES)
    student = book.notebook(page, VALUES, solutions=False)
    exercises = re.findall(r"^### (Exercise .*)$", prose(full), re.M)
    assert re.findall(r"^### (Exercise .*)$", prose(student), re.M) == exercises
    assert re.findall(r"^#### Solution of (Exercise .*)$", prose(full), re.M) == exercises
    assert "Solution of" not in prose(student)
    solutions = [cell for cell in code(full) if cell not in code(student)]
    assert len(solutions) >= len(exercises)
    assert not any("assert verdict" in cell for cell in code(student))
    assert [cell for cell in code(full) if cell not in solutions] == code(student)


@every_page
def test_no_other_cell_needs_a_solution(book, page):
    full, student = (code(book.notebook(page, VALUES, solutions=kept)) for kept in (True, False))
    given = names("\n".join(student), ast.Store)
    own = names("\n".join(cell for cell in full if cell not in student), ast.Store) - given
    assert own & names("\n".join(student), ast.Load) == set()


def names(source: str, kind: type) -> set[str]:
    """Names that code assigns or defines (ast.Store), or uses (ast.Load), at any depth."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, kind):
            found.add(node.id)
        elif kind is ast.Store and isinstance(node, ast.FunctionDef | ast.arg):
            found.add(node.name if isinstance(node, ast.FunctionDef) else node.arg)
    return found


PIECES = {
    "{glue:text}`share:.1f` of them": "0.2 of them",
    "{doc}`chapter 1 <bigrams>` and {doc}`notation`": "chapter 1 and *Notation*",
    "by {prf:ref}`thm-plane`": "by Theorem 3.7",
    "in {prf:ref}`the plane <thm-plane>`, {eq}`eq-flow`": "in the plane, (4.1)",
    "{py:func}`that <scb_nb.fit>`": "`that`",
    "{py:func}`~scb_nb.checks.check`, {py:func}`scb_nb.fit`": "`check`, `scb_nb.fit`",
    "{cite}`ren2024scb`": "(Ren et al., 2024)",
    "{ref}`here <page>`, {term}`the query <query>`, {term}`answer`": "here, the query, answer",
    "(label)=\n# Title": "# Title",
    "Text\n\n(label)=\n## Title": "Text\n\n## Title",
    "````{grid} 2\n```{grid-item-card} Look\nHere\n```\n````": "**Look.** Here",
    "$$\nx\n$$ (eq-flow)": "$$\nx\n\\tag{4.1}\n$$",
    "```{admonition} Look\n:class: tip\n:name: x\nHere: {glue:text}`share`\n```": "> **Look**\n>\n> Here: 0.25",
    "Before\n```{admonition} Look\nHere\n```\nAfter": "Before\n\n> **Look**\n>\n> Here\n\nAfter",
    "````{prf:proof}\n$1$\n````": "*Proof.* $1$ ∎",
    "````{prf:theorem} One $x$\n:label: thm-plane\n\nIt holds.\n````": "**Theorem 3.7** (One $x$).\n\nIt holds.",
    "```python\nx = '{doc}'\n```": "```python\nx = '{doc}'\n```",
}


@pytest.mark.parametrize("text", PIECES, ids=range(len(PIECES)))
def test_each_piece(book, text):
    assert book.plain(text, {"share": 0.25}) == PIECES[text]


@pytest.mark.parametrize("text", ["```{unheard-of}\nx\n```", "{unheard:of}`x`", "```{admonition} Look\nno end"])
def test_what_has_no_plain_form_is_an_error(book, text):
    with pytest.raises(ValueError, match=r"has no (plain form yet|end)"):
        book.plain(text, {})


def test_a_value_that_no_build_recorded_is_an_error(book):
    with pytest.raises(ValueError, match="recorded no share: make book first"):
        book.plain("{glue:text}`share:.2f`", {})


def test_a_label_that_a_trial_build_lacks_is_named(book):
    assert book.plain("{prf:ref}`thm-elsewhere`, {doc}`elsewhere`", {}) == "thm-elsewhere, *elsewhere*"


def test_sections_are_named_by_their_titles(book):
    assert book.plain("{ref}`chap-stage-one`", {}) == f"*{book.titles['stage_one']}*"


@every_page
def test_solutions_are_folded_in_cells_of_their_own(book, page):
    for cell in book.notebook(page, VALUES).cells:
        headings = re.findall(r"^#+ .*$", cell.source, re.M) if cell.cell_type == "markdown" else []
        solution = any("Solution of" in heading for heading in headings)
        assert solution == (cell.metadata.get("jp-MarkdownHeadingCollapsed") is True)
        if solution or any(heading.startswith("### Exercise ") for heading in headings):
            assert len(headings) == 1
            assert cell.source.startswith(headings[0])
            assert not solution or cell.source == headings[0], "what is folded is under the heading, not with it"


def test_what_the_page_hides_is_hidden(book):
    cells = book.notebook("book/stage_one", VALUES).cells
    hidden = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert hidden
    assert [cell for cell in hidden if "hide-input" not in cell.metadata["tags"]] == []


def test_without_a_site_it_says_what_to_do(tmp_path, capsys, monkeypatch):
    (tmp_path / "book").mkdir()
    for name in ("book/index.md", "book/references.bib"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "_toc.yml").write_text("{format: jb-book, root: book/index, parts: []}")
    monkeypatch.setattr(sys, "argv", ["notebooks", "student", "--root", str(tmp_path)])
    assert notebooks.main() == 2
    assert "make book first" in capsys.readouterr().err


PAGE = """---
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# One

It is {glue:text}`share:.2f`, said {cite}`three, two`. See {prf:ref}`ex-two`.

```{code-cell} python
---
mystnb:
  figure:
    name: fig-ex-why
    caption: Of {glue:text}`share`.
---
draw()
```

```{prf:definition}
:label: def-ex-why
It is.
```

```{exercise-start}
:label: ex-why
```
Why?
```{exercise-end}
```

```{solution-start} ex-why
```
Because.

```{code-cell} python
print("because")
```

```{solution-end}
```
"""
WORKS = "@misc{three, author={A, X and B, Y and C, Z}, year={1}}\n@misc{two, author={D, X and E, Y}, year={2}}"


def test_each_kind_is_written_to_its_folder_with_the_values_of_the_last_build(tmp_path, monkeypatch):
    data = {"application/papermill.record/text/plain": "0.25"}
    shown = [
        new_output("display_data", data, metadata={"scrapbook": {"name": "share"}}),
        new_output("stream", text="other"),
    ]
    built = tmp_path / "_build/html/_sources/book/one.ipynb"
    for folder in (tmp_path / "book", built.parent):
        folder.mkdir(parents=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# One"), new_code_cell("", outputs=shown)]), built)
    (tmp_path / "_toc.yml").write_text("{root: book/one, parts: [{chapters: [file: book/two]}]}")
    (tmp_path / "book" / "references.bib").write_text(WORKS)
    (tmp_path / "_config.yml").write_text("{title: One}")
    (tmp_path / "scb_nb").mkdir()
    (tmp_path / "scb_nb" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    for name in ("one", "two"):
        (tmp_path / "book" / f"{name}.md").write_text(PAGE.replace("ex-why", f"ex-{name}"))
    for kind, folder in {"student": "build/student", "solutions": "build/solutions", "notebooks": "notebooks"}.items():
        monkeypatch.setattr(sys, "argv", ["notebooks", kind, "book/one", "--root", str(tmp_path)])
        assert notebooks.main() == 0
        notebook = nbformat.read(tmp_path / folder / "book" / "one.ipynb", 4)
        for text in (
            "It is 0.25, said (A et al., 1; D and E, 2). See Exercise 2.\n\n*Fig. 1* Of 0.25.",
            "**Definition 1**.\n\nIt is.\n\n### Exercise 1\n\nWhy?",
        ):
            assert text in prose(notebook)
        assert ("Because." in prose(notebook)) == (kind != "student")
        assert code(notebook) == ["draw()"] + ['print("because")'] * (kind != "student")
        assert "1.2.3" in notebook.cells[0].source
        assert not (tmp_path / folder / "book" / "two.ipynb").exists()


def test_the_whole_book_replaces_what_was_there_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "Book", lambda root: book)
    book = SimpleNamespace(values=lambda page: {}, notebook=lambda *arguments, **options: new_notebook())
    stale = tmp_path / "build" / "student" / "book" / "gone.ipynb"
    stale.parent.mkdir(parents=True)
    stale.touch()
    notebooks.write("student", tmp_path, ["book/one"], whole=False)
    assert stale.exists()
    notebooks.write("student", tmp_path, ["book/one"], whole=True)
    assert [path.name for path in stale.parent.iterdir()] == ["one.ipynb"]
    book.values = lambda page: plain.Book(ROOT)._role("glue:text", "share", {})
    with pytest.raises(ValueError, match="make book first"):
        notebooks.write("student", tmp_path, ["book/one"], whole=True)
    assert [path.name for path in stale.parent.iterdir()] == ["one.ipynb"], "nothing is lost by a failure"


def test_a_copy_for_the_lab_is_kept_until_its_chapter_changes(tmp_path, capsys):
    source = tmp_path / "notebooks" / "book" / "one.ipynb"
    source.parent.mkdir(parents=True)
    folder = tmp_path / "build" / "lab" / "book"
    copy, old = folder / "one.ipynb", folder / "one.old.ipynb"

    def after(text: str) -> str:
        source.write_text(text)
        notebooks.copy_to_lab(tmp_path)
        return copy.read_text()

    assert after("first") == "first"
    assert after("second") == "second"
    assert not old.exists(), "what was not changed is not kept"
    copy.write_text("mine")
    assert after("second") == "mine"
    assert capsys.readouterr().out == ""
    assert after("third") == "third"
    assert old.read_text() == "mine"
    assert "yours is one.old.ipynb" in capsys.readouterr().out
    copy.unlink()
    assert after("third") == "third"


@pytest.mark.parametrize("value", ["it's", '"', 7, -7, 0.5, -1e-300, float("inf")])
def test_what_was_recorded_is_read_back(value, monkeypatch):
    shown: list[dict[str, str]] = []
    monkeypatch.setattr(report, "display", lambda data, **options: shown.append(data))
    report.record(name=value)
    (text,) = shown[0].values()
    assert plain.recorded(text) == value
