"""`hf-mmcoa train` and `examples/train_mmcoa.py`: measure a CLIP, train it to be robust, measure it again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from safetensors import SafetensorError

from ..io import printable
from .launch import start_missing_processes
from .train_arguments import parse

HELP = "fine-tune a CLIP to be robust, measured before and after"


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure as the options say, and report an error as one line; return the exit status.

    Args:
        argv: the words after `hf-mmcoa train`; those of this process when None.
    """
    if (status := start_missing_processes()) is not None:
        return status
    try:
        run, args = parse(sys.argv[1:] if argv is None else argv)
        from ..protocols.before_and_after import train_and_measure

        train_and_measure(run, args)
    except (ValueError, TypeError, OSError, LookupError, FloatingPointError, SafetensorError) as error:
        print(f"hf-mmcoa train: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:  # a TrainingInterrupted says how to resume
        print(f"hf-mmcoa train: {stopped or 'stopped by SIGINT'}", file=sys.stderr)
        return 128 + int(getattr(stopped, "signal_number", signal.SIGINT))
    return 0
