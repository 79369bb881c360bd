"""The built site as readers meet it: complete without a network, on a phone, by keyboard, in the dark, on paper."""

import json
import re
import sys
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.pages import CHAPTERS, ROOT, chapters_with, pages

sys.path.insert(0, str(ROOT / "tools"))
from notebooks import Book as Notebooks

MEGABYTES = 8

# Of the tokens of code of one class on one ground leave one: to judge the colours of each takes axe most of its time.
LEAVE_ONE_OF_A_KIND = """() => {
    const look = (element) => {
        const { color, backgroundColor, fontSize, fontWeight, opacity } = getComputedStyle(element);
        return [color, backgroundColor, fontSize, fontWeight, opacity].join();
    };
    const seen = new Set();
    const twins = [];
    for (const code of document.querySelectorAll(".highlight pre")) {
        let ground = "";
        for (let element = code; element; element = element.parentElement) ground += look(element);
        for (const token of code.querySelectorAll("span[class]:not(:has(*))")) {
            const kind = [token.className, token.parentElement.className, ground].join();
            if (seen.has(kind)) twins.push(token);
            seen.add(kind);
        }
    }
    for (const token of twins) token.replaceWith(...token.childNodes);
}"""

every_page = pages(*CHAPTERS, "search", "genindex", "404")
NOTEBOOKS = chapters_with("(?m)^kernelspec:")
every_notebook = pages(*NOTEBOOKS)


def texts(page: Page, script: str) -> list[str]:
    """What a JavaScript expression says of an array of elements, one short line each."""
    return [" ".join(text.split())[:200] for text in page.evaluate(script)]


# Nothing is missing


@every_page
def test_everything_comes_from_the_site(visit, book):
    asked = {url for url in visit.requests if not url.startswith(("data:", "blob:"))}
    assert [url for url in asked if not url.startswith(book.address)] == []
    assert visit.failures == []


@every_page
def test_own_style_is_used(visit):
    own = {path.name for path in (ROOT / "book/_static").glob("*.css")}
    assert own - {Path(urlsplit(url).path).name for url in visit.requests} == set()


@every_page
def test_no_script_complains(visit):
    assert visit.errors == []


@every_page
def test_every_formula_is_drawn(visit):
    undrawn = """[...document.querySelectorAll(".math")]
        .filter((math) => !math.querySelector("mjx-container svg")).map((math) => math.textContent)"""
    # MathJax draws a macro that it does not know in red, as text.
    wrong = """[...document.querySelectorAll('mjx-merror, [data-mjx-error], [data-mml-node="mtext"][fill="red"]')]
        .map((error) => error.closest("mjx-container").textContent)"""
    raw = r"""[...document.querySelectorAll("body, body *:not(script, style, pre, pre *, code, code *)")]
        .flatMap((element) => [...element.childNodes]).filter((node) => node.nodeType === Node.TEXT_NODE)
        .map((node) => node.data).filter((text) => /\\[(\[]|\$\$|Math input error/.test(text))"""
    assert texts(visit.page, undrawn) == []
    assert texts(visit.page, wrong) == []
    assert texts(visit.page, raw) == []


@every_page
def test_every_picture_is_shown_and_described(visit):
    images = visit.page.evaluate("""[...document.querySelectorAll("article img")]
        .map((image) => ({source: image.src.slice(0, 200), alt: image.alt, width: image.naturalWidth}))""")
    assert [image for image in images if image["width"] == 0] == []
    assert [image for image in images if not is_sentence(image["alt"])] == []


def is_sentence(alt: str) -> bool:
    return (
        len(alt.split()) >= 5
        and alt[0].isupper()
        and alt.endswith((".", "?", "!"))
        and not re.search(r"\.(png|svg|jpe?g|gif|webp)\b", alt)
    )


@every_page
def test_every_picture_is_a_figure_with_number_and_caption(visit):
    outside = """[...document.querySelectorAll("article img:not(.scb-still)")]
        .filter((image) => !image.closest("figure")).map((image) => image.alt || image.src)"""
    captions = visit.page.evaluate("""[...document.querySelectorAll("article figure")].map((figure) =>
        [".caption-number", ".caption-text"].map((part) => figure.querySelector(part)?.textContent ?? "").join(""))""")
    assert texts(visit.page, outside) == []
    assert [caption for caption in captions if not re.match(r"Fig\. [\d.]+ .*\w{3}", caption)] == []


