"""What book/_ext/downloads.py puts on a page: tried on a book of one page, with and without a repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import nbformat
import pytest
import yaml
from sphinx.errors import ConfigError

import scb_nb

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import downloads  # noqa: E402

VERSION = scb_nb.__version__
ADDRESS = "https://github.com/some-one/a.book"

PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# One

```{prf:definition}
:label: def-one
It is {glue:text}`share:.2f`.
```

```{code-cell} python
from IPython.display import display

data = {"application/papermill.record/text/plain": "0.25"}
named = {"scrapbook": {"name": "share", "mime_prefix": "application/papermill.record/"}}
display(data, raw=True, metadata=named)
print("said")
```
"""


@pytest.fixture(scope="module", params=["", ADDRESS], ids=["no address", "address"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A site of one chapter, built twice, so that its page comes from the cache; and the repository's address."""
    root = tmp_path_factory.mktemp("book")
    for name in ("scb_nb", "tools", "book/_ext", "book/_static", "experiments"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "LICENSE-text", "pyproject.toml", "requirements.lock", "book/references.bib"):
        shutil.copy(ROOT / name, root / name)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = request.param
    (root / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (root / "_toc.yml").write_text("{format: jb-book, root: book/index, parts: [{chapters: [file: book/one]}]}")
    (root / "book" / "index.md").write_text("# Text\n")
    (root / "book" / "one.md").write_text(PAGE)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--path-output", ".", "--all"]
    for _ in range(2):
        result = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    assert "Executed notebook" not in result.stdout + result.stderr
    return root / "_build" / "html", request.param


@pytest.fixture
def page(site: tuple[Path, str]) -> str:
    return (site[0] / "book" / "one.html").read_text(encoding="utf-8")


def links(page: str, label: str) -> list[str]:
    """Where the buttons of that label lead."""
    return re.findall(rf'<a href="([^"]*)"[^>]*class="[^"]*\bbtn-{label}-button\b', page)


def test_a_notebook_has_its_outputs_and_a_first_cell_even_from_the_cache(site: tuple[Path, str], page: str) -> None:
    (path,) = links(page, "download-notebook")
    notebook = nbformat.read(site[0] / "book" / path, 4)
    nbformat.validate(notebook)
    first, box, code = notebook.cells
    assert f'scb_nb.__version__ != "{VERSION}"' in first.source
    assert box.source == "# One\n\n**Definition 1**.\n\nIt is 0.25."
    assert [output.text for output in code.outputs if output.output_type == "stream"] == ["said\n"]


def test_the_plain_one_is_the_same_without_outputs(site: tuple[Path, str], page: str) -> None:
    (path,), (full,) = links(page, "plain-notebook"), links(page, "download-notebook")
    plain, full = (nbformat.read(site[0] / "book" / name, 4) for name in (path, full))
    assert [cell.source for cell in plain.cells] == [cell.source for cell in full.cells]
    assert [cell.outputs for cell in plain.cells if cell.cell_type == "code"] == [[], []]
    assert [cell.execution_count for cell in plain.cells if cell.cell_type == "code"] == [None, None]


def test_the_package_is_offered_beside(site: tuple[Path, str], page: str) -> None:
    (path,) = links(page, "package")
    with ZipFile(site[0] / "book" / path) as wheel:
        assert f"scb_nb-{VERSION}.dist-info/METADATA" in wheel.namelist()
        assert "scb_nb/results/bar.jsonl" in wheel.namelist()


def test_buttons_lead_to_the_repository_where_it_has_an_address(site: tuple[Path, str], page: str) -> None:
    told = page + (site[0] / "book" / "index.html").read_text(encoding="utf-8")
    if not site[1]:
        assert re.findall(r"mybinder|colab|btn-(?:source|binder|colab)-\w+|github\.com/(?!executablebooks)", told) == []
        return
    notebook = f"v{VERSION}/notebooks/book/one.ipynb"
    assert links(page, "colab") == [f"https://colab.research.google.com/github/some-one/a.book/blob/{notebook}"]
    binder = notebook.replace("/", "?urlpath=lab/tree/", 1)
    assert links(page, "binder") == [
        f"https://mybinder.org/v2/git/https%3A%2F%2Fgithub.com%2Fsome-one%2Fa.book/{binder}"
    ]
    assert links(page, "source-repository") == [ADDRESS]
    assert links(page, "source-edit") == [f"{ADDRESS}/edit/main/book/one.md"]
    assert links(page, "source-issues")[0].startswith(f"{ADDRESS}/issues/new")
    first = nbformat.read(site[0] / "_sources" / "book" / "one.ipynb", 4).cells[0].source
    assert f"%pip install --quiet git+{ADDRESS}@v{VERSION}\n" in first


def test_what_may_be_done_with_the_text_is_told(page: str) -> None:
    assert "Text and figures: CC BY 4.0. Code: BSD 3-clause." in page


def test_pages_without_code_offer_no_notebook(site: tuple[Path, str]) -> None:
    page = (site[0] / "book" / "index.html").read_text(encoding="utf-8")
    assert [label for label in ("download-notebook", "plain-notebook", "colab", "binder") if links(page, label)] == []


@pytest.mark.parametrize(
    "address", ["github.com/a/b", "https://github.com/a", "https://github.com/a b/c", "git@github.com:a/b"]
)
def test_an_address_that_leads_nowhere_is_refused(address: str) -> None:
    config: Any = SimpleNamespace(html_theme_options={"repository_url": address})
    with pytest.raises(ConfigError, match=re.escape(f"must be like https://github.com/NAME/BOOK, got {address}")):
        downloads.settle_buttons(None, config)


def test_colab_opens_nothing_from_elsewhere() -> None:
    (binder,) = downloads.launch_buttons("https://gitlab.com/a/b/c", "v1", "notebooks/x.ipynb")
    assert (
        binder["url"]
        == "https://mybinder.org/v2/git/https%3A%2F%2Fgitlab.com%2Fa%2Fb%2Fc/v1?urlpath=lab/tree/notebooks/x.ipynb"
    )
