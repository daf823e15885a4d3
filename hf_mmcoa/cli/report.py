"""`hf-mmcoa report`: result files in, a page, Markdown and pictures out."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..evaluation.report import write_report

_DESCRIPTION = """\
Make a report of result files: index.html (one file, no network, no script), report.md and PNGs.

Results under one threat model on the same samples share a section; others get their own. Files given the same NAME are
repetitions of one model (seeds), and averaged. RESULT.gallery.json beside RESULT.json is shown as a gallery.

exit status: 0, or 1 if a file was left out (the report of the others is written all the same)
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `report` to the subcommands of `hf-mmcoa`; the parsed arguments' `run` is the function to call."""
    parser = subparsers.add_parser(
        "report",
        help="HTML, Markdown and pictures of result files",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the report that the parsed arguments ask for; returns the exit status."""
    try:
        report = write_report(args.results, args.output, title=args.title)
    except (ValueError, OSError) as error:
        print(f"hf-mmcoa report: {error}", file=sys.stderr)
        return 1
    for note in (*report.left_out, *report.notes):
        print(f"hf-mmcoa report: {note}", file=sys.stderr)
    print(f"{report.page}\n{report.markdown}")
    return 1 if report.left_out else 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="result file, folder of them, or NAME=FILE")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for index.html, report.md and PNGs")
    parser.add_argument("--title", default="Robustness report", help="of the page")
