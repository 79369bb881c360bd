"""The built site, served on this machine alone, and one headless Chromium in which its pages are opened."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, TimeoutError, sync_playwright

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("SITE", ROOT / "_build/html")).resolve()
REPORT = ROOT / "build" / "pages.json"
BASEURL = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"].get("baseurl") or ""
TOP = urlsplit(BASEURL).path.rstrip("/") + "/"  # the folder that the published site lies in
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
# The theme lets the keyboard into code that scrolls, a moment after it unfolds.
REACHABLE = """() => [...document.querySelectorAll("pre")]
    .every((code) => code.tabIndex === 0 || code.scrollWidth <= code.clientWidth)"""
# When the page answered to its reader: every script had run, and every formula was drawn.
TIMER = """addEventListener("load", () => document.fonts.ready.then(() => window.MathJax?.startup?.promise)
    .then(() => { window.answeredAt = performance.now(); }))"""
BYTES = """() => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""


@dataclass
class Visit:
    """A page opened for the first time, nothing cached or stored, and what has happened since."""

    name: str
    page: Page
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    weight: int = 0
    seconds: float = 0

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
            context.add_init_script(TIMER)
            visit = Visit(name, context.new_page())
            visit.listen()
            visit.page.goto(f"{self.address}{name}.html", wait_until="networkidle")
            if options.get("java_script_enabled", True):
                visit.page.evaluate(DRAWN)
                visit.weight = visit.page.evaluate(BYTES)
                visit.seconds = visit.page.wait_for_function("window.answeredAt").json_value() / 1000
                # What unfolds would fade in, and be judged too pale on its way.
                visit.page.add_style_tag(content="* { animation: none !important; transition: none !important; }")
                if visit.page.evaluate(UNFOLD):
                    with suppress(TimeoutError):  # if it never comes, the test of the keyboard says so
                        visit.page.wait_for_function(REACHABLE, timeout=5000)
            yield visit


class Handler(SimpleHTTPRequestHandler):
    """Serves the site in its folder, and its own page for addresses that lead nowhere, as its host does."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path[len(TOP) - 1 :] if path.startswith(TOP) else "/nowhere")

    def send_error(self, code: int, *args: Any) -> None:
        lost = SITE / "404.html"
        if code != 404 or not lost.is_file():
            return super().send_error(code, *args)
        self.send_response(code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(lost.read_bytes())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site's address, while it is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{TOP}"
        server.shutdown()


def leave_if_missing() -> None:
    """Say what the tests of this folder lack, and how to get it."""
    if not shutil.which(CHROMIUM):
        pytest.exit(f"No Chromium at {CHROMIUM}: 'apt install chromium', or set CHROMIUM to its path.", returncode=1)
    if not (SITE / "search.html").is_file():
        pytest.exit(f"No site at {SITE}: build it with 'make book', or set SITE to the folder of one.", returncode=1)


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ and not session.config.option.collectonly:
        leave_if_missing()


@pytest.fixture(scope="session")
def book(address: str) -> Iterator[Book]:
    leave_if_missing()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, NO_OTHER_HOST])
        yield Book(browser, address, SITE)
        browser.close()


@pytest.fixture(scope="module")
def visit(request: pytest.FixtureRequest, book: Book) -> Iterator[Visit]:
    """A page, opened once for all its tests."""
    with book.open(request.param, color_scheme="light") as visit:
        yield visit


@pytest.fixture
def tell(record_property: Any) -> Any:
    """Say a line at the end of the run, even if all tests pass."""
    return lambda line: record_property("told", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what the tests noted, and write the weights and times of the pages into build/pages.json."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    notes = [note for report in reports for note in report.user_properties]
    measured = dict(note for name, note in notes if name == "page")
    if measured:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps(dict(sorted(measured.items())), indent=2) + "\n", encoding="utf-8")
        terminalreporter.write_line("Pages with all that they load, and when they answer, at a first visit:")
        for name, page in sorted(measured.items()):
            terminalreporter.write_line(f"  {name:<34} {page['bytes'] / 1e6:5.1f} MB {page['seconds']:6.1f} s")
    for line in sorted({line for name, line in notes if name == "told"}):
        terminalreporter.write_line(line)
