"""Retrieval results as tables of a report: recall in both directions, each with its interval over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.recalls import DEPTHS, DIRECTIONS
from ..evaluation.retrieval import load_retrieval
from ..io import printable
from .load import is_retrieval, named_path, result_files
from .markdown import markdown_lines
from .table import describe

HEADER = ["recall under", *(f"{d.replace('_', ' ')} R@{k}" for d in DIRECTIONS for k in DEPTHS)]


@dataclass(frozen=True, kw_only=True)
class RecallTable:
    """One retrieval result as a table.

    Args:
        title: the model and the data.
        summary: images, captions and the threat model.
        rows: a threat's name and its recalls, as `HEADER`.
        failed: sanity checks that failed, in words.
    """

    title: str
    summary: str
    rows: Sequence[Sequence[str]]
    failed: Sequence[str]

    @property
    def header(self) -> Sequence[str]:
        """Names of the columns."""
        return HEADER

    @property
    def note(self) -> str:
        """Return what the numbers are and what their intervals are over."""
        return (
            "Percent with the 95% interval over images, of which each brings its captions; worst case per query over "
            "the attacks."
        )

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        return markdown_lines(HEADER, self.rows)


def recall_tables(given: Sequence[str | Path]) -> tuple[list[RecallTable], list[str]]:
    """Read the retrieval results among files and folders.

    Args:
        given: as of `load_results`.

    Returns:
        Their tables, and a message for each that is damaged.
    """
    tables, left_out = [], []
    for one in given:
        name, path = named_path(one)
        for file in filter(is_retrieval, result_files(path)):
            try:
                tables.append(recall_table(load_retrieval(file), name))
            except (ValueError, KeyError, TypeError) as error:
                left_out.append(f"{file}: {error}")
    return tables, left_out


def recall_table(result: Mapping[str, Any], name: str | None = None) -> RecallTable:
    """Return a result of `load_retrieval` as a table; `name` replaces the model's own."""
    first = f"_{DIRECTIONS[0]}_recall_at_{DEPTHS[0]}"
    threats = [key.removesuffix(first) for key in result if key.endswith(first) and "/" not in key]
    rows = [
        [threat.replace("_", " "), *(_cell(result, threat, d, k) for d in DIRECTIONS for k in DEPTHS)]
        for threat in threats
    ]
    return RecallTable(
        title=printable(f"Retrieval: {name or result['model']} on {result['dataset']}"),
        summary=f"{result['num_samples']} images, {result['num_captions']} captions; {describe(result['attack_spec'])}",
        rows=rows,
        failed=[f"{one['check']} ({one['detail']})" for one in result["sanity"] if one["passed"] is False],
    )


def _cell(result: Mapping[str, Any], threat: str, direction: str, depth: int) -> str:
    value = result[f"{threat}_{direction}_recall_at_{depth}"]
    low, high = result[f"{threat}_{direction}_recall_at_{depth}_interval"]
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
