"""Numbers that the text of a chapter quotes, kept with the cell that computed them."""

import numbers
from typing import Any

from IPython.display import display


def record(**values: Any) -> None:
    """Keep each value under its name, for the prose of the page to quote; shows nothing.

    The book prints them with ``{glue:text}`` (MyST-NB); elsewhere notebooks show nothing of them. Numbers become int or
    float, anything else is quoted as ``str``.

    Raises
    ------
    TypeError
        If no value is given.
    """
    if not values:
        raise TypeError("record takes at least one name=value, got none")
    for name, value in values.items():
        if isinstance(value, numbers.Integral):
            text = str(int(value))
        elif isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0:
            text = repr(float(value))
        else:
            text = repr(str(value))
        data = {"application/papermill.record/text/plain": text}
        display(data, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}})
