"""`hf-mmcoa report`: result files in, a page, Markdown and pictures out."""

from __future__ import annotations

import argparse
import sys

from ..io import printable
from ..report.page import write_report

HELP = "HTML, Markdown and pictures of result files"
DESCRIPTION = """\
Make a report of result files: index.html (one file, no network, no script), report.md and PNGs.

Results under one threat model on the same samples share a section; others get their own. Files given the same NAME are
repetitions of one model (seeds), and averaged. RESULT.gallery.json beside RESULT.json is shown as a gallery.

exit status: 0, or 1 if a file was left out (the report of the others is written all the same)
"""


def run(args: argparse.Namespace) -> int:
    """Write the report that the parsed arguments ask for; returns the exit status."""
    try:
        report = write_report(args.results, args.output, title=args.title)
    except (ValueError, OSError) as error:
        print(f"hf-mmcoa report: {printable(str(error))}", file=sys.stderr)
        return 1
    for note in (*report.left_out, *report.notes):
        print(f"hf-mmcoa report: {printable(note)}", file=sys.stderr)
    print(f"{report.page}\n{report.markdown}")
    return 1 if report.left_out else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa report`."""
    parser.add_argument("results", nargs="+", metavar="RESULTS", help="result file, folder of them, or NAME=FILE")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for index.html, report.md and PNGs")
    parser.add_argument("--title", default="Robustness report", help="of the page")
