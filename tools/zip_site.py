"""Pack the built site for reading offline: one zip, the same bytes for the same site, opened at its index.html."""

import argparse
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "how-a-transformer-learns"
ONLINE = {"404.html", "sitemap.xml"}  # of use only where the site is served


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--site", type=Path, default=ROOT / "_build" / "html", help="the built site (default: the last)"
    )
    parser.add_argument("--target", type=Path, default=ROOT / "build" / f"{NAME}.zip", help="the file to write")
    options = parser.parse_args()
    if not (options.site / "index.html").is_file():
        print(f"zip_site: there is no site at {options.site}: make book first", file=sys.stderr)
        return 2
    options.target.parent.mkdir(parents=True, exist_ok=True)
    pack(options.site, options.target)
    print(f"Wrote {options.target}, {options.target.stat().st_size / 1e6:.1f} MB: unzip it and open index.html")
    return 0


def pack(site: Path, target: Path) -> None:
    """Write the files of a site into a zip, below one folder: in order of name, without dates and rights."""
    files = {path.relative_to(site).as_posix(): path for path in site.rglob("*") if path.is_file()}
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files.keys() - ONLINE):
            entry = zipfile.ZipInfo(f"{NAME}/{name}")  # of 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, offline(files[name]), zipfile.ZIP_DEFLATED)


def offline(path: Path) -> bytes:
    """Return a file without what a browser refuses to do for a page that comes from a disk.

    That is to fetch a font before it is asked for, and to fetch the pages that a search found for excerpts.
    """
    content = path.read_bytes()
    if path.suffix == ".html":
        return re.sub(rb'<link rel="preload"[^>]*>\n?', b"", content)
    return (
        content.replace(b"SHOW_SEARCH_SUMMARY: true", b"SHOW_SEARCH_SUMMARY: false")
        if path.suffix == ".js"
        else content
    )


if __name__ == "__main__":
    sys.exit(main())
