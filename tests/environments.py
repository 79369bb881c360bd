"""A Python as a reader's, without this repository, for tests of what one takes away."""

import sysconfig
import venv
from pathlib import Path


def fresh_python(folder: Path) -> Path:
    """Make an environment that has what is installed here, but not the package of the book; return its Python.

    What it shares is linked from a folder outside it, where pip changes nothing.
    """
    shared = folder / "shared"
    shared.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("scb_nb", "__pycache__")):
            (shared / entry.name).symlink_to(entry)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(f"{shared}\n")
    return folder / "env" / "bin" / "python"
