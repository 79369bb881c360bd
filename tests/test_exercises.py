"""Exercises as readers meet them: stubs that fit their solutions, checks that tell right from typically wrong."""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from scb_nb import checks
from scb_nb.chains import stationary_distribution
from scb_nb.checks import EXERCISES, check

ROOT = Path(__file__).parents[1]

BLOCK = r"\{exercise-start\}\n:label: ex-([\w-]+)\n(.*?)\{solution-start\} ex-\1\n(.*?)\{solution-end\}"
CELL = re.compile(r"^```\{code-cell\}.*?\n(?:---\n.*?\n---\n|:.*?\n)*(.*?)^```$", re.M | re.S)


class Parts(NamedTuple):
    text: str
    stub: ast.Module
    solution: ast.Module


PARTS = {
    name: Parts(text, ast.parse("\n".join(CELL.findall(text))), ast.parse("\n".join(CELL.findall(solution))))
    for page in sorted((ROOT / "book").glob("*.md"))
    for name, text, solution in re.findall(BLOCK, page.read_text(encoding="utf-8"), re.S)
}
every_exercise = pytest.mark.parametrize("name", PARTS)


def answer_to(name: str, code: ast.Module) -> ast.expr:
    """What the code hands to the check of that name."""
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]
    (answer,) = (call.args[1] for call in calls if call.args[0].value == name)
    return answer.orelse if isinstance(answer, ast.IfExp) else answer  # None if it is still open, else the answer


def definitions(code: ast.Module) -> dict[str, ast.stmt]:
    """What the code assigns or defines on its top level; of several of one name, the last."""
    found: dict[str, ast.stmt] = {}
    for node in code.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {each.id: node for each in ast.walk(node.targets[0]) if isinstance(each, ast.Name)}
    return found


def test_every_check_belongs_to_an_exercise() -> None:
    assert set(PARTS) == set(EXERCISES)


def places(name: str) -> list[ast.stmt]:
    """Where the reader's answer goes: functions, or assignments."""
    stub = PARTS[name].stub
    asked = answer_to(name, stub)
    return [definitions(stub)[each.id] for each in (asked.elts if isinstance(asked, ast.Tuple) else [asked])]


@every_exercise
def test_stub_is_to_be_filled_in(name: str) -> None:
    for place in places(name):
        if isinstance(place, ast.FunctionDef):
            assert ast.get_docstring(place)
            assert ast.unparse(place.body[-1]) == "return ..."
        else:
            assert set(ast.unparse(place.value)) <= set("(., )")


@every_exercise
def test_untouched_stub_counts_as_not_answered(name: str) -> None:
    stub = PARTS[name].stub
    names: dict[str, Any] = {"check": check}
    (shown,) = (each for each in stub.body if isinstance(each, ast.Expr) and "check(" in ast.unparse(each))
    exec(compile(ast.Module(places(name), []), name, "exec"), names)
    assert eval(ast.unparse(shown), names) == checks.NOT_YET


@every_exercise
def test_solution_fits_the_stub(name: str) -> None:
    text, stub, solution = PARTS[name]
    asked, given = answer_to(name, stub), answer_to(name, solution)
    if letters := re.findall(r'^answer = \.\.\.  # "(.*)"$', text, re.M):
        assert given.value in (choices := re.findall(r"\w", letters[0].replace(" or ", "")))
        assert re.findall(r"\((\w)\) ", text) == choices, "those that are offered"
    elif isinstance(place := places(name)[0], ast.FunctionDef):
        assert ast.unparse(given) == ast.unparse(asked)
        assert ast.unparse(definitions(solution)[asked.id].args) == ast.unparse(place.args)
    else:
        assert isinstance(given, ast.Tuple) == isinstance(asked, ast.Tuple)


def entropy_rate(P: np.ndarray) -> np.ndarray:
    logarithm = np.log(np.where(P > 0, P, 1))
    return -(P * logarithm).sum(axis=0) @ stationary_distribution(P)


def test_first_chapter_accepts_the_solution_and_refuses_near_misses() -> None:
    assert check("bigram-derive", entropy_rate)
    for wrong, hint in (
        (lambda P: -entropy_rate(P), "Mind the sign"),
        (lambda P: entropy_rate(P) / np.log(2), "in bits"),
        (lambda P: entropy_rate(P) + 0 * np.where(P > 0, 0, np.nan).sum(), "0 log 0"),
        (lambda P: -(P * np.log(np.where(P > 0, P, 1))).sum(axis=0).mean(), "all columns alike"),
        (lambda P: -(P * np.log(np.where(P > 0, P, 1))).sum(), "adds the columns' entropies"),
        (lambda P: -stationary_distribution(P) @ np.log(stationary_distribution(P)), "drawn from mu"),
        (lambda P: 1.01 * entropy_rate(P), "weighted mean"),
        (lambda P: [entropy_rate(P)], "shape"),
    ):
        verdict = check("bigram-derive", wrong)
        assert not verdict
        assert hint in verdict.message
    best = next(each for each in np.logspace(-3, 1, 81) if check("bigram-experiment", each))
    assert "too small" in check("bigram-experiment", best / 10).message
    assert "too large" in check("bigram-experiment", 1).message
    assert "positive number" in check("bigram-experiment", 0).message


def test_every_check_is_tested_with_a_right_and_a_wrong_answer() -> None:
    """Here or in test_book.py, which tries every letter of a choice."""
    code = "".join(
        (ROOT / "tests" / name).read_text(encoding="utf-8") for name in ("test_book.py", "test_exercises.py")
    )
    chosen = set(re.findall(r'^    "([\w-]+)": "[a-d]",$', code, re.M))
    accepted = set(re.findall(r'^    assert check\("([\w-]+)"|if check\("([\w-]+)", \w+\)\)', code, re.M))
    refused = set(re.findall(r'assert not check\("([\w-]+)"|" in check\("([\w-]+)"', code))
    refused |= set(re.findall(r'(\w+) = check\("([\w-]+)", .*\n +assert not \1\n', code))
    for tried in (accepted, refused):
        assert set(EXERCISES) - chosen - {name for names in tried for name in names} == set()
