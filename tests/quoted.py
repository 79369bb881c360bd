"""What a plain notebook quotes from a build, which may depend on the machine, apart from all else in it."""

import re
from collections import defaultdict
from typing import Any

HERE = "\N{REPLACEMENT CHARACTER}"


class Anything:
    """Whatever value a build recorded."""

    def __format__(self, form: str) -> str:
        return HERE


VALUES: defaultdict[str, Anything] = defaultdict(Anything)


def quotes(kept: Any, current: Any) -> list[str]:
    """Return the values that a notebook quotes in the places of one made with ``VALUES``; all else must be the same."""
    values = []
    for cell, wanted in zip(kept.cells, current.cells, strict=True):
        match = re.fullmatch(re.escape(wanted.source).replace(HERE, r"([^\n]+?)"), cell.source)
        assert match, f"a chapter has changed: make notebooks\n\n{wanted.source}"
        values += match.groups()
        wanted.source = cell.source
    assert kept == current, "a chapter has changed: make notebooks"
    return values
