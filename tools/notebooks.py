"""Write the chapters as notebooks that read well anywhere: what only the book can show becomes plain Markdown.

Boxes, exercises, references and quoted numbers are written out as the site shows them; their values come from its last
build (make book). Code cells stay as they are, without outputs. A student's notebooks have no solutions.
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import yaml
from nbformat.v4 import new_markdown_cell
from pybtex.database import parse_file  # type: ignore[import-untyped]
from run_notebooks import ROOT, find_notebooks, listed_pages

BOXES = ("definition", "lemma", "proposition", "theorem")  # which share one counter

OPENING = re.compile(r"^(`{3,}|:{3,})\{([a-z:-]+)\} *(.*)$")  # fence, name, title
OPTION = re.compile(r"^:([a-z]+): *(.*)$")
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]*)`")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.M)
EQUATION = re.compile(r"^\$\$ \(([\w-]+)\)$", re.M)
POINTER = re.compile(r"^(.*?) *<([^>]+)>$", re.S)  # text <target>


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("student", "solutions"), help="without solutions, or with them")
    parser.add_argument("pages", nargs="*", help="pages of _toc.yml, such as book/bigrams (default: all notebooks)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml (default: the repository)")
    options = parser.parse_args()
    try:
        sources = find_notebooks(options.root, options.pages)
        book = Book(options.root)
        for page, source in sources.items():
            target = options.root / "build" / options.kind / f"{page}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(book.notebook(page, source, solutions=options.kind == "solutions"), target)
            print(f"  {target.relative_to(options.root)}")
    except ValueError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        return 2
    return 0


class Directive(NamedTuple):
    """A fenced block that only the book understands."""

    name: str
    title: str
    options: dict[str, str]
    body: str


def blocks(text: str) -> Iterator[str | Directive]:
    """Split Markdown into plain text and directives, in order; code in other fences is plain text."""
    lines = text.split("\n")
    plain: list[str] = []
    while lines:
        line = lines.pop(0)
        opening = OPENING.match(line)
        if not opening:
            plain.append(line)
            continue
        fence, name, title = opening.groups()
        if fence not in lines:
            raise ValueError(f"the directive {line} has no end")
        end = lines.index(fence)
        body, lines = lines[:end], lines[end + 1 :]
        options = {}
        while body and (option := OPTION.match(body[0])):
            options[option[1]] = option[2]
            body.pop(0)
        if plain:
            yield "\n".join(plain)
        plain = []
        yield Directive(name, title, options, "\n".join(body).strip())
    if plain:
        yield "\n".join(plain)


def recorded(text: str) -> Any:
    """Return a value as it was before :func:`scb_nb.record` wrote it: a text in quotes, or a number, even infinite."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return float(text)  # infinite, or none


