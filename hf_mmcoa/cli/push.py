"""`hf-mmcoa push`: a checkpoint folder in, a repository on the Hub with a card of its measured numbers out."""

from __future__ import annotations

import argparse
import sys

from ..io import printable

HELP = "publish a checkpoint and its card on the Hub"
DESCRIPTION = """\
Write FOLDER/README.md, the model card, from the result files that were measured on these weights, and send it with the
weights (safetensors), processor, training_args.yaml and results to the Hub repository ID, in one commit. No pickle and
no checkpoint-* folder is sent. A push that broke off is repeated by the same command.

An adapter is sent as an adapter, or with --merge as one plain model.

exit status: 0, 1 for an error, 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Push, or list, what the parsed arguments say; returns the exit status."""
    from transformers.utils import logging

    from ..hub.push import pack, push

    logging.disable_progress_bar()  # bars for the upload only: not for reading one file
    what = {
        "results": args.results,
        "merge": args.merge,
        "base_model": args.base_model,
        "license": args.license,
    }
    try:
        if args.dry_run:
            package, commit = (
                pack(args.folder, args.repo_id, other_card="replace" if args.overwrite else "refuse", **what),
                None,
            )
        else:
            package, commit = push(
                args.folder,
                args.repo_id,
                private=args.private,
                revision=args.revision,
                overwrite=args.overwrite,
                **what,
            )
    except (ValueError, TypeError, OSError, LookupError) as error:
        print(f"hf-mmcoa push: {printable(str(error))}", file=sys.stderr)
        return 1
    for one in package.left_out:
        print(f"left out: {printable(one)}", file=sys.stderr)
    print(printable("\n".join(sorted(package.files))))
    print(
        f"\n{commit.commit_url}" if commit else f"\nnothing was sent; the card is {package.checkpoint.folder}/README.md"
    )
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa push`."""
    parser.add_argument("folder", metavar="FOLDER", help="a CLIPModel or an adapter, as `hf-mmcoa train` writes it")
    parser.add_argument("repo_id", metavar="ID", help="OWNER/NAME, created if need be")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="result files, or NAME=FILE; without it robustness.json and results/*.json of FOLDER",
    )
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch, created if need be")
    parser.add_argument("--merge", action="store_true", help="push an adapter and its base model as one plain model")
    parser.add_argument(
        "--base_model", "--base-model", metavar="ID", help="Hub id of the base model, if the files do not name it"
    )
    parser.add_argument("--license", metavar="ID", help="licence of the weights as the Hub writes it, such as mit")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace another model in the repository, and a README.md in FOLDER that was written by hand",
    )
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="write the card, list the files, send nothing"
    )
