"""One mechanism for all explorables: what a cell shows, with or without a kernel."""

import base64
import hashlib
import html
import io
import json
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Explorable:
    """An interactive picture: displayed as the last value of a cell, it works with or without a kernel.

    Parameters
    ----------
    script : str
        The name of a file in ``scb_nb/assets`` that defines ``start(stage)``, which fills an empty element from
        ``data``.
    data : dict
        What the script needs, in JSON types.
    question : str
        What the reader should find out with it.
    still : matplotlib.figure.Figure
        The opening state as a picture. It is closed here.
    alt : str
        The still in words.
    """

    def __init__(self, script: str, data: dict[str, Any], *, question: str, still: Figure, alt: str) -> None:
        self._script, self._data, self._question, self.alt = script, data, question, alt
        buffer = io.BytesIO()
        still.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        plt.close(still)
        self.png = buffer.getvalue()

    def _repr_html_(self) -> str:
        assets = files("scb_nb") / "assets"
        style, shared, script = (
            (assets / name).read_text(encoding="utf-8") for name in ("explorable.css", "explorable.js", self._script)
        )
        # "</" would end the script element from within a string.
        data = json.dumps(self._data).replace("</", "<\\/")
        key = hashlib.sha256((script + data).encode()).hexdigest()[:12]
        picture = base64.b64encode(self.png).decode()
        return (
            f'<div class="scb-explorable" data-scb="{key}" data-script="{self._script}" role="group" '
            f'aria-label="{html.escape(self._question)}">'
            f"<style>{style}</style>"
            f'<p class="scb-question">{html.escape(self._question)}</p><div class="scb-stage"></div>'
            f'<img class="scb-still" alt="{html.escape(self.alt)}" src="data:image/png;base64,{picture}"></div>'
            f'<script>(() => {{ const data = {data}; {shared} {script} mount("{key}", start); }})();</script>'
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/html": self._repr_html_(), "image/png": self.png, "text/plain": self.alt}
