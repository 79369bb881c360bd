"""One standard for all explorables: question first, in words and in pictures, by keyboard, by touch, on paper."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from scb_nb import explorables
from tests.browser.pages import EXPLORABLES, explorable

CONTROLS = "button, input, select"
# What is drawn: not the controls, nor what they say.
PICTURE = """(root) => [...root.querySelectorAll(".scb-stage svg, .scb-context, .scb-answer")]
    .map((part) => part.outerHTML).join()"""
COLOURS = """(root) => ["ground", "bar", "accent", "ink"].map((name) => {
    const probe = Object.assign(document.createElement("i"), { style: `color: var(--scb-${name})` });
    root.append(probe);
    return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
})"""
# As it was when the page was opened: the script runs anew.
AFRESH = """(root) => {
    const script = root.nextElementSibling, again = document.createElement("script");
    again.textContent = script.textContent;
    root.classList.remove("scb-ready");
    root.querySelector(".scb-stage").replaceChildren();
    script.replaceWith(again);
}"""

every_explorable = pytest.mark.parametrize(
    ("visit", "maker"),
    [(page, maker) for maker, page in EXPLORABLES.items()],
    indirect=["visit"],
    ids=list(EXPLORABLES),
    scope="module",
)


def test_every_explorable_stands_in_the_book():
    makers = {name for name in explorables.__all__ if name.islower() and not name.startswith("live_")}
    assert set(EXPLORABLES) == makers


@every_explorable
def test_question_comes_first_and_names_the_whole(visit, maker):
    root = explorable(visit.page, maker)
    question = root.locator(".scb-question")
    assert question.text_content().endswith("?")
    assert bottom(question) <= root.locator(".scb-stage").bounding_box()["y"]
    expect(root).to_have_role("group")
    expect(root).to_have_accessible_name(question.text_content())


@every_explorable
def test_opening_is_told_in_the_words_of_the_still(visit, maker):
    root = explorable(visit.page, maker)
    root.evaluate(AFRESH)
    words = root.locator('p[aria-live="polite"]')
    expect(words).to_have_text(root.locator(".scb-still").get_attribute("alt"))
    assert re.search(r"\d", words.text_content()), "it tells something that was measured or computed"


@every_explorable
def test_every_control_has_a_name_and_sliders_say_where_they_stand(visit, maker):
    for control in controls(explorable(visit.page, maker)):
        expect(control).to_have_accessible_name(re.compile(r"\w"))
        if control.get_attribute("type") == "range":
            assert control.get_attribute("aria-valuetext")


@every_explorable
def test_pictures_are_hidden_from_screen_readers(visit, maker):
    heard = explorable(visit.page, maker).locator("svg:not([aria-hidden=true], [aria-hidden=true] svg)")
    assert heard.count() == 0, "the sentence says what they show"


@every_explorable
def test_every_control_is_reached_by_keyboard_and_changes_the_picture(visit, maker):
    page, root = visit.page, explorable(visit.page, maker)
    root.evaluate(AFRESH)
    stops = root.evaluate(
        """(root) => [...root.querySelectorAll("button, select, input:not([type=radio]), input:checked")].length"""
    )
    assert stops > 0
    for stop in range(stops):
        root.evaluate(AFRESH)
        before = root.evaluate(PICTURE)
        tab_into(page, root, stop)
        page.keyboard.press(key_for(page))
        wait_for_another_picture(root, before)
    page.keyboard.press("Tab")
    assert not root.evaluate("(root) => root.contains(document.activeElement)"), "focus goes on behind the last control"
    assert visit.errors == []


@every_explorable
def test_every_control_answers_to_a_finger(visit, maker, book):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with book.open(visit.name, **phone) as touched:
        root = explorable(touched.page, maker)
        for number, control in enumerate(controls(root)):
            size = target(control).bounding_box()
            assert min(size["width"], size["height"]) >= 24, control.evaluate("(node) => node.outerHTML")
            # Without a wait for a second tap, and without scrolling where one drags.
            assert control.evaluate("(node) => getComputedStyle(node).touchAction") in ("manipulation", "pan-y", "none")
            if (
                control.is_checked()
                if control.get_attribute("type") == "radio"
                else "scb-start" in control_class(control)
            ):
                continue  # chosen already, or to be dragged
            root.evaluate(AFRESH)
            control = controls(root)[number]
            before = root.evaluate(PICTURE)
            control.scroll_into_view_if_needed()
            box = target(control).bounding_box()
            aside = 0.95 if control.get_attribute("type") == "range" and not at_end(control) else 0.05
            touched.page.touchscreen.tap(box["x"] + aside * box["width"], bottom(target(control)) - 12)
            wait_for_another_picture(root, before)
        assert touched.errors == []


@every_explorable
def test_it_fits_a_phone_and_is_legible_there(visit, maker):
    root, desktop = explorable(visit.page, maker), visit.page.viewport_size
    visit.page.set_viewport_size({"width": 390, "height": 844})
    outside = """(root) => [...root.querySelectorAll("*")]
        .filter((part) => part.getBoundingClientRect().right > root.getBoundingClientRect().right + 1)
        .map((part) => part.outerHTML)"""
    sizes = """(root) => [...root.querySelectorAll(".scb-stage text")].filter((text) => text.textContent.trim())
        .map((text) => {
            const { a, b } = text.getScreenCTM();
            return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
        })"""
    overflow, heights = root.evaluate(outside), root.evaluate(sizes)
    visit.page.set_viewport_size(desktop)
    assert overflow == []
    assert min(heights, default=99) >= 8, "pixels"


@every_explorable
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_from_the_ground(visit, maker, theme, book):
    with book.open(visit.name, theme=theme) as themed:
        colours = explorable(themed.page, maker).evaluate(COLOURS)
    ground, *inks = map(luminance, colours)
    assert min(contrast(ground, ink) for ink in inks) >= 3


@every_explorable
def test_nothing_moves_by_itself(visit, maker):
    root = explorable(visit.page, maker)
    root.evaluate(AFRESH)
    before = root.evaluate(PICTURE)
    visit.page.wait_for_timeout(700)
    assert root.evaluate(PICTURE) == before
    assert root.evaluate("(root) => root.getAnimations({ subtree: true }).length") == 0


@every_explorable
def test_it_takes_the_place_of_its_still(visit, maker):
    root = explorable(visit.page, maker)
    expect(root.locator(".scb-still")).to_be_hidden()
    expect(root.locator(CONTROLS).first).to_be_visible()


@every_explorable
def test_it_is_printed_as_a_still(visit, maker):
    visit.page.emulate_media(media="print")
    expect_still(explorable(visit.page, maker))
    visit.page.emulate_media(media="null")


@every_explorable
def test_it_is_a_still_without_script(visit, maker, book):
    with book.open(visit.name, java_script_enabled=False) as plain:
        expect_still(explorable(plain.page, maker))
        expect(explorable(plain.page, maker).locator(".scb-question")).to_be_visible()


def expect_still(root: Locator) -> None:
    expect(root.locator(".scb-still")).to_be_visible()
    expect(root.locator(CONTROLS).filter(visible=True)).to_have_count(0)


def controls(root: Locator) -> list[Locator]:
    found = root.locator(CONTROLS).all()
    assert found
    return found


def target(control: Locator) -> Locator:
    """What a finger can press: a radio button's label as well."""
    return control.locator("xpath=..") if control.get_attribute("type") == "radio" else control