@every_page
def test_every_internal_link_leads_somewhere(visit, book):
    found = visit.page.evaluate("""[...document.querySelectorAll("a[href], link[href], img[src], script[src]")]
        .map((element) => element.getAttribute("href") ?? element.getAttribute("src"))""")
    internal = [link for link in found if not (urlsplit(link).scheme or urlsplit(link).netloc)]
    assert internal
    assert [link for link in internal if not leads_somewhere(book, visit.name, link)] == []


def leads_somewhere(book: Any, name: str, link: str) -> bool:
    target = urlsplit(urljoin(f"{book.address}{name}.html", link))
    file = book.folder / unquote(target.path).removeprefix(urlsplit(book.address).path)
    if target.path.endswith("/"):
        file /= "index.html"
    return file.is_file() and (not target.fragment or unquote(target.fragment) in ids(file))


@cache
def ids(file: Path) -> set[str]:
    return set(re.findall(r'\sid="([^"]+)"', file.read_text(encoding="utf-8")))


@every_page
def test_no_widget_waits_for_a_kernel(visit):
    widgets = visit.page.locator('.jupyter-widgets, script[type="application/vnd.jupyter.widget-view+json"]')
    expect(widgets).to_have_count(0)
    expect(visit.page.get_by_text("interactive(children=")).to_have_count(0)


@every_page
def test_page_is_not_too_heavy(visit, record_property):
    record_property("page", (visit.name, {"bytes": visit.weight, "seconds": round(visit.seconds, 2)}))
    assert visit.seconds > 0
    assert visit.weight < MEGABYTES * 1e6


@every_notebook
def test_notebook_is_offered(visit, book):
    button = visit.page.locator("a.btn-download-notebook-button")
    expect(button).to_have_count(1)
    path = urljoin(visit.page.url, button.get_attribute("href")).removeprefix(book.address)
    notebook = nbformat.read(book.folder / unquote(path), as_version=4)
    nbformat.validate(notebook)
    assert any(cell.cell_type == "code" and cell.outputs for cell in notebook.cells)


def test_plain_notebooks_have_the_numbers_of_the_site(book):
    pages = [(book.folder / f"{name}.html").read_text(encoding="utf-8") for name in CHAPTERS]
    names = Notebooks(ROOT).names
    assert len(names) > 100
    for label, name in names.items():
        place = rf'id="(?:equation-)?{label}">.*?class="(?:caption-number|eqno)">\(?([\w. ]+)'
        (told,) = (match[1].strip() for page in pages if (match := re.search(place, page, re.S)))
        assert (label, told) == (label, name)


@pytest.mark.parametrize("name", chapters_with("{glue:text}"))
def test_plain_notebooks_quote_what_the_page_quotes(name, book):
    notebooks = Notebooks(ROOT)
    values = notebooks.values(name)
    page = re.sub(r"<[^>]*>", "", (book.folder / f"{name}.html").read_text(encoding="utf-8"))
    roles = re.findall("{glue:text}`[^`]*`", (ROOT / f"{name}.md").read_text(encoding="utf-8"))
    assert [role for role in roles if unescape(notebooks.plain(role, values)) not in unescape(page)] == []


def test_front_door_leads_to_the_book(book):
    with book.open("index") as visit:
        visit.page.wait_for_url(f"{book.address}{CHAPTERS[0]}.html")


def test_search_finds_a_word(book):
    with book.open(CHAPTERS[0]) as visit:
        visit.page.keyboard.press("Control+k")
        visit.page.keyboard.type("stationary")
        visit.page.keyboard.press("Enter")
        found = visit.page.locator("#search-results li a")
        expect(found.first).to_be_visible()
        addresses = {urlsplit(urljoin(visit.page.url, link.get_attribute("href"))).path for link in found.all()}
        assert urlsplit(f"{book.address}book/bigrams.html").path in addresses


def test_lost_reader_is_told_at_any_depth(book):
    with book.open("no/such/page") as visit:
        lost = visit.page.url
        assert visit.failures == [f"404: {lost}"]
        assert [url for url in visit.requests if not url.startswith((book.address, "data:"))] == []
        expect(visit.page.get_by_role("heading", name="Page not found")).to_be_visible()
        expect(visit.page.locator("article")).to_have_css("font-family", re.compile("."))
        visit.page.get_by_role("link", name="at the beginning").click()
        visit.page.wait_for_url(f"{book.address}{CHAPTERS[0]}.html")


