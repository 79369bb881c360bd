"""Pictures that several chapters share, in one style: legible at phone width, distinct to colour-blind readers."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib_inline.backend_inline import set_matplotlib_formats
from numpy.typing import ArrayLike

from scb_nb.validate import FloatArray

# Okabe and Ito's palette, darkest first, without the yellow that vanishes on white.
COLOURS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "grey": "#767676",
}

STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(color=list(COLOURS.values())),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 13,
    "figure.constrained_layout.use": True,
    "figure.figsize": (6.0, 3.2),
    "font.size": 13,
    "grid.alpha": 0.25,
    "image.cmap": "Blues",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.facecolor": "white",
    "svg.hashsalt": "scb_nb",
}


def use_style() -> None:
    """Set the book's style for every figure of this notebook: vector graphics, the same at every run."""
    plt.rcParams.update(STYLE)  # type: ignore[arg-type]  # which knows the names of all settings
    set_matplotlib_formats("svg", metadata={"Date": None})


def to_numpy(tensor: torch.Tensor) -> FloatArray:
    """Return a tensor's values as a float64 NumPy array on the CPU, wherever it was.

    Examples
    --------
    >>> to_numpy(torch.tensor([1.0, 2.0], requires_grad=True))
    array([1., 2.])
    """
    return tensor.detach().cpu().double().numpy()


def matrix(
    ax: Axes,
    values: ArrayLike,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    vmax: float | None = None,
    numbers: bool = False,
) -> AxesImage:
    """Draw a non-negative matrix as a heat map with labelled rows and columns; ``numbers`` writes the entries in."""
    values = np.asarray(values, dtype=float)
    top = float(values.max()) if vmax is None else vmax
    image = ax.imshow(values, vmin=0, vmax=top, aspect="auto", interpolation="none")
    ax.grid(False)
    for labels, set_ticks in ((rows, ax.set_yticks), (columns, ax.set_xticks)):
        if labels is not None:
            set_ticks(range(len(labels)), labels)
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if value > 0:
                ink = "white" if value > 0.6 * top else "black"
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=10)
    return image
