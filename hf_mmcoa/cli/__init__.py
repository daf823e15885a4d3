"""The command line, `hf-mmcoa COMMAND`: thin over the public names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    from . import (
        evaluate,
        protocol,
        report,
        train,
    )  # torch is imported when a command runs, not when `--help` of pip looks here

    parser = argparse.ArgumentParser(prog="hf-mmcoa", description="Make any CLIP robust, and prove it.")
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, evaluate, report, protocol):
        command.add_parser(subparsers)
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["train"]:  # its options are those of MMCoAConfig, which a parser of its own reads
        return train.main(given[1:])
    args = parser.parse_args(given)
    return int(args.run(args))


def _version() -> str:
    from .._version import __version__

    return f"hf-mmcoa {__version__}"
