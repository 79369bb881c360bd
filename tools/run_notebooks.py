"""Run the book's chapters as notebooks, the way a reader would, and fail unless every one ran to its end.

The pages that _toc.yml lists are converted to .ipynb below build/notebooks/ and run there by nbmake.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jupytext
import yaml

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="pages of _toc.yml, such as book/index (default: all)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml (default: the repository)")
    parser.add_argument("--workers", type=int, default=2, help="notebooks to run at a time (default: 2)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that one cell may take (default: 300)")
    options = parser.parse_args()

    try:
        notebooks = find_notebooks(options.root, options.pages)
    except ValueError as error:
        print(f"run_notebooks: {error}", file=sys.stderr)
        return 2

    began = time.perf_counter()
    folder = options.root / "build" / "notebooks"
    convert(notebooks, folder)
    code = run(folder, options.workers, options.timeout)
    seconds = read_report(folder / "report.xml", notebooks)

    for page in notebooks:
        print(f"  {page:<40} " + (f"{seconds[page]:6.1f} s" if page in seconds else "failed or not run"))
    ran = len(seconds)
    print(f"{ran} of {len(notebooks)} notebooks ran to their end, in {time.perf_counter() - began:.0f} s")
    return 0 if code == 0 and ran == len(notebooks) else 1


def find_notebooks(root: Path, only: list[str]) -> dict[str, Path]:
    """Return the notebooks among the pages of _toc.yml, or among those named in ``only``: page -> source."""
    toc = root / "_toc.yml"
    if not toc.is_file():
        raise ValueError(f"there is no {toc}")
    pages = [page.removesuffix(".md") for page in listed_pages(yaml.safe_load(toc.read_text(encoding="utf-8")))]
    only = [page.removesuffix(".md") for page in only]
    if unknown := [page for page in only if page not in pages]:
        raise ValueError(f"_toc.yml does not list {', '.join(unknown)}")
    sources = {page: root / f"{page}.md" for page in only or pages}
    if missing := [page for page, source in sources.items() if not source.is_file()]:
        raise ValueError(f"_toc.yml lists {', '.join(missing)}, but there is no such .md file")
    notebooks = {page: source for page, source in sources.items() if is_notebook(source)}
    if not notebooks:
        raise ValueError(f"none of {', '.join(sources)} is a notebook, a page whose header has a kernelspec")
    return notebooks


def listed_pages(node: Any) -> Iterator[str]:
    """Yield every page of a table of contents, in order, however deep."""
    if isinstance(node, list):
        for child in node:
            yield from listed_pages(child)
    elif isinstance(node, dict):
        for key, child in node.items():
            if key in ("root", "file"):
                yield child
            else:
                yield from listed_pages(child)


def is_notebook(source: Path) -> bool:
    """Tell whether a page's header, between its first two lines of ---, names a kernel."""
    text = source.read_text(encoding="utf-8")
    return text.startswith("---\n") and "kernelspec" in (yaml.safe_load(text.split("---\n")[1]) or {})


def convert(notebooks: dict[str, Path], folder: Path) -> None:
    """Write each page as a notebook into the emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for page, source in notebooks.items():
        target = folder / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(jupytext.read(source), target)


def run(folder: Path, workers: int, timeout: int, *options: str, python: str = sys.executable) -> int:
    """Run every notebook of the folder with a Python that has nbmake; return pytest's exit status."""
    (folder / "pytest.ini").write_text("[pytest]\n")  # so that the settings of our own tests do not apply
    arguments = ["--nbmake", f"--nbmake-timeout={timeout}", f"--numprocesses={workers}", "--junitxml=report.xml"]
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--verbose", *arguments, *options, "."]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def read_report(report: Path, notebooks: dict[str, Path]) -> dict[str, float]:
    """Return the seconds of each notebook that passed; pytest itself counts it as no failure if one is skipped."""
    if not report.is_file():
        return {}
    cases = {case.get("classname"): case for case in ElementTree.parse(report).iter("testcase")}
    passed = {name: float(case.get("time", 0)) for name, case in cases.items() if len(case) == 0}
    names = {page: f"{page}.ipynb".replace("/", ".") for page in notebooks}
    return {page: passed[name] for page, name in names.items() if name in passed}


if __name__ == "__main__":
    sys.exit(main())
