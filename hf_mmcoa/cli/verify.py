"""`hf-mmcoa verify`: measure the numbers of a model's card again and say which hold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io import printable
from .launch import refuse_several_processes

HELP = "measure the numbers of a model's card again and say which hold"
DESCRIPTION = """\
Compare the card of a model folder or Hub repository with its result files, and measure these again by their own
specification on the same samples, or on a draw of them. DIR/verification.json holds every reported number beside the
measured one, and what breaks RobustBench's rules: zero gradients, randomness or an optimisation loop in the forward
pass. Give the same command again to resume an interrupted run.

  hf-mmcoa verify robust-clip --output verification
  hf-mmcoa verify owner/robust-clip --max_samples 200 --output verification

exit status: 0 if every number was measured and holds, 3 if a number differs or a rule is broken, 1 if none does but
some could not be measured or something else failed, 2 for a wrong argument
"""
STATUS = {"holds": 0, "differs": 3, "not measured": 1}


def run(args: argparse.Namespace) -> int:
    """Verify the model that the parsed arguments name, print what was found; return the exit status."""
    import torch
    from accelerate import Accelerator

    from ..hub.verification import FILE, verify

    try:
        refuse_several_processes("verify")
        if args.max_samples is not None and args.max_samples < 1:
            raise ValueError(f"`--max_samples` must be at least 1, got {args.max_samples}.")
        if Path(args.output).is_file():
            raise ValueError(f"`--output`: {args.output} is a file: name a folder.")
        found = verify(
            args.model,
            args.output,
            max_samples=args.max_samples,
            data_dir=args.data_dir,
            revision=args.revision,
            accelerator=Accelerator(cpu=args.cpu or not torch.accelerator.is_available()),
            progress=not args.quiet,
        )
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa verify: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf-mmcoa verify: interrupted; give the same command again to resume.", file=sys.stderr)
        return 130
    print(printable("\n".join(_lines(found))))
    print(f"\n{args.model}: {found['verdict']}\n{args.output}/{FILE}")
    return STATUS[found["verdict"]]


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Return one line for each number and each rule."""
    lines = []
    for result in found["results"]:
        lines.append(f"{result['dataset']}, {result['threat_model']} {result['eps']}, {result['column']}")
        for one in result["numbers"]:
            measured = "" if one["measured"] is None else f", measured {100 * one['measured']:.1f}"
            if one["interval"] is not None:
                low, high = one["interval"]
                measured += f" [{100 * low:.1f}, {100 * high:.1f}] on {one['samples']}"
            why = f" ({one['why']})" if one["why"] else ""
            lines.append(f"  {one['accuracy']}: reported {100 * one['reported']:.1f}{measured}: {one['verdict']}{why}")
    words = {True: "passed", False: "broken", None: "not checked"}
    lines += [f"{one['check']}: {words[one['passed']]} ({one['detail']})" for one in found["rules"]]
    return lines + list(found["not_measured"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa verify`."""
    parser.add_argument("model", metavar="FOLDER_OR_ID", help="folder or Hub id that `hf-mmcoa push` wrote")
    parser.add_argument(
        "--output",
        default="verification",
        metavar="DIR",
        help="folder for verification.json and the new result files; ./verification without it",
    )
    parser.add_argument(
        "--max_samples",
        "--max-samples",
        type=int,
        metavar="N",
        help="measure on this many of the recorded samples, drawn once; on all without it",
    )
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data sets' files already"
    )
    parser.add_argument("--revision", metavar="BRANCH_OR_COMMIT", help="of a Hub repository; main without it")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is an accelerator")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