class Book:
    """What pages are called, and the number that the site gives to each thing with a label."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.titles: dict[str, str] = {}  # by name of page
        self.names: dict[str, str] = {}  # by label, such as "Theorem 3.7"; of an equation the number alone
        self.works = parse_file(str(root / "book" / "references.bib")).entries
        toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
        chapters = [page for part in toc["parts"] if part.get("numbered") for page in listed_pages(part)]
        for page in listed_pages(toc):
            notebook = jupytext.read(root / f"{page}.md")
            self._number(notebook, f"{chapters.index(page) + 1}." if page in chapters else "")
            heading = re.search(r"^# (.*)$", "\n".join(cell.source for cell in notebook.cells), re.M)
            self.titles[page.split("/")[-1]] = heading[1] if heading else page

    def _number(self, notebook: Any, chapter: str) -> None:
        counts: Counter[str] = Counter()

        def count(counter: str) -> str:
            counts[counter] += 1
            return f"{chapter}{counts[counter]}"

        for cell in notebook.cells:
            if figure := cell.metadata.get("mystnb", {}).get("figure"):
                self.names[figure["name"]] = f"Fig. {count('figure')}"
            if cell.cell_type != "markdown":
                continue
            self.names |= {label: count("equation") for label in EQUATION.findall(cell.source)}
            for block in blocks(cell.source):
                if isinstance(block, Directive):
                    kind = block.name.removeprefix("prf:")
                    if kind in BOXES:
                        self.names[block.options["label"]] = f"{kind.capitalize()} {count('box')}"
                    elif kind == "exercise-start":
                        self.names[block.options["label"]] = f"Exercise {count('exercise')}"

    def notebook(self, page: str, source: Path, *, solutions: bool) -> Any:
        """Return a page as a notebook, with or without solutions."""
        notebook = jupytext.read(source)
        values = self.values(page)
        cells, in_solution = [], False
        for cell in notebook.cells:
            if cell.cell_type != "markdown":
                if solutions or not in_solution:
                    cells.append(cell)
                    if figure := cell.metadata.get("mystnb", {}).get("figure"):
                        caption = self.plain(figure["caption"].strip(), values)
                        cells.append(new_markdown_cell(f"*{self.names[figure['name']]}* {caption}"))
                continue
            kept = []
            for block in blocks(cell.source):
                in_solution |= isinstance(block, Directive) and block.name == "solution-start"
                if solutions or not in_solution:
                    kept.append(self.written(block, values))
                in_solution &= not (isinstance(block, Directive) and block.name == "solution-end")
            if text := "\n\n".join(each.strip() for each in kept if each.strip()):
                cells.append(new_markdown_cell(text))
        notebook.cells = cells
        return notebook

    def values(self, page: str) -> dict[str, Any]:
        """Return what the page's cells recorded in the last build."""
        built = self.root / "_build" / "html" / "_sources" / f"{page}.ipynb"
        if not built.is_file():
            raise ValueError(f"the site does not have {page} yet: make book first")
        outputs = [output for cell in nbformat.read(built, 4).cells for output in cell.get("outputs", [])]
        return {
            output.metadata["scrapbook"]["name"]: recorded(output.data["application/papermill.record/text/plain"])
            for output in outputs
            if "scrapbook" in output.get("metadata", {})
        }

    def plain(self, text: str, values: Mapping[str, Any]) -> str:
        """Return Markdown without directives and roles."""
        return "\n\n".join(self.written(block, values).strip() for block in blocks(text))

    def written(self, block: str | Directive, values: Mapping[str, Any]) -> str:
        """Return a block of Markdown without directives and roles."""
        if isinstance(block, str):
            text = TARGET.sub("", block)
            text = EQUATION.sub(lambda match: rf"\tag{{{self.names[match[1]]}}}" + "\n$$", text)
            return ROLE.sub(lambda match: self._role(match[1], match[2], values), text)
        body = self.plain(block.body, values)
        kind = block.name.removeprefix("prf:")
        if kind in BOXES:
            title = f" ({self.plain(block.title, values)})" if block.title else ""
            return f"**{self.names[block.options['label']]}**{title}.\n\n{body}"
        if kind == "proof":
            return f"*Proof.* {body} ∎"
        if kind == "admonition":
            return "\n".join(f"> {line}".rstrip() for line in f"**{block.title}**\n\n{body}".split("\n"))
        if kind == "exercise-start":
            return f"### {self.names[block.options['label']]}"
        if kind == "solution-start":
            return f"**Solution of {self.names[block.title]}**"
        if kind in ("exercise-end", "solution-end"):
            return ""
        if kind in ("grid", "grid-item-card"):
            return f"**{block.title}.** {body}" if kind == "grid-item-card" else body
        raise ValueError(f"the directive {{{block.name}}} has no plain form yet")

    def _role(self, role: str, text: str, values: Mapping[str, Any]) -> str:
        pointer = POINTER.match(text)
        words, target = pointer.groups() if pointer else ("", text)
        if role == "glue:text":
            name, _, form = text.partition(":")
            return format(values[name], form)
        if role == "doc":
            return words or f"*{self.titles[target]}*"
        if role in ("prf:ref", "numref"):
            return words or self.names[target]
        if role == "eq":
            return f"({self.names[target]})"
        if role == "cite":
            return f"({'; '.join(self._citation(key.strip()) for key in text.split(','))})"
        if role in ("py:func", "py:class", "py:mod"):
            return f"`{words or (target.split('.')[-1] if target.startswith('~') else target)}`"
        raise ValueError(f"the role {{{role}}} has no plain form yet")

    def _citation(self, key: str) -> str:
        work = self.works[key]
        authors = [" ".join(person.last_names) for person in work.persons["author"]]
        names = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
        return f"{names}, {work.fields['year']}"


if __name__ == "__main__":
    sys.exit(main())
