"""`hf-mmcoa compare`: methods x seeds under one specification, to one table with intervals, paired tests and a plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..io import printable

HELP = "methods against each other under one specification"
DESCRIPTION = """\
Train methods with several seeds, attack and measure all under one specification, and compare them: one table with
intervals, paired tests against a reference, one plot. The same command again goes on where an interrupted one was;
with further objectives or seeds it computes those alone.

  hf-mmcoa compare examples/comparisons/digits.yaml --output output/digits
  hf-mmcoa compare --dataset digits --objectives none mmcoa mmcoa,targets=class --seeds 0 1 2 --output output/targets

A method is an objective, or OBJECTIVE,FIELD=VALUE,... with fields of MMCoAConfig that it changes in its own training;
NAME=OBJECTIVE,FIELD=VALUE,... gives its row a name. All take equally many gradient steps and are evaluated alike.
Without a model and on digits or fashion-mnist a tiny CLIP is built and pretrained here.

At the end DIR holds comparison.md, comparison.png and comparison.json (all numbers); DIR/cells/NAME/result.json is one
method's result with one seed.

exit status: 0, or 1 if a cell failed (the others are compared all the same) or the specifications differ, 2 for a wrong
argument
"""


def run(args: argparse.Namespace) -> int:
    """Run, or plan, the comparison that the parsed arguments ask for; returns the exit status."""
    from ..protocols.comparison import check_is_comparison, run_comparison
    from ..protocols.grid import print_to_stderr
    from ..protocols.plan import plan_protocol
    from ..protocols.reading import read_protocol

    try:
        protocol = read_protocol(args.comparison, args.data_dir, _changes(args))
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
        print("hf-mmcoa compare: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    for name, problem in failures.items():
        print(f"hf-mmcoa compare: {name}: {printable(problem)}", file=sys.stderr)
    print("\n".join(f"{args.output}/comparison.{kind}" for kind in ("md", "png", "json")))
    return 1 if failures else 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The options as fields of a protocol, over those of the YAML file."""
    from ..protocols.protocol import TINY
    from ..protocols.values import field_values

    if args.comparison is None and args.dataset is None:
        raise ValueError("name a YAML file, or a data set by --dataset.")
    changes: dict[str, Any] = {
        name: value
        for name in ("objectives", "seeds", "max_test_samples")
        if (value := getattr(args, name)) is not None
    }
    changes |= {name: _here(value) for name in ("model", "candidates") if (value := getattr(args, name))}
    if args.dataset is not None:
        changes["datasets"] = [args.dataset]
        if args.comparison is None and args.dataset in TINY:
            changes |= {"candidates": args.dataset} | changes if args.model else {"base": args.dataset}
        elif args.comparison is None and args.model is None:
            raise ValueError(f"--dataset {args.dataset} needs --model: a tiny CLIP is built for {' and '.join(TINY)}.")
    if args.training:
        changes["training"] = field_values(args.training, "--training")
    if args.preset:
        changes["threat_model"] = {"preset": args.preset}
    return changes


def _here(name: str) -> str:
    """What is a path is relative to where the command runs, not to the YAML file."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa compare`."""
    from ..evaluation.threat_model import PRESETS

    parser.add_argument(
        "comparison", nargs="?", metavar="YAML", help="as of `hf-mmcoa protocol` (examples/comparisons/)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the comparison")
    parser.add_argument("--dataset", metavar="NAME", help="a registered benchmark or a Hub id; the YAML's without it")
    parser.add_argument("--model", metavar="PATH_OR_ID", help="folder or Hub id of the CLIP that all start from")
    parser.add_argument(
        "--objectives", nargs="+", metavar="METHOD", help="the rows; `none` is the model as it was given"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="of trainings and attacks; 0 without it")
    parser.add_argument(
        "--training", nargs="+", metavar="FIELD=VALUE", help="fields of MMCoAConfig for all methods: max_steps=300"
    )
    parser.add_argument("--preset", choices=list(PRESETS), help="threat model of the evaluation; standard without it")
    parser.add_argument("--candidates", metavar="SOURCE", help="substitutes: neighbours, masked-lm, ... or a JSON file")
    parser.add_argument(
        "--max_test_samples", "--max-test-samples", type=int, metavar="N", help="measure on so many rows, drawn once"
    )
    parser.add_argument("--reference", metavar="NAME", help="row that the others are tested against; the first trained")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help="finished results under the same specification as further rows: files, or folders of them",
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="trainings at once")
    parser.add_argument("--data_dir", "--data-dir", metavar="FOLDER", help="where the data sets' files lie already")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="print cells, downloads, disk and time")
