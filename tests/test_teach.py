"""The page for teachers and the glossary: timetables add up, answers are as the page says, words are where it says."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from nbformat.v4 import new_notebook
from test_book import cells, source

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402

TEACH = ROOT / "book" / "teach.md"
TEXT = TEACH.read_text(encoding="utf-8")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
CHAPTERS = [
    ROOT / f"{chapter['file']}.md"
    for part in yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    if part.get("numbered")
    for chapter in part["chapters"]
]


def tables(text: str) -> list[list[tuple[int, int]]]:
    """Return the beginning and end of each row of each timetable."""
    found = re.findall(r"^\| minutes \|.*\n\|[ -|]*\n((?:\|.*\n)+)", text, re.M)
    return [[(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)\W(\d+) \|", rows, re.M)] for rows in found]


def test_timetables_have_no_gap_and_add_up() -> None:
    timetables = tables(TEXT)
    assert [rows[-1][1] for rows in timetables] == [90, 45, 60, 60]
    for rows in timetables:
        assert rows[0][0] == 0
        assert [end for _, end in rows[:-1]] == [begin for begin, _ in rows[1:]]
        assert all(begin < end for begin, end in rows)
    assert sum(end - begin for begin, end in timetables[0]) == 90


def test_each_question_has_all_that_a_teacher_needs() -> None:
    questions = re.split(r"^### \d\. ", TEXT, flags=re.M)[1:]
    questions[-1] = questions[-1].split("\n## ")[0]
    assert len(questions) == 3
    for question in questions:
        for part in (
            "\n> ",
            "**Expected spread.**",
            "```{admonition} The answer\n:class: dropdown",
            "**Wrong answers.**",
        ):
            assert part in question
        answer = question.split("{admonition} The answer")[1].split("```")[0]
        assert answer.count("{glue:text}") >= 3
    assert re.findall(r"\*\*Question (\d)\.\*\*", TEXT) == ["1", "2", "3"]


def test_every_quoted_number_is_recorded() -> None:
    quoted = set(re.findall(r"\{glue:text\}`(\w+)", TEXT))
    recorded = {name for cell in cells(TEACH) for name in re.findall(r"^    (\w+)=", source(cell), re.M)}
    assert quoted
    assert quoted <= recorded, quoted - recorded


def test_exercises_and_figures_that_are_named_exist() -> None:
    chapters = "\n".join(path.read_text(encoding="utf-8") for path in (*CHAPTERS, ROOT / "book" / "index.md", TEACH))
    named = set(re.findall(r"\{numref\}`((?:ex|fig)-[\w-]+)`", TEXT))
    assert {"ex-scb-experiment", "fig-listen"} <= named
    assert [name for name in named if not re.search(rf"^(:label: |    name: ){name}$", chapters, re.M)] == []


class AnyBook:
    """Stands for the book: every page is an empty notebook."""

    def __init__(self, root: Path) -> None:
        pass

    def values(self, page: str) -> dict[str, Any]:
        return {}

    def notebook(self, page: str, values: dict[str, Any], *, solutions: bool) -> Any:
        return new_notebook()


@pytest.mark.parametrize(("kind", "kept"), [("student", {"bigrams"}), ("solutions", {"bigrams", "teach"})])
def test_students_do_not_get_the_answers(
    kind: str, kept: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "Book", AnyBook)
    notebooks.write(kind, tmp_path, ["book/bigrams", "book/teach"], whole=True)
    assert {path.stem for path in tmp_path.rglob("*.ipynb")} == kept


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the cells of the page record, run here."""
    values: dict[str, Any] = {}
    names: dict[str, Any] = {}
    for cell in cells(TEACH):
        if "plt.show()" not in cell:
            exec(compile(source(cell), str(TEACH), "exec"), names)
            names["record"] = lambda **given: values.update(given)
    return values


def test_first_question(told: dict[str, Any]) -> None:
    assert told["bayes_most"] >= 0.8 * told["ladder_tasks"]
    assert told["bayes"] > told["average"] > 0
    assert told["bayes"] > told["bag"] > 0
    assert told["bayes_share"] > 50


def test_second_question(told: dict[str, Any]) -> None:
    assert told["entries"] == 6_000
    assert told["lengths"] > 2
    assert told["among"] == told["found"] == 6
    assert told["false"] == 0
    assert told["all_six"] >= 8
    assert 1 <= told["negative"] <= told["none"]
    assert told["false_all"] <= 1


def test_third_question(told: dict[str, Any]) -> None:
    assert told["quiet"] == pytest.approx(told["noisy"], rel=0.01)
    assert told["short"] < told["noisy"] < told["long"]
    assert told["kept_out"] < 0.02


def test_exit_ticket(told: dict[str, Any]) -> None:
    assert told["ticket_a"] == pytest.approx(0.75 * 0.9 + 0.25 * 0.2)
    assert told["ticket_star"] > 1
    assert told["ticket_height"] > told["ticket_critical"]
    assert told["ticket_length"] == 10
    assert told["ticket_largest"] < 1.5


def test_open_homework_has_two_in_its_interval(told: dict[str, Any]) -> None:
    assert told["factor_low"] < 2 < told["factor_high"]


def entries() -> dict[tuple[str, ...], str]:
    """Return the definition of each entry of the glossary, by its words."""
    body = GLOSSARY.split("```{glossary}\n:sorted:\n")[1].split("\n```")[0]
    split = (block.split("\n  ", 1) for block in body.strip().split("\n\n"))
    return {tuple(words.split("\n")): definition for words, definition in split}


def test_glossary_is_in_order_and_short() -> None:
    words = [word for each in entries() for word in each]
    assert len(words) == len(set(words)) >= 40
    first = [each[0].lower() for each in entries()]
    assert first == sorted(first)
    for each, definition in entries().items():
        plain = re.sub(r"\{doc\}`[^`]*`", "", definition)
        assert len(re.findall(r"[.:] |\.$", plain)) <= 4, each
        assert definition.endswith((".", ")."))


@pytest.mark.parametrize("words", entries(), ids="/".join)
def test_each_word_is_used_in_a_chapter_that_the_glossary_names(words: tuple[str, ...]) -> None:
    named = re.findall(r"\{doc\}`[^<`]*<(\w+)>`", entries()[words])
    assert named, "each entry says in which chapter it is defined"
    assert all(ROOT / "book" / f"{name}.md" in CHAPTERS for name in named)
    numbers = re.findall(r"\{doc\}`(?:[Cc]hapters? )?(\d+) <(\w+)>`", entries()[words])
    assert [int(n) for n, _ in numbers] == [CHAPTERS.index(ROOT / "book" / f"{name}.md") + 1 for _, name in numbers]
    chapters = "\n".join((ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in named).lower()
    stems = [re.sub(r"(e|s|ion|ing)?$", "", word.lower(), count=1) for word in words[0].split()]
    assert re.search(r"\w*[\W_]+".join(map(re.escape, stems)), chapters), stems


def test_words_that_pages_refer_to_are_in_the_glossary() -> None:
    words = {word for each in entries() for word in each}
    for page in (ROOT / "book").glob("*.md"):
        for term in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", page.read_text(encoding="utf-8")):
            assert term in words, (page.name, term)
