"""`hf-mmcoa compare`: train methods with several seeds, measure them under one threat model and compare them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..io import printable
from .jobs_argument import add_jobs_argument
from .launch import refuse_several_processes

HELP = "compare training methods under one threat model"
DESCRIPTION = """\
Train several methods with several seeds, measure all models under the same attacks, and compare them: a table with
confidence intervals, paired tests against a reference method, and a plot. Give the same command again to resume an
interrupted one; with more objectives or seeds it computes only those.

  hf-mmcoa compare examples/comparisons/digits.yaml --output output/digits
  hf-mmcoa compare --dataset digits --objectives none mmcoa mmcoa,targets=class --seeds 0 1 2 --output output/targets

A method is an objective, or OBJECTIVE,FIELD=VALUE,... to change fields of MMCoAConfig for this method alone;
NAME=OBJECTIVE,FIELD=VALUE,... also names its row. All methods train for the same number of gradient steps and are
evaluated alike. On digits and fashion-mnist, without a model, a tiny CLIP is built and pretrained first.

DIR receives comparison.md, comparison.png and comparison.json (all numbers), and DIR/cells/NAME/result.json for each
method and seed.

exit status: 0, or 1 if a training or evaluation failed (the others are compared all the same) or results were measured
under different threat models, 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Run or plan the comparison that the parsed arguments ask for; return the exit status."""
    from ..protocols.choosing import CHOICE, to_choose_by
    from ..protocols.comparison import check_is_comparison, run_comparison
    from ..protocols.grid import print_to_stderr
    from ..protocols.plan import plan_protocol
    from ..protocols.reading import read_protocol

    try:
        refuse_several_processes("compare")
        protocol = read_protocol(args.comparison, args.data_dir, _changes(args))
        if args.choose:
            protocol, args.output = to_choose_by(protocol), str(Path(args.output, CHOICE))
        if args.dry_run:
            check_is_comparison(protocol)
            print(printable(plan_protocol(protocol, args.output, args.processes)))
            return 0
        failures = run_comparison(
            protocol,
            args.output,
            args.processes,
            results=args.results,
            reference=args.reference,
            report=print_to_stderr,
        )
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa compare: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf-mmcoa compare: interrupted; give the same command again to resume.", file=sys.stderr)
        return 130
    for name, problem in failures.items():
        print(f"hf-mmcoa compare: {name}: {printable(problem)}", file=sys.stderr)
    print("\n".join(f"{args.output}/comparison.{kind}" for kind in ("md", "png", "json")))
    return 1 if failures else 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options as fields of a protocol, which override those of the YAML file."""
    from ..protocols.protocol import TINY
    from ..protocols.run_arguments import SHIPPED_FOR
    from ..protocols.values import field_values

    if args.comparison is None and args.dataset is None:
        raise ValueError("name a YAML file, or a data set by --dataset.")
    changes: dict[str, Any] = {
        name: value
        for name in ("objectives", "seeds", "word_splits", "max_test_samples")
        if (value := getattr(args, name)) is not None
    }
    changes |= {name: _here(value) for name in ("model", "candidates") if (value := getattr(args, name))}
    if args.dataset is not None:
        changes["datasets"] = [args.dataset]
        if args.comparison is None and args.dataset in (*TINY, *SHIPPED_FOR):
            changes |= {"candidates": args.dataset} | changes if args.model else {"base": args.dataset}
        elif args.comparison is None and args.model is None:
            built = ", ".join([*TINY, *SHIPPED_FOR])
            raise ValueError(f"--dataset {args.dataset} needs --model: there is a tiny CLIP for {built} alone.")
    if args.training:
        changes["training"] = field_values(args.training, "--training")
    if args.preset:
        changes["threat_model"] = {"preset": args.preset}
    return changes


def _here(name: str) -> str:
    """Return an existing path as an absolute one: it is relative to the working directory, not to the YAML file."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa compare`."""
    from ..evaluation.threat_model import PRESETS

    parser.add_argument(
        "comparison", nargs="?", metavar="YAML", help="comparison as a YAML file (see examples/comparisons/)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the comparison")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a registered benchmark or a Hub id; the YAML file's without it"
    )
    parser.add_argument(
        "--model", metavar="PATH_OR_ID", help="folder or Hub id of the CLIP that every method starts from"
    )
    parser.add_argument(
        "--objectives", nargs="+", metavar="METHOD", help="the methods; `none` is the model without training"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="seeds of trainings and attacks; 0 without it"
    )
    parser.add_argument(
        "--word_splits",
        "--word-splits",
        nargs="+",
        type=int,
        metavar="SEED",
        help="seeds of the splits of substitutes into known and unseen ones; 0 without it",
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="measure the same rows on validation images and validation words, in DIR/choice: to choose a form or a "
        "learning rate without looking at the test",
    )
    parser.add_argument(
        "--training",
        nargs="+",
        metavar="FIELD=VALUE",
        help="fields of MMCoAConfig for every method, such as max_steps=300",
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), help="threat model of the evaluation; standard without it and without YAML"
    )
    parser.add_argument(
        "--candidates",
        metavar="SOURCE",
        help="where substitutes come from: neighbours, masked-lm, hotflip, wordnet, or a JSON file",
    )
    parser.add_argument(
        "--max_test_samples",
        "--max-test-samples",
        type=int,
        metavar="N",
        help="measure on this many test samples, drawn once",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="method that the others are tested against; the first trained one without it",
    )
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help="finished results under the same threat model to add as rows: files, or folders of files",
    )
    add_jobs_argument(parser)
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data sets' files already"
    )
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="print trainings, downloads, disk space and time, and run nothing",
    )