@pages("book/status")
def test_status_tells_of_every_notebook(visit):
    rows = visit.page.evaluate("""[...document.querySelectorAll("table.scb-status tbody tr")]
        .map((row) => [...row.cells].map((cell) => cell.textContent.trim()))""")
    *chapters, total = rows
    links = visit.page.locator("table.scb-status tbody a")
    assert [f"book/{link.get_attribute('href').removesuffix('.html')}" for link in links.all()] == NOTEBOOKS
    for _, seconds, date, versions, device, commit in chapters:
        assert float(seconds) > 0
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", date)
        assert [part.split()[0] for part in versions.split(", ")] == ["Python", "NumPy", "PyTorch", "scb_nb"]
        assert device
        assert re.fullmatch(r"[0-9a-f]{7}\+?|unknown", commit)
    assert float(total[1]) == pytest.approx(sum(float(row[1]) for row in chapters), abs=0.1)


@pages("book/claims")
def test_claims_are_those_of_their_twin(visit, book):
    twin = json.loads((book.folder / "claims.json").read_text(encoding="utf-8"))
    expect(visit.page.locator('article a[href="../claims.json"]')).to_have_count(1)
    assert visit.page.request.get(f"{book.address}claims.json").json() == twin
    links = visit.page.locator("table.scb-claims tbody a")
    expect(links).to_have_count(len(twin["claims"]))
    verdicts = visit.page.locator("table.scb-claims tbody .scb-verdict").all_text_contents()
    for number, row in enumerate(twin["claims"]):
        assert links.nth(number).get_attribute("href") == f"#claim-{row['name']}"
        section = visit.page.locator(f"section#claim-{row['name']}")
        assert verdicts[number].lower() == row["verdict"]
        assert section.locator(".scb-verdict").text_content().lower() == row["verdict"]
        values = section.locator("tbody tr td:nth-child(2)").all_text_contents()
        assert [value.strip() for value in values] == [number["words"] for number in row["measured"].values()]
        asked = [bound["words"] for bound in row["rule"]["bounds"]]
        shown = section.locator("tbody tr td:nth-child(3)").all_text_contents()
        assert sorted(filter(None, (words.replace("†", "").strip() for words in shown))) == sorted(asked)
        for command in row["commands"]:
            expect(section.get_by_text(command, exact=True)).to_have_count(1)


@pages("book/claims")
def test_verdicts_are_marked_by_more_than_colour(visit):
    marks = visit.page.evaluate("""[...document.querySelectorAll(".scb-verdict")]
        .map((verdict) => [verdict.textContent, getComputedStyle(verdict, "::before").content])""")
    assert len({words for words, _ in marks}) == len({mark for _, mark in marks}) > 1
    assert all(mark not in ("none", "normal", '""') for _, mark in marks)


# Every reader can use it


@every_page
def test_light_page_is_accessible(visit, tell):
    assert barriers(visit.page, "light", tell) == []


@every_page
def test_dark_page_is_accessible(visit, book, tell):
    with book.open(visit.name, theme="dark") as dark:
        assert barriers(dark.page, "dark", tell) == []


def barriers(page: Page, theme: str, tell: Any) -> list[str]:
    """What axe finds serious or critical; the rest is told at the end."""
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    page.evaluate(LEAVE_ONE_OF_A_KIND)
    # With preload, axe would look for the style sheets that others import in the wrong folder.
    found = Axe().run(page, options={"resultTypes": ["violations", "incomplete"], "preload": False}).response
    serious = []
    for violation in found["violations"]:
        if violation["impact"] in ("serious", "critical"):
            serious += [f"{violation['id']}: {node['html']} {node['failureSummary']}" for node in violation["nodes"]]
        else:
            tell(f"axe, {violation['impact']}: {violation['id']} ({violation['help']})")
    # Text in the very colour of its ground could be hidden on purpose, thinks axe. Here none is.
    unsure = [node for check in found["incomplete"] if check["id"] == "color-contrast" for node in check["nodes"]]
    return serious + [f"invisible: {node['html']}" for node in unsure if "1:1" in node["failureSummary"]]


@every_page
def test_page_fits_a_phone(visit):
    desktop = visit.page.viewport_size
    visit.page.set_viewport_size({"width": 390, "height": 844})
    wide = """[...document.querySelectorAll("article *")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth).map((element) => element.outerHTML)"""
    overflow = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    culprits = texts(visit.page, wide)[:5]
    visit.page.set_viewport_size(desktop)
    assert overflow <= 0, culprits


@pages("book/sparse_contextual_bigrams")
def test_dark_page_is_printed_dark_on_light(visit, book):
    with book.open(visit.name, theme="dark") as dark:
        dark.page.emulate_media(media="print")
        dark.page.evaluate("""() => addEventListener("beforeprint", () => {
            window.ink = getComputedStyle(document.querySelector("article p")).color; })""")
        dark.page.pdf()
        assert max(int(part) for part in re.findall(r"\d+", dark.page.evaluate("ink"))) < 128
