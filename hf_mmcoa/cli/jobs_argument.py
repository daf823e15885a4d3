"""`--jobs N`, the option of the commands that run many trainings."""

from __future__ import annotations

import argparse


def add_jobs_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--jobs`, with its former name `--processes`, as `processes`."""
    parser.add_argument(
        "--jobs",
        "--processes",
        dest="processes",
        type=int,
        default=1,
        metavar="N",
        help="trainings to run at the same time, each on one GPU, or on its share of the cores",
    )
