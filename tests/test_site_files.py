"""What is published beside the chapters, builds that are never stale, and the workflows, as far as reading shows."""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from sphinx.errors import ConfigError

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "book" / "_ext")]

import site_files  # noqa: E402
import zip_site  # noqa: E402

NOTEBOOK = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Start

```{code-cell} ipython3
from pathlib import Path
print("the package says", Path("../scb_nb/value.txt").read_text())
```

{doc}`other`, {prf:ref}`def-other`
"""
OTHER = """# Other

A sentence.

```{prf:definition} Thing
:label: def-other
A thing.
```
"""


class MiniBook:
    """Three pages, built with the book's own settings and extensions."""

    def __init__(self, root: Path, baseurl: str = "") -> None:
        self.root, self.site = root, root / "_build" / "html"
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
        config["html"]["baseurl"] = baseurl
        # These need the whole repository: its results, its notebooks, its wheel.
        for name in ("claims_table", "downloads"):
            config["sphinx"]["local_extensions"].pop(name, None)
        pages = [{"file": f"book/{name}"} for name in ("other", "status")]
        toc = {"format": "jb-book", "root": "book/start", "parts": [{"caption": "All", "chapters": pages}]}
        for name, content in (("_config.yml", config), ("_toc.yml", toc)):
            self.write(name, yaml.safe_dump(content))
        for name, text in (("book/start.md", NOTEBOOK), ("book/other.md", OTHER), ("scb_nb/value.txt", "one")):
            self.write(name, text)
        for name in ("book/_ext", "book/_static"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("book/status.md", "book/references.bib", "requirements.lock"):
            shutil.copy(ROOT / name, root / name)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")

    def build(self) -> subprocess.CompletedProcess[str]:
        jupyter_book = Path(sys.executable).with_name("jupyter-book")
        command = [jupyter_book, "build", ".", "--path-output", ".", "-W", "-n", "--keep-going"]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def built(self) -> str:
        """Build, and return what was said."""
        result = self.build()
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def page(self, name: str) -> str:
        return (self.site / f"{name}.html").read_text(encoding="utf-8")


def differing(one: Path, other: Path) -> list[str]:
    """The files that only one of two folders has, or that differ."""
    names = {path.relative_to(root) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    same, *_ = filecmp.cmpfiles(one, other, names, shallow=False)
    return sorted(str(name) for name in names - {Path(name) for name in same})


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[MiniBook, str, Path]:
    """A book of three pages, what its first build said, and a copy of its site."""
    book = MiniBook(tmp_path_factory.mktemp("mini"))
    said = book.built()
    return book, said, Path(shutil.copytree(book.site, book.root / "cold"))


def executions(said: str) -> list[str]:
    return re.findall(r"(\w+)\.md: Executed notebook in", said)


def reads(said: str) -> set[str]:
    return set(re.findall(r"reading sources.*?book/(\w+)", said))


# Builds


def test_builds_are_never_stale(mini: tuple[MiniBook, str, Path]) -> None:
    book, said, cold = mini
    assert executions(said) == ["start"]
    assert "the package says one" in book.page("book/start")

    shutil.rmtree(book.root / "_build" / ".doctrees")
    said = book.built()
    assert (executions(said), reads(said)) == ([], {"start", "other", "status"})
    assert differing(book.site, cold) == [], "a build from what was kept must give what a build from nothing gives"

    book.write("book/other.md", OTHER.replace("# Other", "# Another").replace("Thing", "Matter"))
    said = book.built()
    assert (executions(said), reads(said)) == ([], {"other"})
    quick = Path(shutil.copytree(book.site, book.root / "quick"))
    assert "Another" in book.page("book/start"), "references must follow a page that is not theirs"
    shutil.rmtree(book.root / "_build" / ".doctrees")
    book.built()
    assert differing(book.site, quick) == [], "a build of one page must give what a build of all gives"

    book.write("book/other.md", OTHER + "\n{nowhere}`role`\n")  # of which only reading the page warns
    for _ in range(2):
        result = book.build()
        assert result.returncode != 0, "a warning must fail every build until it is mended"
        assert 'role "nowhere"' in result.stderr
    book.write("book/other.md", OTHER)
    assert executions(book.built()) == []

    book.write("scb_nb/value.txt", "two")
    assert executions(book.built()) == ["start"]
    assert "the package says two" in book.page("book/start")


def test_status_is_that_of_the_execution(mini: tuple[MiniBook, str, Path]) -> None:
    _, said, cold = mini
    page = (cold / "book/status.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<t[hd].*?>\s*<p>(.*?)</p>", row, re.S) for row in re.findall(r"<tr.*?</tr>", page, re.S)]
    assert rows[0] == ["Page", "Seconds", "Executed (UTC)", "Versions", "Device", "Commit"]
    start, total = rows[1:]
    seconds = re.search(r"Executed notebook in ([\d.]+) seconds", said)
    assert seconds is not None
    assert float(start[1]) == pytest.approx(float(seconds[1]), abs=0.06)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", start[2])
    assert re.fullmatch(r"Python 3[\d.]+, NumPy [\d.]+, PyTorch [\d.]+(\+\w+)?, scb_nb [\d.]+", start[3])
    assert start[4:] != ["unknown", "unknown"]
    assert start[5] == "unknown"  # the mini book is no repository
    assert total[:2] == ["All", start[1]]


def test_status_keeps_the_origin_of_what_it_keeps(mini: tuple[MiniBook, str, Path]) -> None:
    book, _, _ = mini
    book.write("scb_nb/value.txt", "one")  # as at first
    for path in (book.root / "_build" / ".jupyter_cache").rglob("origin.json"):
        path.write_text(json.dumps({"Versions": "old", "Device": "another", "Commit": "0123456"}))
    assert executions(book.built()) == []
    assert "0123456" in book.page("book/status")
    for path in (book.root / "_build" / ".jupyter_cache").rglob("origin.json"):
        path.unlink()
    shutil.rmtree(book.root / "_build" / ".doctrees")
    book.built()
    assert re.findall("unknown", book.page("book/status")) == ["unknown"] * 3, "what is not known must not be made up"


# Files beside the pages


def test_site_without_an_address(mini: tuple[MiniBook, str, Path]) -> None:
    _, said, cold = mini
    assert "site: no sitemap, for html.baseurl is not set in _config.yml" in said
    assert not (cold / "sitemap.xml").exists()
    page = (cold / "book/start.html").read_text(encoding="utf-8")
    assert 'property="og:title"' in page
    assert "og:url" not in page
    assert 'rel="canonical"' not in page


def test_site_with_an_address(tmp_path: Path) -> None:
    book = MiniBook(tmp_path, "https://host.example/folder")
    book.built()
    places = [element.text for element in ElementTree.parse(book.site / "sitemap.xml").iter() if element.text]
    pages = [place for place in places if place.strip()]
    assert pages == [f"https://host.example/folder/book/{name}.html" for name in ("other", "start", "status")]
    assert '<meta property="og:url" content="https://host.example/folder/book/start.html" />' in book.page("book/start")
    assert 'rel="canonical" href="https://host.example/folder/book/start.html"' in book.page("book/start")
    assert places_in(book.page("404")) == {"/folder/"}


def test_lost_page_works_at_any_depth(mini: tuple[MiniBook, str, Path]) -> None:
    page = (mini[2] / "404.html").read_text(encoding="utf-8")
    assert places_in(page) == {"/"}
    assert '<a href="/book/start.html">' in page


def places_in(page: str) -> set[str]:
    """What the addresses of a page begin with: of those inside the site the folder that the site lies in."""
    found = re.findall(r'(?:href|src|action|data-content_root)="([^"#][^"]*)"', page)
    return {
        re.sub(r"(?<=/)(_static|book|search|genindex|404|index)\b.*", "", each) for each in found if ":" not in each
    }


@pytest.mark.parametrize(
    "address", ["host.example/book", "https://", "https://host/a b", "https://host/?page", "/book/"]
)
def test_bad_address_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=f"html.baseurl in _config.yml must be like .*, got {re.escape(address)}"):
        site_files.settle_address(mock.Mock(), SimpleNamespace(html_baseurl=address))