def control_class(control: Locator) -> str:
    return control.get_attribute("class") or ""


def at_end(slider: Locator) -> bool:
    return slider.input_value() == slider.get_attribute("max")


def bottom(part: Locator) -> float:
    box = part.bounding_box()
    return box["y"] + box["height"]


def tab_into(page: Page, root: Locator, stop: int) -> None:
    """Focus what comes before the explorable, and press Tab until the control with that number has the focus."""
    root.evaluate("""(root) => {
        const before = Object.assign(document.createElement("span"), { tabIndex: -1 });
        root.querySelector(".scb-question").after(before);
        before.focus();
        before.addEventListener("blur", () => before.remove());
    }""")
    for _ in range(stop + 1):
        page.keyboard.press("Tab")
    assert root.evaluate("(root) => root.querySelector('.scb-stage').contains(document.activeElement)")


def key_for(page: Page) -> str:
    return page.evaluate("""() => {
        const { type, value, max, tagName, ariaLabel } = document.activeElement;
        if (type === "range") return value === max ? "ArrowLeft" : "ArrowRight";
        return type === "radio" || ariaLabel?.includes("arrow keys") ? "ArrowRight" : "Enter";
    }""")


def wait_for_another_picture(root: Locator, before: Any) -> None:
    root.page.wait_for_function(
        f"([root, before]) => ({PICTURE})(root) !== before", arg=[root.element_handle(), before], timeout=8_000
    )


def luminance(colour: list[float]) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
