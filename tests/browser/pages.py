"""What the browser tests share: the book's pages, and how to reach what is on them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).parents[2]
CHAPTERS = re.findall(r"\b(?:root|file): *([\w/-]+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
SOURCES = {name: (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in CHAPTERS}
# The page of each explorable, by the name of the function that makes it.
EXPLORABLES = {
    maker: name for name, text in SOURCES.items() for maker in re.findall(r"(?m)^explorables\.(?!live_)(\w+)", text)
}


def chapters_with(pattern: str) -> list[str]:
    return [name for name, text in SOURCES.items() if re.search(pattern, text)]


def pages(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("visit", names, indirect=True, scope="module")


def explorable(page: Page, maker: str) -> Locator:
    return page.locator(f'.scb-explorable[data-script="{maker}.js"]').first


def explorable_and_data(page: Page, maker: str) -> tuple[Locator, dict[str, Any]]:
    """An explorable, and what its script was given."""
    found = explorable(page, maker)
    source = found.locator("xpath=following-sibling::script[1]").text_content() or ""
    data, _ = json.JSONDecoder().raw_decode(source.split("const data = ", 1)[1])
    return found, data


def tab_to(page: Page, selector: str) -> None:
    for _ in range(500):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key never reaches {selector}")
