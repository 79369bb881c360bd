"""The built site, served on this machine alone, and one headless Chromium in which its pages are opened."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

SITE = Path(os.environ.get("SITE", Path(__file__).parents[2] / "_build/html")).resolve()
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
NO_OTHER_HOST = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

# sphinx-thebe writes its settings into each page twice. Nothing reads them: no button starts it.
HARMLESS = {"Identifier 'THEBE_JS_URL' has already been declared"}

DRAWN = "() => document.fonts.ready.then(() => window.MathJax?.startup?.promise).then(() => true)"
UNFOLD = """() => {
    const folded = document.querySelectorAll("details:not([open]) > summary, .toggle-hidden > .admonition-title");
    for (const title of folded) title.click();
    return folded.length;
}"""
BYTES = """() => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""

lines = pytest.StashKey[set[str]]()


@dataclass
class Visit:
    """A page opened for the first time, nothing cached or stored, and what has happened since."""

    name: str
    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    weight: int = 0

    def listen(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.failures.append(f"{request.failure}: {request.url}"))
        self.page.on("response", self._note_response)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self._note_error(error.message))

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.failures.append(f"{response.status}: {response.url}")

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note_error(message.text)

    def _note_error(self, text: str) -> None:
        if text not in HARMLESS:
            self.errors.append(text)


@dataclass
class Book:
    browser: Browser
    address: str
    folder: Path

    @contextmanager
    def open(self, name: str, theme: str = "", **options: Any) -> Iterator[Visit]:
        """Open a page, wait until it is drawn, and unfold what is folded; a theme was chosen at an earlier visit."""
        with self.browser.new_context(reduced_motion="reduce", **options) as context:
            if theme:
                context.add_init_script(f'for (const key of ["mode", "theme"]) localStorage.setItem(key, "{theme}");')
            visit = Visit(name, context.new_page())
            visit.listen()
            visit.page.goto(f"{self.address}{name}.html", wait_until="networkidle")
            if options.get("java_script_enabled", True):
                visit.page.evaluate(DRAWN)
                visit.weight = visit.page.evaluate(BYTES)
                # What unfolds would fade in, and be judged too pale on its way.
                visit.page.add_style_tag(content="* { animation: none !important; transition: none !important; }")
                if visit.page.evaluate(UNFOLD):
                    visit.page.wait_for_timeout(400)  # after 300, the theme lets the keyboard into code that scrolls
            yield visit


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site's address, while it is served."""
    if not (SITE / "search.html").is_file():
        pytest.exit(f"No site at {SITE}: build it with 'make book', or set SITE to the folder of one.", returncode=1)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def book(address: str) -> Iterator[Book]:
    if not shutil.which(CHROMIUM):
        pytest.exit(f"No Chromium at {CHROMIUM}: 'apt install chromium', or set CHROMIUM to its path.", returncode=1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, NO_OTHER_HOST])
        yield Book(browser, address, SITE)
        browser.close()


@pytest.fixture(scope="module")
def visit(request: pytest.FixtureRequest, book: Book) -> Iterator[Visit]:
    """A page, opened once for all its tests."""
    with book.open(request.param, color_scheme="light") as visit:
        yield visit


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Any:
    """Say a line at the end of the run, even if all tests pass."""
    return request.config.stash.setdefault(lines, set()).add


@pytest.fixture(scope="session")
def weights(tell: Any) -> Iterator[dict[str, int]]:
    """The bytes of each page with all that it loads; the largest is told at the end."""
    weights: dict[str, int] = {}
    yield weights
    if weights:
        weight, name = max((weight, name) for name, weight in weights.items())
        tell(f"heaviest page: {name}, {weight / 1e6:.1f} MB with all that it loads")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = config.stash.get(lines, None) or set()
    for line in sorted(told):
        terminalreporter.write_line(line)
