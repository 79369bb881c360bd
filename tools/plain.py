"""Chapters as notebooks that read well anywhere: what only the book can show becomes plain Markdown.

Boxes, exercises, references and quoted numbers are written out as the site shows them. Code cells stay as they are. A
first cell sees to it that the package is there.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import parse_file  # type: ignore[import-untyped]
from run_notebooks import listed_pages

BOXES = ("definition", "lemma", "proposition", "theorem")  # which share one counter

OPENING = re.compile(r"^(`{3,}|:{3,})\{([a-z:-]+)\} *(.*)$")  # fence, name, title
OPTION = re.compile(r"^:([a-z]+): *(.*)$")
ROLE = re.compile(r"\{([a-z:]+)\}`([^`]*)`")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.M)
SECTION = re.compile(r"^\(([\w-]+)\)=\n+#+ (.*)$", re.M)
EQUATION = re.compile(r"^\$\$ \(([\w-]+)\)$", re.M)
POINTER = re.compile(r"^(.*?) *<([^>]+)>$", re.S)  # text <target>

SOLUTION = "#### Solution of "
FOLDED = "jp-MarkdownHeadingCollapsed"  # JupyterLab then hides what is under the heading, as the page does

FIRST_CELL = """\
# Run this first: the code below needs the book's package.
try:
    import scb_nb
{where_missing}

if scb_nb.__version__ != "{version}":
    import warnings

    warnings.warn(f"This notebook was written for scb_nb {version}, and {{scb_nb.__version__}} is installed.")
"""
INSTALL = """\
except ImportError:
    %pip install --quiet git+{address}@v{version}
    import scb_nb"""
REFUSE = """\
except ImportError as error:
    raise ImportError(
        "Install scb_nb {version} first. The download menu of each chapter on the book's site has the file: "
        "%pip install {wheel}"
    ) from error"""


def first_cell(version: str, address: str) -> str:
    """Return code that installs this version of the package where it is missing; without an address it says how to."""
    where_missing = INSTALL if address else REFUSE
    where_missing = where_missing.format(version=version, address=address.rstrip("/"), wheel=wheel_name(version))
    return FIRST_CELL.format(version=version, where_missing=where_missing).strip()


def repository(root: Path) -> str:
    """Return the repository's address, which _config.yml alone knows; empty while it has none."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return config.get("repository", {}).get("url") or ""


def wheel_name(version: str) -> str:
    return f"scb_nb-{version}-py3-none-any.whl"


def package_version(root: Path) -> str:
    """Return the version of the package in that folder, which need not be the one that is installed."""
    text = (root / "scb_nb" / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]


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


