"""Markdown with texts that may come from anywhere: escaped, on one line, and in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..io import printable


class Verbatim(str):
    """Markdown that this package made itself and that needs no escaping."""


def escape_markdown(text: str) -> str:
    """Return one line of Markdown that shows `text` as it is, whatever markup or invisible characters it holds.

    Example:
        >>> print(escape_markdown("- [x](http://y.org)"))
        \\- \\[x\\](http\\://y.org)
    """
    line = " ".join(printable(" ".join(text.split())).split())
    line = re.sub(r"([\\`*_\[\]<>|!#~&$@]|:(?=//)|(?<=www)\.)", r"\\\1", line)  # addresses become links by themselves
    return re.sub(r"^(\d*)([-+=.)])(?=[\s=-]|$)", r"\1\\\2", line)  # what begins a list or underlines a heading


def markdown_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], align: Sequence[str] | None = None
) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        header: a text for each column.
        rows: a text for each column and row. Texts are escaped, here and in the header, unless they are `Verbatim`.
        align: "left" or "right" for each column; when None, the first column is aligned left and all others right.

    Raises:
        ValueError: if a row or `align` does not have one entry a column.

    Example:
        >>> print("\\n".join(markdown_lines(["name", "accuracy"], [["a_b", "0.5"]])))
        | name | accuracy |
        | --- | ---: |
        | a\\_b | 0.5 |
    """
    align = align or ["left", *["right"] * (len(header) - 1)]
    table = [[cell if isinstance(cell, Verbatim) else escape_markdown(cell) for cell in row] for row in (header, *rows)]
    if wrong := [len(row) for row in (*table, align) if len(row) != len(header)]:
        raise ValueError(f"a table of {len(header)} columns has a row or an alignment of {wrong[0]}.")
    lines = [f"| {' | '.join(row)} |" for row in table]
    rule = " | ".join({"left": "---", "right": "---:"}[each] for each in align)
    return [lines[0], f"| {rule} |", *lines[1:]]
