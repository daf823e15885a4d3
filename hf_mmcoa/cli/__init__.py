"""The command line, `hf-mmcoa COMMAND`: thin over the public names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["train"]:  # its options are those of MMCoAConfig, which a parser of its own reads
        from . import train

        return train.main(given[1:])
    args = build_parser().parse_args(given)
    return int(args.run(args))


def build_parser() -> argparse.ArgumentParser:
    """All subcommands; the parsed arguments' `run` is the function to call."""
    # torch is imported when a command runs, not when this module is
    from . import compare, convert, demo, evaluate, interpolate, protocol, push, report

    parser = argparse.ArgumentParser(prog="hf-mmcoa", description="Make any CLIP robust, and prove it.")
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser("train", add_help=False, help="robust fine-tuning, measured before and after")
    for command in (evaluate, report, protocol, convert, push, compare, demo, interpolate):
        subparser = subparsers.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.HELP,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _version() -> str:
    from .._version import __version__

    return f"hf-mmcoa {__version__}"