def without_outputs(notebook: Any) -> Any:
    """Clear a notebook, and return it."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def recorded_values(notebook: Any) -> dict[str, Any]:
    """Return what the cells of a notebook that ran have recorded, by name."""
    return {
        output.metadata["scrapbook"]["name"]: recorded(output.data["application/papermill.record/text/plain"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "scrapbook" in output.get("metadata", {})
    }


class Book:
    """What pages are called, and the number that the site gives to each thing with a label."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.titles: dict[str, str] = {}  # by name of page, or label of section
        self.names: dict[str, str] = {}  # by label, such as "Theorem 3.7"; of an equation the number alone
        self.works = parse_file(str(root / "book" / "references.bib")).entries
        toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
        chapters = [page for part in toc["parts"] if part.get("numbered") for page in listed_pages(part)]
        unnumbered: Counter[str] = Counter()
        for page in listed_pages(toc):
            notebook = jupytext.read(root / f"{page}.md")
            if page in chapters:
                self._number(notebook, f"{chapters.index(page) + 1}.", Counter())
            else:  # these pages are numbered through
                self._number(notebook, "", unnumbered)
            text = "\n".join(cell.source for cell in notebook.cells)
            self.titles[page.split("/")[-1]] = next(iter(re.findall(r"^# (.*)$", text, re.M)), page)
            self.titles |= dict(SECTION.findall(text))

    def _number(self, notebook: Any, chapter: str, counts: Counter[str]) -> None:
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

    def notebook(self, page: str, values: Mapping[str, Any], *, solutions: bool = True) -> Any:
        """Return a page as a notebook without outputs; ``values`` are what its cells recorded, to be quoted."""
        source = jupytext.read(self.root / f"{page}.md")
        cells = [new_code_cell(first_cell(package_version(self.root), repository(self.root)))]
        in_solution = False
        for cell in source.cells:
            if cell.cell_type != "markdown":
                if solutions or not in_solution:
                    if "hide-input" in cell.metadata.get("tags", []):
                        cell.metadata["jupyter"] = {"source_hidden": True}
                    cells.append(cell)
                    if figure := cell.metadata.get("mystnb", {}).get("figure"):
                        caption = self.plain(figure["caption"].strip(), values)
                        cells.append(new_markdown_cell(f"*{self._name(figure['name'])}* {caption}"))
                continue
            parts: list[list[str]] = [[]]
            for block in blocks(cell.source):
                name = block.name if isinstance(block, Directive) else ""
                in_solution |= name == "solution-start"
                if name in ("exercise-start", "solution-start"):
                    parts.append([])
                if solutions or not in_solution:
                    parts[-1].append(self.written(block, values).strip())
                if name == "solution-start":
                    parts.append([])  # under a heading of its own
                in_solution &= name != "solution-end"
            texts = ("\n\n".join(filter(None, part)) for part in parts)
            cells += [new_markdown_cell(text) for text in texts if text]
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"  # the same at each writing
            if cell.source.startswith(SOLUTION):
                cell.metadata[FOLDED] = True
        kernel = {"kernelspec": source.metadata["kernelspec"], "language_info": {"name": "python"}}
        return new_notebook(cells=cells, metadata=kernel)

    def executed(self, page: str, notebook: Any) -> Any:
        """Return a page with the outputs of its notebook that ran."""
        ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
        plain = self.notebook(page, recorded_values(notebook))
        code = [cell for cell in plain.cells if cell.cell_type == "code"][1:]
        for cell, source in zip(code, ran, strict=True):
            cell.outputs, cell.execution_count = source.outputs, source.execution_count
        return plain

    def values(self, page: str) -> dict[str, Any]:
        """Return what the page's cells recorded in the last build of the site."""
        built = self.root / "_build" / "html" / "_sources" / f"{page}.ipynb"
        if not built.is_file():
            raise ValueError(f"the site does not have {page} yet: make book first")
        return recorded_values(nbformat.read(built, 4))

    def plain(self, text: str, values: Mapping[str, Any]) -> str:
        """Return Markdown without directives and roles."""
        return "\n\n".join(self.written(block, values).strip() for block in blocks(text))

    def written(self, block: str | Directive, values: Mapping[str, Any]) -> str:
        """Return a block of Markdown without directives and roles."""
        if isinstance(block, str):
            text = TARGET.sub("", block)
            text = EQUATION.sub(lambda match: rf"\tag{{{self._name(match[1])}}}" + "\n$$", text)
            return ROLE.sub(lambda match: self._role(match[1], match[2], values), text)
        body = self.plain(block.body, values)
        kind = block.name.removeprefix("prf:")
        if kind in BOXES:
            title = f" ({self.plain(block.title, values)})" if block.title else ""
            return f"**{self._name(block.options['label'])}**{title}.\n\n{body}"
        if kind == "proof":
            return f"*Proof.* {body} ∎"
        if kind == "admonition":
            return "\n".join(f"> {line}".rstrip() for line in f"**{block.title}**\n\n{body}".split("\n"))
        if kind == "exercise-start":
            return f"### {self._name(block.options['label'])}"
        if kind == "solution-start":
            return SOLUTION + self._name(block.title)
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
            try:
                return format(values[name], form)
            except KeyError:
                raise ValueError(f"the last build recorded no {name}: make book first") from None
        if role in ("doc", "ref"):
            return words or f"*{self.titles.get(target, target)}*"
        if role in ("prf:ref", "numref"):
            return words or self._name(target)
        if role == "eq":
            return f"({self._name(target)})"
        if role == "cite":
            return f"({'; '.join(self._citation(key.strip()) for key in text.split(','))})"
        if role == "term":
            return words or target
        if role in ("py:func", "py:class", "py:mod"):
            return f"`{words or (target.split('.')[-1] if target.startswith('~') else target)}`"
        raise ValueError(f"the role {{{role}}} has no plain form yet")

    def _name(self, label: str) -> str:
        return self.names.get(label, label)  # a trial build with fewer pages knows fewer names

    def _citation(self, key: str) -> str:
        work = self.works[key]
        authors = [" ".join(person.last_names) for person in work.persons["author"]]
        names = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
        return f"{names}, {work.fields['year']}"
