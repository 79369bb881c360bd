"""The directive {status}: when, where and how long each chapter was executed, and with what."""

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BEGAN = datetime.now(UTC)
ORIGIN = ("Versions", "Device", "Commit")
HEAD = ("Page", "Seconds", "Executed (UTC)", *ORIGIN)


class StatusTable(nodes.General, nodes.Element):
    """Stands for the table until all pages are read."""


class Status(SphinxDirective):
    """Show a row for each page that is executed."""

    def run(self) -> list[nodes.Node]:
        """Return what stands for the table."""
        return [StatusTable()]


def note_execution(app: Sphinx, doctree: nodes.document) -> None:
    """Remember how the page that was just read came to its outputs, in this build or in an earlier one.

    The origin is written beside the outputs in the cache when they are new, and goes with them.
    """
    page = app.env.docname
    if "exec_data" not in app.env.nb_metadata.get(page, {}):
        return
    notebook = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
    record = get_cache(app.config.nb_execution_cache_path).match_cache_notebook(nbformat.read(notebook, as_version=4))
    kept = Path(app.config.nb_execution_cache_path) / "executed" / record.hashkey / "origin.json"
    if not kept.is_file() and record.created.replace(tzinfo=UTC) >= BEGAN:
        kept.write_text(json.dumps(origin()))
    app.env.metadata[page]["execution"] = {
        "Seconds": f"{record.data['execution_seconds']:.1f}",
        "Executed (UTC)": f"{record.created:%Y-%m-%d %H:%M}",
        **(json.loads(kept.read_text()) if kept.is_file() else dict.fromkeys(ORIGIN, "unknown")),
    }


def origin() -> dict[str, str]:
    """Return what a chapter is executed with, here and now."""
    import torch

    import scb_nb

    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=7",
        "--exclude=*",
    ]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        commit = "unknown"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    versions = f"Python {platform.python_version()}, NumPy {version('numpy')}, PyTorch {version('torch')}, "
    return dict(zip(ORIGIN, (versions + f"scb_nb {scb_nb.__version__}", device, commit), strict=True))


def show_table(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the table in its place, a row a page in the order of the book, and a sum."""
    for place in list(doctree.findall(StatusTable)):
        pages = [app.config.root_doc, *app.env.toctree_includes[app.config.root_doc]]
        found = {each: app.env.metadata[each]["execution"] for each in pages if "execution" in app.env.metadata[each]}
        rows: list[list[nodes.Node]] = []
        for each, execution in found.items():
            link = nodes.reference("", app.env.titles[each].astext(), internal=True)
            link["refuri"] = app.builder.get_relative_uri(page, each)
            rows.append([link, *(nodes.Text(execution[name]) for name in HEAD[1:])])
        total = sum(float(execution["Seconds"]) for execution in found.values())
        rows.append([nodes.Text(text) for text in ("All", f"{total:.1f}", *[""] * (len(HEAD) - 2))])
        place.replace_self(table_of([nodes.Text(name) for name in HEAD], rows))


def table_of(head: Sequence[nodes.Node], rows: Sequence[Sequence[nodes.Node]]) -> nodes.table:
    """Return a table of inline nodes."""
    lines = [nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in row)) for row in (head, *rows)]
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += [nodes.thead("", lines[0]), nodes.tbody("", *lines[1:])]
    return nodes.table("", group, classes=["scb-status", "colwidths-auto"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(StatusTable)
    app.add_directive("status", Status)
    app.connect("doctree-read", note_execution)
    app.connect("doctree-resolved", show_table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
