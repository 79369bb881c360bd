"""Chapters to take away: as notebooks, with the package that these need, or opened on Binder or Colab.

The repository's address is set in _config.yml alone (repository: url). While it is empty, no button leads there.
"""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from flit_core.wheel import make_wheel_in
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from plain import Book, package_version, wheel_name, without_outputs  # noqa: E402


def settle_buttons(app: Sphinx, config: Config) -> None:
    """Show the theme's buttons for the repository where that has an address."""
    address = config.html_theme_options.get("repository_url")
    if address and not re.fullmatch(r"https://[^\s/]+(/[^\s/?#]+){2,}/?", address):
        raise ConfigError(f"repository: url in _config.yml must be like https://github.com/NAME/BOOK, got {address}")
    for button in ("repository", "edit_page", "issues"):
        config.html_theme_options[f"use_{button}_button"] = bool(address)


@cache
def book() -> Book:
    return Book(ROOT)


def offer_notebook(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Offer a chapter as a notebook, with the outputs of this build and without.

    MyST-NB leaves out the outputs of a chapter that came from the cache, so they are put back from there.
    """
    built = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
    if doctree is None or not built.is_file():
        return
    _, ran = get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(nbformat.read(built, as_version=4))
    notebook = book().executed(page, ran)
    target = Path(app.outdir) / "_sources" / page
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target.with_suffix(".ipynb"))
    nbformat.write(without_outputs(notebook), target.with_suffix(".plain.ipynb"))
    context["ipynb_source"] = f"{page}.ipynb"  # of which the theme makes a button


def add_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put what the theme does not know of among the buttons of a page that is a notebook."""
    if "ipynb_source" not in context:
        return
    version, pathto = package_version(ROOT), context["pathto"]
    (menu,) = (group for group in context["header_buttons"] if group["label"] == "download-buttons")
    plain, wheel = pathto(f"_sources/{page}.plain.ipynb", 1), pathto(f"_static/{wheel_name(version)}", 1)
    menu["buttons"][1:1] = [
        button("plain-notebook", ".ipynb, no outputs", "Download notebook without outputs", "fas fa-code", plain),
        button("package", ".whl", "Download the package that the notebooks need", "fas fa-box", wheel),
    ]
    if address := app.config.html_theme_options.get("repository_url"):
        buttons = launch_buttons(address.rstrip("/"), f"v{version}", f"notebooks/{page}.ipynb")
        group = {"type": "group", "label": "launch-buttons", "tooltip": "Run this page", "icon": "fas fa-rocket"}
        context["header_buttons"].insert(0, group | {"buttons": buttons})


def launch_buttons(address: str, tag: str, notebook: str) -> list[dict[str, str]]:
    """Return links that open a notebook of the repository, as it is in this version of the site.

    The theme's own would open the page's source, and the newest one.
    """
    binder = f"https://mybinder.org/v2/git/{quote(address, safe='')}/{tag}?urlpath=lab/tree/{notebook}"
    buttons = [button("binder", "Binder", "Run on Binder", "_static/images/logo_binder.svg", binder)]
    name = address.partition("github.com/")[2]
    if name:  # Colab opens nothing from elsewhere
        colab = f"https://colab.research.google.com/github/{name}/blob/{tag}/{notebook}"
        buttons.append(button("colab", "Colab", "Run on Colab", "_static/images/logo_colab.png", colab))
    return buttons


def button(label: str, text: str, tooltip: str, icon: str, url: str) -> dict[str, str]:
    return {"type": "link", "label": f"{label}-button", "text": text, "tooltip": tooltip, "icon": icon, "url": url}


def build_wheel(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        make_wheel_in(ROOT / "pyproject.toml", Path(app.outdir) / "_static")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", settle_buttons)
    app.connect("html-page-context", offer_notebook)
    app.connect("html-page-context", add_buttons, priority=502)  # after the theme's
    app.connect("build-finished", build_wheel)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
