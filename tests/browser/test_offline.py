"""The offline zip, unzipped and opened from the disk, where a page may fetch nothing."""

import sys
import zipfile
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.pages import EXPLORABLES, ROOT

sys.path.insert(0, str(ROOT / "tools"))
import zip_site

PAGE = EXPLORABLES["training_replay"]  # with formulas, figures and an explorable


@pytest.fixture(scope="module")
def disk(book, tmp_path_factory) -> Any:
    """The book, opened from a folder on this disk."""
    folder = tmp_path_factory.mktemp("offline")
    zip_site.pack(book.folder, folder / "site.zip")
    with zipfile.ZipFile(folder / "site.zip") as archive:
        archive.extractall(folder)
    return type(book)(book.browser, (folder / zip_site.NAME).as_uri() + "/", folder / zip_site.NAME)


def test_front_door(disk):
    with disk.open("index") as visit:
        visit.page.wait_for_url(f"{disk.address}book/index.html")


def test_page_is_complete(disk):
    with disk.open(PAGE) as visit:
        assert visit.page.locator("mjx-container svg").count() > 100
        assert visit.page.evaluate("[...document.images].filter((image) => image.naturalWidth === 0).length") == 0
        slider = visit.page.locator(".scb-explorable input[type=range]").first
        before = slider.get_attribute("aria-valuetext")
        slider.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") != before
        assert_quiet(visit, disk)


def test_search_finds_a_word(disk):
    with disk.open("book/bigrams") as visit:
        visit.page.keyboard.press("Control+k")
        visit.page.keyboard.type("stationary")
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator('#search-results li a[href*="book/bigrams.html"]').first).to_be_visible()
        assert_quiet(visit, disk)


def assert_quiet(visit, disk) -> None:
    assert visit.errors == []
    assert visit.failures == []
    assert [url for url in visit.requests if not url.startswith((disk.address, "data:", "blob:"))] == []
