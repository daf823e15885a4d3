"""`hf-mmcoa report`: make a page, Markdown and plots of result files."""

from __future__ import annotations

import argparse
import sys

from ..io import printable

HELP = "make an HTML page, Markdown and plots of result files"
DESCRIPTION = """\
Make a report of result files: index.html (one file, without scripts or network access), report.md and PNG plots.

Results of the same samples under the same threat model share a section. Files given the same NAME are repetitions of
one model with different seeds and are averaged. RESULT.gallery.json beside RESULT.json is shown as a gallery.

exit status: 0, or 1 if a file was left out (the report of the others is written all the same), 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Write the report that the parsed arguments ask for; return the exit status."""
    from ..report.page import write_report

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
    """Add the options of `hf-mmcoa report`."""
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="result file, folder of result files, or NAME=FILE"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for index.html, report.md and the plots")
    parser.add_argument("--title", default="Robustness report", help="title of the page")
