"""`hf-mmcoa protocol`: run a grid of trainings and evaluations and write one table of all results."""

from __future__ import annotations

import argparse
import sys

from ..io import printable
from .jobs_argument import add_jobs_argument
from .launch import refuse_several_processes

HELP = "run a grid of trainings and evaluations, resumable cell by cell"
DESCRIPTION = """\
Train and evaluate a grid of data sets, shots, objectives and seeds, and write one table and one page of all results.
Give the same command again to resume an interrupted one; finished cells of the grid are not computed again.

DIR receives cells/NAME/result.json for each cell, the trained models in models/, and in the end protocol.json (all
numbers), table.md and index.html.

exit status: 0, or 1 if a cell failed (the others are computed and shown all the same), 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Run or plan the protocol that the parsed arguments name; return the exit status."""
    from ..protocols.grid import print_to_stderr, run_protocol
    from ..protocols.plan import plan_protocol
    from ..protocols.reading import read_protocol

    try:
        refuse_several_processes("protocol")
        protocol = read_protocol(args.protocol, args.data_dir)
        if args.dry_run:
            print(printable(plan_protocol(protocol, args.output, args.processes)))
            return 0
        failures = run_protocol(protocol, args.output, args.processes, report=print_to_stderr)
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa protocol: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf-mmcoa protocol: interrupted; give the same command again to resume.", file=sys.stderr)
        return 130
    for name, problem in failures.items():
        print(f"hf-mmcoa protocol: {name}: {printable(problem)}", file=sys.stderr)
    print("\n".join(f"{args.output}/{name}" for name in ("table.md", "protocol.json", "index.html")))
    return 1 if failures else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa protocol`."""
    parser.add_argument(
        "protocol",
        metavar="NAME_OR_YAML",
        help="paper-iid, paper-ood, few-shot, few-shot-ood, or a YAML file (examples/protocols/)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for results, models and the table")
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="print cells, downloads, disk space and time, and run nothing",
    )
    add_jobs_argument(parser)
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data sets' files already"
    )
