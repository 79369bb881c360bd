"""The directive {claims}: the rows of experiments/claims.py as sections, behind an overview, and their twin as JSON."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
TWIN = "claims.json"


class Claims(SphinxDirective):
    """Show every claim: what it says, what was measured, and the verdict."""

    def run(self) -> list[nodes.Node]:
        """Return an overview, where to download the twin, and a section for each claim."""
        claims = claims_module()
        for pattern in ("experiments/*.py", "scb_nb/results/*.jsonl", "scb_nb/*.py"):
            for path in ROOT.glob(pattern):
                self.env.note_dependency(str(path))
        try:
            rows = claims.rows()
        except FileNotFoundError as error:
            raise self.error(str(error)) from None
        for fault in claims.faults(rows):
            raise self.error(fault)
        self.env.metadata[self.env.docname]["claims"] = claims.twin(rows)  # for the end of the build
        whose = {of: [each for each in rows if each["of"] == of] for of in dict.fromkeys(each["of"] for each in rows)}
        overviews = [self.overview(f"Claims of {of}", each) for of, each in whose.items()]
        return [*overviews, self.download(), *(self.section(each) for each in rows)]

    def overview(self, title: str, rows: list[dict[str, Any]]) -> nodes.Node:
        """Return a table of claims and verdicts."""
        body = []
        for each in rows:
            link = nodes.reference("", "", *self.inline(each["title"]), internal=True, refid=f"claim-{each['name']}")
            cells = nodes.paragraph("", "", link), nodes.paragraph("", "", verdict(each))
            body.append(nodes.row("", *(nodes.entry("", cell) for cell in cells)))
        head = nodes.row("", *(nodes.entry("", nodes.paragraph("", word)) for word in (title, "Verdict")))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (60, 40)), cols=2)
        group += [nodes.thead("", head), nodes.tbody("", *body)]
        return nodes.table("", group, classes=["scb-claims"])

    def download(self) -> nodes.Node:
        """Return a sentence with a link to the twin, which only the site has."""
        address = "../" * self.env.docname.count("/") + TWIN
        link = nodes.reference("", TWIN, refuri=address, internal=True)
        text = nodes.paragraph("", "", nodes.Text("The same table for programs: "), link, nodes.Text("."))
        return addnodes.only("", text, expr="html")

    def section(self, row: dict[str, Any]) -> nodes.Node:
        """Return what is to be said of one claim."""
        name = f"claim-{row['name']}"
        section = nodes.section(names=[name])
        self.state.document.note_explicit_target(section)
        section += nodes.title("", "", *self.inline(row["title"]))
        said = f" {row['range'][0].upper()}{row['range'][1:]}" if row["range"] else ""
        section += nodes.paragraph("", "", verdict(row), nodes.Text("." if said else ""), *self.inline(said))
        page = f"{Path(self.env.docname).parent}/{row['chapter']}"
        chapter = f"{{doc}}`{row['chapter']}`" if page in self.env.found_docs else "a chapter that is being written"
        runs = sum(row["runs"].values())
        asked = {bound["of"]: bound["words"] + (" †" if bound["core"] else "") for bound in row["rule"]["bounds"]}
        lines = [f"| {each['what']} | {each['words']} | {asked.get(of, '')} |" for of, each in row["measured"].items()]
        self.markdown(
            section,
            f"**{'The paper claims' if row['of'] == 'the paper' else 'This book claims'}.** {row['claim']}",
            f"**Tried.** {row['setting']} More in {chapter}.",
            "\n".join(["| Measured | Value (90% interval) | Asked for |", "| --- | --- | --- |", *lines]),
            *([f"**Rule.** {row['rule']['words']}"] if "†" in "".join(asked.values()) else []),
            f"**Reproduce.** {' and '.join(f'`{command}`' for command in row['commands'])} (kept: {runs} runs, "
            f"{' to '.join(sorted({row['dates'][0], row['dates'][-1]}))}, commit {', '.join(row['commits'])}, "
            f"{row['minutes']} core minutes).",
        )
        return section

    def markdown(self, parent: nodes.Element, *blocks: str) -> None:
        """Append Markdown to a node."""
        source, _ = self.get_source_info()
        self.state.nested_parse(StringList("\n\n".join(blocks).splitlines(), source), 0, parent)

    def inline(self, text: str) -> list[nodes.Node]:
        """Return the inline nodes of a line of Markdown."""
        found, problems = self.state.inline_text(text, self.lineno)
        return [*found, *problems]


def verdict(row: dict[str, Any]) -> nodes.Node:
    """Return the verdict as inline text, for the style sheet to mark."""
    words = row["verdict"]
    return nodes.inline("", words[0].upper() + words[1:], classes=["scb-verdict", f"scb-{words.replace(' ', '-')}"])


def claims_module() -> Any:
    """Return the module with the rows, from the repository that the book lies in."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from experiments import claims

    return claims


def write_twin(app: Sphinx, error: Exception | None) -> None:
    """Put claims.json into the site: the very rows that the page shows."""
    if error is None and app.builder.format == "html":
        for metadata in app.env.metadata.values():
            if "claims" in metadata:
                (Path(app.outdir) / TWIN).write_text(metadata["claims"], encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims", Claims)
    app.connect("build-finished", write_twin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
