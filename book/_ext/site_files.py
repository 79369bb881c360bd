"""What a published site has beside its pages: a page for addresses that lead nowhere, a map for search engines, and
what others show of a page when they link to it. The site's own address is html.baseurl in _config.yml.
"""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.util import logging

LOST = """<section><h1>Page not found</h1>
<p>This book has no page at this address. It may have moved: look for it in the contents, or search.
Or begin <a href="{start}">at the beginning</a>.</p></section>"""

LOCAL = re.compile(r'((?:href|src|action|data-content_root)=")(?:\./)?(?!#|/|[a-z]+:)')
OWN_URL = re.compile(r'<meta property="og:url"[^>]*>\s*')

logger = logging.getLogger(__name__)


def settle_address(app: Sphinx, config: Config) -> None:
    """Let all that asks for the site's address have it from one place."""
    address = config.html_baseurl
    if address and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", address):
        raise ConfigError(
            f"html.baseurl in _config.yml must be like https://host/ or https://host/folder/, got {address}"
        )
    config.html_baseurl = config.ogp_site_url = f"{address.rstrip('/')}/" if address else ""


def drop_unknown_url(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Tell a page's address only if there is one."""
    if not app.config.html_baseurl:
        context["metatags"] = OWN_URL.sub("", context.get("metatags", ""))


def lost_page(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the page that a host shows for an address that leads nowhere."""
    start = app.builder.get_target_uri(app.config.root_doc)
    yield "404", {"title": "Page not found", "body": LOST.format(start=start)}, "page.html"


def write_files(app: Sphinx, error: Exception | None) -> None:
    """Make the lost page work at any depth, and write the map where the address is known."""
    if error is not None or app.builder.name != "html":
        return
    site, address = Path(app.outdir), app.config.html_baseurl
    lost = site / "404.html"
    top = urlsplit(address).path or "/"
    lost.write_text(LOCAL.sub(rf"\g<1>{top}", lost.read_text(encoding="utf-8")), encoding="utf-8")
    if not address:
        (site / "sitemap.xml").unlink(missing_ok=True)
        logger.info("site: no sitemap, for html.baseurl is not set in _config.yml")
        return
    pages = [address + app.builder.get_target_uri(page) for page in sorted(app.env.found_docs)]
    lines = "".join(f"<url><loc>{escape(page)}</loc></url>\n" for page in pages)
    schema = "http://www.sitemaps.org/schemas/sitemap/0.9"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{schema}">\n{lines}</urlset>\n'
    (site / "sitemap.xml").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", settle_address)
    app.connect("html-page-context", drop_unknown_url, priority=900)
    app.connect("html-collect-pages", lost_page)
    app.connect("build-finished", write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
