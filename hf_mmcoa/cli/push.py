"""`hf-mmcoa push`: publish a checkpoint folder on the Hub, with a model card of its measured robustness."""

from __future__ import annotations

import argparse
import sys

from ..io import printable

HELP = "publish a checkpoint and its card on the Hub"
DESCRIPTION = """\
Write the model card FOLDER/README.md from the result files measured on these weights, and upload it with the weights
(safetensors), processor, training_args.yaml and results to the Hub repository ID, in one commit. Pickle files and
checkpoint-* folders are not uploaded. Give the same command again if an upload was interrupted.

An adapter is uploaded as an adapter, or with --merge as one plain model.

exit status: 0, 1 for an error, 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Upload, or only list, the files that the parsed arguments name; return the exit status."""
    from transformers.utils import logging

    from ..hub.local_folder import is_path
    from ..hub.push import pack, push, push_to_folder

    logging.disable_progress_bar()  # show bars for the upload only, not for reading files
    options = {
        "results": args.results,
        "merge": args.merge,
        "base_model": args.base_model,
        "license": args.license,
    }
    repo_id, target = args.repo_id, args.to_folder
    if target is None and repo_id is not None and is_path(repo_id):
        repo_id, target = None, repo_id
    try:
        _check_target(args, repo_id, target)
        commit = None
        if args.dry_run:
            package = pack(args.folder, repo_id, other_card="replace" if args.overwrite else "refuse", **options)
        elif target is not None:
            package = push_to_folder(args.folder, target, repo_id, overwrite=args.overwrite, **options)
        else:
            package, commit = push(
                args.folder,
                repo_id,
                private=args.private,
                revision=args.revision,
                overwrite=args.overwrite,
                **options,
            )
    except (ValueError, TypeError, OSError, LookupError) as error:
        print(f"hf-mmcoa push: {printable(str(error))}", file=sys.stderr)
        return 1
    for one in package.left_out:
        print(f"left out: {printable(one)}", file=sys.stderr)
    print(printable("\n".join(sorted(package.files))))
    card = package.checkpoint.folder if target is None or args.dry_run else target
    print(
        f"\n{commit.commit_url}" if commit else f"\nnothing was uploaded; the card is {printable(str(card))}/README.md"
    )
    return 0


def _check_target(args: argparse.Namespace, repo_id: str | None, target: str | None) -> None:
    """Raise ValueError unless the options name a repository or a folder, and fit it."""
    if repo_id is None and target is None:
        raise ValueError("name the repository, OWNER/NAME, or a local folder (--to_folder DIR).")
    if target is not None and (args.private or args.revision):
        raise ValueError("--private and --revision are of a repository on the Hub; a local folder has neither.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa push`."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder of a CLIPModel or an adapter, as `hf-mmcoa train` writes it"
    )
    parser.add_argument(
        "repo_id",
        nargs="?",
        metavar="ID",
        help="OWNER/NAME of the repository, created if it does not exist; a path (./DIR, /DIR) is as --to_folder",
    )
    parser.add_argument(
        "--to_folder",
        "--to-folder",
        metavar="DIR",
        help="write the published files into this local folder and upload nothing; with ID, the card's code loads ID",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="result files, or NAME=FILE; without it robustness.json and results/*.json of FOLDER",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch, created if it does not exist")
    parser.add_argument("--merge", action="store_true", help="push an adapter and its base model as one plain model")
    parser.add_argument(
        "--base_model", "--base-model", metavar="ID", help="Hub id of the base model, if no file names it"
    )
    parser.add_argument("--license", metavar="ID", help="licence of the weights by its Hub identifier, such as mit")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a different model in the repository, and a README.md in FOLDER that was written by hand",
    )
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="write the card and list the files, but upload nothing"
    )
