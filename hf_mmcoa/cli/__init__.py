"""The command line, `hf-mmcoa COMMAND`.

Each command is a module with `HELP`, `DESCRIPTION`, `add_arguments` and `run`. It parses arguments and reports errors
as one line; the work is done by public functions of the other packages. Commands import torch and other heavy
libraries when they run, so that help and argument errors take a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .._version import __version__

# Attacks tokenize short lists of texts, thousands of times. On busy cores most of that time would be waiting for other
# threads; on idle ones nothing is gained by them: the main command takes as long.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    Args:
        argv: the words after `hf-mmcoa`; those of this process when None.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["train"]:  # its options are the fields of MMCoAConfig, which a parser of its own reads
        from . import train

        return train.main(given[1:])
    args = build_parser().parse_args(given)
    return int(args.run(args))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands but `train`; the parsed arguments' `run` is the function to call."""
    from . import (
        compare,
        convert,
        demo,
        encoder,
        evaluate,
        interpolate,
        protocol,
        push,
        report,
        reproduce,
        train,
        universal,
        verify,
    )

    parser = argparse.ArgumentParser(
        prog="hf-mmcoa",
        description="Fine-tune CLIP models to be robust to image, text and multimodal attacks, and measure how robust "
        "they are.",
    )
    parser.add_argument("--version", action="version", version=f"hf-mmcoa {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers.add_parser("train", add_help=False, help=train.HELP)
    commands = (evaluate, report, protocol, convert, push, compare, demo, interpolate)
    for command in (*commands, reproduce, verify, encoder, universal):
        subparser = subparsers.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.HELP,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
