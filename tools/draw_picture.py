"""Draw the landing page's figure into book/_static/learning.svg, which the README shows: run the page's own cell."""

from pathlib import Path

import jupytext
import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("agg")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Execute the first code cell of the landing page and save the figure that it leaves open."""
    page = jupytext.read(ROOT / "book" / "index.md")
    cell = next(cell for cell in page.cells if cell.cell_type == "code")
    exec(compile(cell.source, "book/index.md", "exec"), {})
    target = ROOT / "book" / "_static" / "learning.svg"
    plt.savefig(target, metadata={"Date": None})
    print(f"Wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
