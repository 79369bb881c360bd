"""Write the chapters as notebooks that read well anywhere, without outputs: what only the book can show is written out.

They open on Colab, Binder or any JupyterHub, where their first cell sees to the package. Quoted numbers come from the
last build of the site (make book). A student's notebooks have no solutions. Nothing here is edited by hand: the sources
are the pages of the book.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from plain import Book
from run_notebooks import ROOT, find_notebooks

# Those in notebooks/ are kept under version control, as Colab and Binder open files of the repository.
FOLDERS = {"notebooks": "notebooks", "student": "build/student", "solutions": "build/solutions"}
LAB = "build/lab"
FOR_TEACHERS = "book/teach"  # holds the answers to what students are asked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = ", ".join(f"{kind} into {folder}" for kind, folder in FOLDERS.items())
    parser.add_argument("kind", choices=[*FOLDERS, "lab"], help=f"{where}; lab copies notebooks into {LAB}")
    parser.add_argument("pages", nargs="*", help="pages of _toc.yml, such as book/bigrams (default: all notebooks)")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with _toc.yml (default: the repository)")
    options = parser.parse_args()
    try:
        if options.kind == "lab":
            copy_to_lab(options.root)
        else:
            pages = find_notebooks(options.root, options.pages)
            write(options.kind, options.root, pages, whole=not options.pages)
    except (ValueError, OSError) as error:
        print(f"notebooks: {error}", file=sys.stderr)
        return 2
    return 0


def write(kind: str, root: Path, pages: Iterable[str], *, whole: bool) -> None:
    """Write notebooks into the folder of their kind, emptied first if it is to hold the whole book."""
    book = Book(root)
    notebooks = {page: book.notebook(page, book.values(page), solutions=kind != "student") for page in pages}
    folder = root / FOLDERS[kind]
    if whole and kind == "student":
        notebooks.pop(FOR_TEACHERS, None)
    if whole:
        shutil.rmtree(folder, ignore_errors=True)
    for page, notebook in notebooks.items():
        target = folder / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
        print(f"  {target.relative_to(root)}")


def copy_to_lab(root: Path) -> None:
    """Copy notebooks to where one may change them; when a chapter changes, a copy that was changed is put aside."""
    folder = root / FOLDERS["notebooks"]
    for source in sorted(folder.rglob("*.ipynb")):
        name = source.relative_to(folder)
        copy, given = root / LAB / name, root / LAB / ".given" / name
        new, last = source.read_bytes(), given.read_bytes() if given.exists() else None
        if copy.exists() and new == last:
            continue
        if copy.exists() and copy.read_bytes() != last:
            copy.replace(copy.with_suffix(".old.ipynb"))
            print(f"{name} has changed in the book; yours is {name.stem}.old.ipynb beside it")
        for target in (copy, given):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(new)


if __name__ == "__main__":
    sys.exit(main())
