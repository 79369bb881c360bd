"""What the build needs beyond its settings: a cache that knows the package, and MathJax without a network."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.fileutil import copy_asset_file

ROOT = Path(__file__).parents[2]


def key_cache_on_package(app: Sphinx, config: Config) -> None:
    """Execute chapters anew whenever the package or the lock has changed.

    Jupyter's cache knows a notebook by its code cells alone, and would show results of a package that is gone.
    """
    digest = hashlib.sha256()
    for path in sorted([ROOT / "requirements.lock", *(ROOT / "scb_nb").rglob("*.*")]):
        if path.suffix != ".pyc" and path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    config.nb_execution_cache_path = str(ROOT / "_build" / ".jupyter_cache" / digest.hexdigest()[:16])


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax into the site: one file that needs neither fonts nor other files, from the package in the lock."""
    if error is None and app.builder.format == "html":
        spec = importlib.util.find_spec("sphinx-mathjax-offline")
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).parent / "static" / app.config.mathjax_path
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        copy_asset_file(source, target)


def offer_notebook(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Offer a chapter's executed notebook for download; the theme does so only beside launch buttons.

    MyST-NB leaves out the outputs of a chapter that came from the cache, so they are put back from there.
    """
    notebook = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
    if doctree is not None and notebook.is_file():
        target = Path(app.outdir) / "_sources" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        cache = get_cache(app.config.nb_execution_cache_path)
        _, executed = cache.merge_match_into_notebook(nbformat.read(notebook, as_version=4))
        nbformat.write(executed, target)
        context["ipynb_source"] = f"{page}.ipynb"


def drop_list_role(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave the bibliography a plain block: docutils calls it a list, but not its entries items."""
    wrong, right = '<div role="list" class="citation-list">', '<div class="citation-list">'
    context["body"] = context.get("body", "").replace(wrong, right)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", key_cache_on_package, priority=900)
    app.connect("html-page-context", offer_notebook)
    app.connect("html-page-context", drop_list_role)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
