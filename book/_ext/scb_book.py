"""What the build needs beyond its settings: pages that are never stale, and MathJax without a network."""

import gc
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sphinx_exercise
import sphinx_proof
from myst_nb.sphinx_ext import add_global_html_resources
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.fileutil import copy_asset_file

ROOT = Path(__file__).parents[2]
BUILDING, CLEAN = "building", "clean"  # files beside what Sphinx remembers of the pages


def digest_of(paths: Iterable[Path]) -> str:
    """Return a digest of files, names included: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        if "__pycache__" not in path.parts and path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def key_cache_on_package(app: Sphinx, config: Config) -> None:
    """Execute chapters anew whenever the package or the lock has changed.

    Jupyter's cache knows a notebook by its code cells alone, and would show results of a package that is gone.
    """
    key = digest_of([ROOT / "requirements.lock", *(ROOT / "scb_nb").rglob("*.*")])
    config.nb_execution_cache_path = str(ROOT / "_build" / ".jupyter_cache" / key)


def read_all_unless_clean(app: Sphinx, config: Config) -> None:
    """Read every page anew, not only those that have changed, if what all pages depend on has changed, or if the last
    build was stopped or warned: of pages that it does not read, Sphinx would not repeat a warning.
    """
    shared = [ROOT / name for name in ("_config.yml", "_toc.yml", "book/references.bib", "tools/plain.py")]
    shared += (ROOT / "book/_ext").glob("*.py")
    key = digest_of(shared) + Path(config.nb_execution_cache_path).name
    folder = Path(app.doctreedir)
    if not (folder / CLEAN).is_file() or (folder / CLEAN).read_text() != key:
        (folder / "environment.pickle").unlink(missing_ok=True)
    (folder / CLEAN).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BUILDING).write_text(key)


def mark_clean(app: Sphinx, error: Exception | None) -> None:
    """Note that this build ended without a warning."""
    if error is None and not app._warncount:
        (Path(app.doctreedir) / BUILDING).rename(Path(app.doctreedir) / CLEAN)


def write_every_page(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Write also the pages that were not read anew: their references may lead to a page that was."""
    return list(env.found_docs)


def place_assets(app: Sphinx, env: BuildEnvironment) -> None:
    """Put into the site, before its pages are written, what extensions would put there only at the end.

    Sphinx tells browsers a checksum of each file that it finds: so the first build finds the same as any other. MathJax
    comes from the package in the lock, one file that needs neither fonts nor other files.
    """
    if app.builder.format != "html":
        return
    sphinx_exercise.copy_asset_files(app, None)
    sphinx_proof.copy_asset_files(app, None)
    add_global_html_resources(app, None)
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    assert spec is not None and spec.origin is not None
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    copy_asset_file(Path(spec.origin).parent / "static" / app.config.mathjax_path, target)


def drop_widget_state(app: Sphinx, doctree: Any) -> None:
    """Leave out what a widget manager would read: the site has none."""
    app.env.nb_metadata.get(app.env.docname, {}).pop("js_files", None)


def drop_list_role(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave the bibliography a plain block: docutils calls it a list, but not its entries items."""
    wrong, right = '<div role="list" class="citation-list">', '<div class="citation-list">'
    context["body"] = context.get("body", "").replace(wrong, right)


def setup(app: Sphinx) -> dict[str, Any]:
    gc.set_threshold(1_000_000)  # a build makes many objects and throws few away: looking for these took long
    app.connect("config-inited", key_cache_on_package, priority=900)
    app.connect("config-inited", read_all_unless_clean, priority=901)
    app.connect("doctree-read", drop_widget_state)
    app.connect("env-updated", place_assets)
    app.connect("env-updated", write_every_page)
    app.connect("html-page-context", drop_list_role)
    app.connect("build-finished", mark_clean)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