@pytest.mark.parametrize("address", ["https://host.example", "https://host.example/", "http://localhost:8000/a/b"])
def test_address_is_a_folder(address: str) -> None:
    config = SimpleNamespace(html_baseurl=address)
    site_files.settle_address(mock.Mock(), config)
    assert config.html_baseurl == config.ogp_site_url == address.rstrip("/") + "/"


# The zip for reading offline


@pytest.fixture
def site(tmp_path: Path) -> Path:
    files = {
        "index.html": "front",
        "404.html": "lost",
        "sitemap.xml": "map",
        "book/a.html": '<link rel="preload" as="font" crossorigin href="x" />\n<p>text</p>',
        "_static/documentation_options.js": "SHOW_SEARCH_SUMMARY: true,",
    }
    for name, text in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(text)
    return tmp_path / "site"


def test_zip_holds_the_site(site: Path, tmp_path: Path) -> None:
    zip_site.pack(site, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
        assert archive.namelist() == sorted(archive.namelist())
        entries = archive.infolist()
    assert {(entry.compress_type, entry.external_attr >> 16) for entry in entries} == {(zipfile.ZIP_DEFLATED, 0o644)}
    assert contents == {
        "how-a-transformer-learns/_static/documentation_options.js": "SHOW_SEARCH_SUMMARY: false,",
        "how-a-transformer-learns/book/a.html": "<p>text</p>",
        "how-a-transformer-learns/index.html": "front",
    }


def test_zip_is_the_same_for_the_same_site(site: Path, tmp_path: Path) -> None:
    zip_site.pack(site, tmp_path / "a.zip")
    again = Path(shutil.copytree(site, tmp_path / "again", copy_function=shutil.copyfile))
    (again / "index.html").chmod(0o600)
    os.utime(again / "index.html", (1_000_000_000, 1_000_000_000))
    zip_site.pack(again, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_zip_without_a_site(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "zip_site.py", "--site", tmp_path, "--target", tmp_path / "a.zip"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"zip_site: there is no site at {tmp_path}: make book first\n"
    assert not (tmp_path / "a.zip").exists()


# Workflows, which cannot run here

WORKFLOWS = {path.stem: path for path in (ROOT / ".github" / "workflows").glob("*.yml")}
workflows = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def workflow(name: str) -> dict[Any, Any]:
    content = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def targets(commands: str) -> list[str]:
    return re.findall(r"(?m)(?<![\w-])make ([a-z]+)", commands)


def test_there_are_two_workflows() -> None:
    assert set(WORKFLOWS) == {"publish", "weekly"}


@workflows
def test_workflow_says_that_it_is_untested(name: str) -> None:
    first = WORKFLOWS[name].read_text(encoding="utf-8").split("\nname:")[0]
    assert "UNTESTED" in first
    assert all(line.startswith("#") for line in first.splitlines())


@workflows
def test_workflow_runs_what_there_is(name: str) -> None:
    commands = [step["run"] for step in steps(name) if "run" in step]
    assert ".ci/run" in commands
    known = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "check" in targets(script)
    assert set(targets("\n".join([script, *commands]))) <= set(known)
    assert re.search("apt-get install.* chromium", script)
    for step in steps(name):
        for path in (value for key, value in step.get("with", {}).items() if key == "path"):
            assert path in ("_build/html", f"build/{zip_site.NAME}.zip")


@workflows
def test_workflow_takes_actions_and_python_by_version(name: str) -> None:
    actions = [step["uses"] for step in steps(name) if "uses" in step]
    assert "actions/checkout" in {action.partition("@")[0] for action in actions}
    assert [action for action in actions if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
    required = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert required is not None
    images = [job["container"] for job in workflow(name)["jobs"].values() if "container" in job]
    versions = [re.fullmatch(r"python:(3\.\d+)-bookworm", image) for image in images]
    assert versions
    assert all(version and version[1] in SpecifierSet(required[1]) for version in versions)
    assert all("timeout-minutes" in job for job in workflow(name)["jobs"].values() if "container" in job)


def test_publishing_takes_a_tag_and_no_more_rights_than_it_needs() -> None:
    content = workflow("publish")
    assert content[True] == {"push": {"tags": ["v*"]}}  # YAML reads on as true
    assert content["permissions"] == {"contents": "read"}
    build, deploy = content["jobs"]["build"], content["jobs"]["deploy"]
    assert "permissions" not in build
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert deploy["needs"] == "build"
    assert deploy["environment"]["name"] == "github-pages"
    uses = [step["uses"].partition("@")[0] for step in build["steps"] + deploy["steps"] if "uses" in step]
    assert uses.index("actions/upload-pages-artifact") < uses.index("actions/deploy-pages")


def test_the_weekly_build_is_weekly_and_from_nothing() -> None:
    content = workflow("weekly")
    minute, hour, day, month, weekday = content[True]["schedule"][0]["cron"].split()
    assert (day, month) == ("*", "*")
    assert all(each.isdecimal() for each in (minute, hour, weekday))
    assert content["permissions"] == {"contents": "read"}
    assert "cache" not in WORKFLOWS["weekly"].read_text(encoding="utf-8")
    check = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck:")[1].split("\n\n")[0]
    assert check.index("rm -rf _build") < check.index(" book")
