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
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect
from scipy import integrate

from scb_nb import theory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from notebooks import Book as Notebooks  # noqa: E402

CHAPTERS = re.findall(r"\b(?:root|file): *([\w/-]+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
MEGABYTES = 8


def chapters_with(pattern: str) -> list[str]:
    return [name for name in CHAPTERS if re.search(pattern, (ROOT / f"{name}.md").read_text(encoding="utf-8"))]


def pages(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("visit", names, indirect=True, scope="module")


every_page = pages(*CHAPTERS, "search", "genindex")
every_notebook = pages(*chapters_with("(?m)^kernelspec:"))
every_page_with_explorables = pages(*chapters_with(r"(?m)^explorables\.(?!live_)\w"))


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
    assert [link for link in internal if not leads_somewhere(book.folder, visit.name, link)] == []


def leads_somewhere(site: Path, name: str, link: str) -> bool:
    target = urlsplit(urljoin(f"/{name}.html", link))
    file = site / unquote(target.path).removeprefix("/")
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
def test_page_is_not_too_heavy(visit, weights):
    weights[visit.name] = visit.weight
    assert visit.weight < MEGABYTES * 1e6


@every_notebook
def test_notebook_is_offered(visit, book):
    button = visit.page.locator("a.btn-download-notebook-button")
    expect(button).to_have_count(1)
    path = urlsplit(urljoin(visit.page.url, button.get_attribute("href"))).path
    notebook = nbformat.read(book.folder / unquote(path).removeprefix("/"), as_version=4)
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
        expect(visit.page.locator("#search-results li a").first).to_be_visible()


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


# Explorables


@every_page_with_explorables
def test_explorables_replace_their_stills(visit):
    for explorable in explorables(visit.page):
        expect(explorable.locator(".scb-still")).to_be_hidden()
        expect(explorable.locator("button, input, select").first).to_be_visible()


@every_page_with_explorables
def test_explorables_are_printed_as_stills(visit):
    visit.page.emulate_media(media="print")
    for explorable in explorables(visit.page):
        expect_still(explorable)
    visit.page.emulate_media(media="null")


@every_page_with_explorables
def test_explorables_are_stills_without_script(visit, book):
    with book.open(visit.name, java_script_enabled=False) as plain:
        for explorable in explorables(plain.page):
            expect_still(explorable)


def explorables(page: Page) -> list[Locator]:
    found = page.locator(".scb-explorable").all()
    assert found
    return found


def expect_still(explorable: Locator) -> None:
    expect(explorable.locator(".scb-still")).to_be_visible()
    expect(explorable.locator("button, input, select").filter(visible=True)).to_have_count(0)


def explorable_with(page: Page, part: str) -> tuple[Locator, dict]:
    """The first explorable of the page with such a part, and the data that its script was given."""
    explorable = page.locator(f".scb-explorable:has({part})").first
    source = explorable.locator("xpath=following-sibling::script[1]").text_content()
    data, _ = json.JSONDecoder().raw_decode(source.split("const data = ", 1)[1])
    return explorable, data


@pages("book/sparse_contextual_bigrams")
def test_contextual_bigram_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_with(page, ".scb-context")
    state = right_state(explorable, data)
    assert outcome(state["summary"]) == outcome(explorable.locator(".scb-still").get_attribute("alt"))

    tab_to(page, ".scb-explorable input[type=radio]")
    queries = [state["query"]]
    for _ in data["letters"]:
        page.keyboard.press("ArrowRight")
        queries.append(right_state(explorable, data)["query"])
    assert sorted(queries[1:]) == data["letters"]
    assert queries[-1] == queries[0]

    tab_to(page, ".scb-explorable fieldset button")
    page.keyboard.press("Enter")
    drawn = right_state(explorable, data)
    assert drawn["context"] != state["context"]

    for position, token in enumerate(drawn["context"]):
        tab_to(page, ".scb-context button")
        page.keyboard.press("Space")
        following = data["letters"][(data["letters"].index(token) + 1) % len(data["letters"])]
        assert right_state(explorable, data)["context"][position] == following
    assert visit.errors == []


@pages("book/population_picture")
def test_phase_portrait_by_keyboard_and_pointer(visit):
    page = visit.page
    explorable, data = explorable_with(page, ".scb-plane")
    state = right_flow(explorable, data)
    assert state["setting"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    for name in data["opening"]:
        tab_to(page, f".scb-explorable input[name={name}]")
        page.keyboard.press("ArrowRight")
        after = right_flow(explorable, data)
        assert [key for key in data["opening"] if after["setting"][key] != state["setting"][key]] == [name]
        assert after["summary"] != state["summary"]
        assert after["path"] != state["path"]
        state = after

    tab_to(page, ".scb-explorable .scb-start")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    moved = right_flow(explorable, data)
    assert moved["start"] == [-0.5, -0.1]
    assert "wrong branch" in moved["summary"]

    handle = explorable.locator(".scb-start")
    handle.scroll_into_view_if_needed()
    box, plane = handle.bounding_box(), explorable.locator(".scb-plane svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(plane["x"] + 0.9 * plane["width"], plane["y"] + 0.1 * plane["height"], steps=3)
    page.mouse.up()
    dragged = right_flow(explorable, data)
    assert min(dragged["start"]) > 1.5
    box = handle.bounding_box()
    assert box["x"] + box["width"] / 2 == pytest.approx(plane["x"] + 0.9 * plane["width"], abs=3)
    assert visit.errors == []


def right_flow(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to agree with the flow of the package, integrated by SciPy, to 1 %."""
    state = explorable.evaluate("""(root) => ({
        chosen: Object.fromEntries([...root.querySelectorAll("input")].map(({ name, value }) => [name, Number(value)])),
        start: root.querySelector(".scb-start").getAttribute("aria-label").match(/-?\\d+\\.\\d+/g).map(Number),
        path: root.querySelector(".scb-plane .scb-path").getAttribute("points"),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    state["setting"] = {name: data["choices"][name][index] for name, index in state["chosen"].items()}
    K_P, K_Q, T = (state["setting"][name] for name in ("K_P", "K_Q", "seq_len"))
    rates = np.array([1, state["setting"]["ratio"]])
    events = [
        lambda _, point: point[0] * point[1] - 0.5,
        lambda _, point: 0.01 - abs(1 - point[0] * point[1]),
        lambda _, point: 0.05 - np.abs(1 - np.array(point)).max(),
    ]
    found = integrate.solve_ivp(
        lambda _, point: rates * theory.flow(*point, K_P, K_Q, T),
        (0, 20 * T * (1 + K_Q / (rates[1] * K_P)) + 1_000),
        state["start"],
        method="Radau",
        rtol=1e-9,
        atol=1e-12,
        events=events,
    )
    half, landed, near = (times[0] if len(times) else None for times in found.t_events)
    told = [float(number.replace(",", "")) for number in re.findall(r"t = ([\d,]+(?:\.\d+)?)", state["summary"])]
    landing = re.search(r"lands near \((-?[\d.]+), (-?[\d.]+)\)", state["summary"]).groups()
    expected = [landed]
    if "one half" in state["summary"]:
        expected.insert(0, half)
    if "creeps" in state["summary"]:
        expected.append(near)
    assert told == pytest.approx(expected, rel=0.01, abs=0.06)
    np.testing.assert_allclose([float(number) for number in landing], found.y_events[1][0], rtol=0.01, atol=0.006)
    assert ("wrong branch" in state["summary"]) == (found.y_events[1][0][0] < 0)
    return state


@pages("book/transfer")
def test_correlation_dial_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_with(page, ".scb-heights")
    state = right_look(explorable, data)
    assert state["chosen"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    tab_to(page, ".scb-explorable input[name=correlation]")
    page.keyboard.press("ArrowRight")
    after = right_look(explorable, data)
    assert after["chosen"]["correlation"] == state["chosen"]["correlation"] + 1
    assert after["summary"] != state["summary"]
    assert after["levels"] != state["levels"]
    page.keyboard.press("Home")
    assert " 0 stand out upwards" in right_look(explorable, data)["summary"]
    tab_to(page, ".scb-explorable input[name=samples]")
    page.keyboard.press("End")
    least = right_look(explorable, data)
    assert " 0 stand out upwards and 6 downwards" in least["summary"]
    assert "32,000 samples" in least["summary"]
    assert visit.errors == []


def right_look(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to agree with heights computed here from its data."""
    state = explorable.evaluate("""(root) => ({
        chosen: Object.fromEntries([...root.querySelectorAll("input")].map(({ name, value }) => [name, Number(value)])),
        levels: [...root.querySelectorAll(".scb-heights .scb-diamond")].map((dot) => dot.getAttribute("transform")),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    c, n = data["correlations"][state["chosen"]["correlation"]], data["samples"][state["chosen"]["samples"]]
    along, across = (np.reshape(each, (-1, data["tokens"])) for each in data["heard"][state["chosen"]["samples"]])
    pull = c * along + np.sqrt(1 - c**2) * across
    pull -= np.sort(pull, axis=0)[(len(pull) - 1) // 2]  # the lower median, as in PyTorch
    height = pull / (1.4826 * np.sort(np.abs(pull).ravel())[(pull.size - 1) // 2])
    read = np.reshape(data["read"], pull.shape)
    up, down = (height > data["critical"]), (height < -data["critical"])
    counts = (read & up).sum(), (read & down).sum(), (~read & (up | down)).sum()
    pattern = r"Correlation (.*), ([\d,]+) samples: of (\d+) .* read, (\d+) stand .* and (\d+) down.*, and (\d+) of the"
    told = re.search(pattern, state["summary"]).groups()
    assert told[0].replace("\u2212", "-") == f"{c:.2f}"
    assert told[1] == f"{n:,}"
    assert tuple(int(each) for each in told[2:]) == (read.sum(), *counts)
    assert ("no number of samples" in state["summary"]) == (c == 0)
    return state


@pages("book/stage_two")
def test_training_replay_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_with(page, ".scb-matrices")
    state = right_record(explorable, data)
    assert state["record"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    tab_to(page, ".scb-explorable:has(.scb-matrices) input[type=range]")
    page.keyboard.press("ArrowRight")
    after = right_record(explorable, data)
    assert after["record"] == state["record"] + 1
    assert after["summary"] != state["summary"]
    assert after["squares"] != state["squares"]
    assert after["cursor"] > state["cursor"]
    for key, record in (("Home", 0), ("End", len(data["frames"]) - 1)):
        page.keyboard.press(key)
        assert right_record(explorable, data)["record"] == record
    expect(explorable.locator("button")).to_have_count(0)  # this reader asks for less motion
    assert visit.errors == []


@pages("book/stage_two")
def test_training_replay_plays_where_motion_is_welcome(visit):
    page = visit.page
    page.emulate_media(reduced_motion="no-preference")
    page.reload(wait_until="networkidle")
    explorable = page.locator(".scb-explorable:has(.scb-matrices)").first
    slider, button = explorable.locator("input[type=range]"), explorable.locator("button")
    opening = slider.input_value()
    button.click()
    expect(button).to_have_text("Stop")
    expect(slider).not_to_have_value(opening)
    button.click()
    expect(button).to_have_text("Play")
    slider.press("Home")
    expect(slider).to_have_value("0")
    page.emulate_media(reduced_motion="reduce")
    assert visit.errors == []


def right_record(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to be what was recorded."""
    state = explorable.evaluate("""(root) => ({
        record: Number(root.querySelector("input[type=range]").value),
        told: root.querySelector("input[type=range]").getAttribute("aria-valuetext"),
        squares: [...root.querySelectorAll(".scb-matrix")].map((matrix) => [...matrix.querySelectorAll(".scb-square")]
            .map((square) => Number(square.getAttribute("fill-opacity")) * (square.matches(".scb-negative") ? -1 : 1))),
        cursor: Number(root.querySelector(".scb-cursor").getAttribute("x1")),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    frame, Q, P = data["frames"][state["record"]], np.array(data["Q"]), np.array(data["P"])
    wanted = (frame["A"], Q.max()), (Q, Q.max()), (frame["V"], P.max()), (P, P.max())
    for shown, (values, highest) in zip(state["squares"], wanted, strict=True):
        np.testing.assert_allclose(shown, np.clip(np.ravel(values) / highest, -1, 1), atol=0.0006)
    pattern = r"After ([\d,]+) samples, (.+): the .* is (\d\.\d\d) of that .* from Q (\d\.\d\d), and (\d+)% of"
    samples, stage, error_V, error_A, percent = re.search(pattern, state["summary"]).groups()
    assert (samples, stage) == (f"{frame['samples']:,}", data["stages"][frame["stage"]])
    assert float(error_V) == pytest.approx(frame["error_V"], abs=0.0051)
    assert float(error_A) == pytest.approx(frame["error_A"], abs=0.0051)
    assert float(percent) == pytest.approx(100 * (np.array(frame["A"]) * (Q > 0)).sum(axis=0) @ data["mu"], abs=0.51)
    assert state["told"] == f"{state['record'] + 1} of {len(data['frames'])}, {frame['samples']:,} samples"
    return state


def tab_to(page: Page, selector: str) -> None:
    for _ in range(500):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key never reaches {selector}")


def right_state(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to be what NumPy computes for the query and context that it shows."""
    state = explorable.evaluate("""(root) => {
        const each = (selector, read) => [...root.querySelectorAll(selector)].map(read);
        const box = (element) => element.getBoundingClientRect();
        return {
            query: root.querySelector("input:checked").parentElement.textContent.trim(),
            context: each(".scb-context button", (button) => button.textContent),
            heights: each(".scb-weight > div", (bar) => box(bar).height / bar.parentElement.clientHeight),
            widths: each(".scb-fill", (fill) => box(fill).width / fill.parentElement.clientWidth),
            numbers: each(".scb-track + span", (number) => Number(number.textContent)),
            summary: root.querySelector("[aria-live]").textContent,
        };
    }""")
    P, Q, letters = np.array(data["P"]), np.array(data["Q"]), data["letters"]
    weights = Q[:, letters.index(state["query"])]
    chances = P[:, [letters.index(token) for token in state["context"]]] @ weights
    np.testing.assert_allclose(state["heights"], weights / Q.max(), atol=0.02)
    np.testing.assert_allclose(state["widths"], chances, atol=0.01)
    np.testing.assert_allclose(state["numbers"], chances, atol=0.0051)
    read = [int(position) for position in re.findall(r"position (\d+)", state["summary"])]
    assert read == [t + 1 for t in np.flatnonzero(weights)]
    assert state["summary"].startswith(f"Query {state['query']} reads ")
    letter, chance = outcome(state["summary"])
    assert letter == letters[chances.argmax()]
    assert chance == pytest.approx(chances.max(), abs=0.0051)
    return state


def outcome(sentence: str) -> tuple[str, float]:
    """The likeliest answer and its probability."""
    letter, chance = re.search(r"likeliest answer is (\w), with probability (\d\.\d+)", sentence).groups()
    return letter, float(chance)
