"""`hf-mmcoa evaluate`: measure a CLIP on a data set, clean and under attack."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io import printable
from .defence_argument import check_defence
from .evaluate_arguments import add_arguments as add_arguments
from .evaluation_cells import Cell, cells_of, table_of_cells
from .launch import start_missing_processes
from .measure_cells import measure_all
from .measurement_arguments import SANITY_FAILED

HELP = "measure the accuracy of a CLIP, clean and under attack"
DESCRIPTION = """\
Measure the zero-shot accuracy of a CLIP, clean and under image, text and multimodal attack. Give the same command again
to resume an interrupted run. Several models, data sets and epsilons are measured in all combinations, each with a
result file of its own in the folder --output. With --task retrieval: measure recall at 1, 5 and 10 between images and
captions, clean and under attack.

  hf-mmcoa evaluate --model A B --dataset cifar10 stl10 --epsilon 1/255 4/255 --output results
  hf-mmcoa evaluate --model fare_eps_2.pt --base openai/clip-vit-large-patch14 --dataset cifar10 --templates openai
  hf-mmcoa evaluate --model robust:fare4-vit-b-32 --dataset cifar10
  hf-mmcoa evaluate --model adapter --dataset cifar10 --attack mi-fgsm square --threat_model mine.yaml
  hf-mmcoa evaluate --model clip --dataset cifar10 --defence ttc --defence_settings epsilon=4/255 --attack apgd

exit status: 0 if all sanity checks passed, 3 if one failed (the numbers are printed and written all the same),
2 for a wrong argument, 1 for any other error
"""


def run(args: argparse.Namespace) -> int:
    """Evaluate as the parsed arguments say, print the table and failed sanity checks; return the exit status."""
    if (status := start_missing_processes()) is not None:
        return status
    import torch
    from accelerate import Accelerator

    from ..evaluation.csv_table import write_csv
    from ..evaluation.sanity import failed

    try:
        _check(args)
        cells = cells_of(args)
        _check_files(args, cells)
        accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _failed(str(error))
    results, problems = measure_all(cells, args, accelerator)
    if computes_part(args):
        return _parts(results, problems, args, accelerator)
    accelerator.end_training()  # without it the first process to exit may close the group while others still use it
    findings = [(cell, finding) for cell, result in results.items() for finding in failed(result["sanity"])]
    if accelerator.is_main_process:
        _show(results, cells, args)
        if args.csv is not None and results:
            write_csv(list(results.values()), _csv_path(args, cells))
        for cell, finding in findings:
            where = f"{cell}: " if len(cells) > 1 else ""
            text = printable(f"{finding['check']}: {finding['detail']}")
            print(f"{where}sanity check failed: {text}", file=sys.stderr)
    for cell, problem in problems.items():
        _failed(f"{cell}: {problem}" if len(cells) > 1 else problem)
    return 1 if problems else SANITY_FAILED if findings else 0


def computes_part(args: argparse.Namespace) -> bool:
    """Return whether `--shard` asks for a part of the batches, which has no numbers yet."""
    from ..evaluation.shards import Shard

    return args.shard is not None and Shard.read(args.shard).number is not None


def _parts(
    parts: Mapping[Cell, dict[str, Any]], problems: Mapping[Cell, str], args: argparse.Namespace, accelerator: Any
) -> int:
    """Say which parts are done; return the exit status."""
    accelerator.end_training()
    for cell, part in parts.items() if accelerator.is_main_process else ():
        if "shard" in part:
            done = f"part {part['shard']} is done, {len(part['batches'])} of {part['num_batches']} batches"
            print(f"{cell.output}: {done}. When all are: --shard merge/{args.shard.partition('/')[2]}")
        else:
            print(f"{cell.output}: merged already")
    for cell, problem in problems.items():
        _failed(f"{cell}: {problem}")
    return 1 if problems else 0


def _show(results: Mapping[Cell, dict[str, Any]], cells: Sequence[Cell], args: argparse.Namespace) -> None:
    """Print the numbers, what their intervals are over, and the files that hold them."""
    from ..evaluation.defended_results import defended_table
    from ..evaluation.recalls import retrieval_table
    from ..report.class_tables import class_lines
    from ..report.conditions import attacks_texts, interval_sentence
    from ..report.table import robustness_table

    if not results:
        return
    single = defended_table if args.defence is not None else retrieval_table if args.task == "retrieval" else None
    if len(cells) > 1 and single is None:
        print(table_of_cells(results))
    for cell, result in results.items() if single is not None or len(cells) == 1 else ():
        heading = f"{cell}\n" if len(cells) > 1 else ""
        print(heading + (robustness_table({Path(cell.model).name: result}) if single is None else single(result)))
    if single is None:
        print(interval_sentence(averaged=False, texts=attacks_texts(results.values())))
    if single is None and len(cells) == 1:
        print(printable("\n".join(["", *class_lines(*results.values())])))
    named = args.threat_model or args.preset or "standard"
    files = [
        f"{cell.output}: {result['num_samples']} samples of {result['dataset']}, threat model {named}"
        for cell, result in results.items()
        if cell.output
    ]
    if files:
        print("\n" + "\n".join(files))


def _failed(problem: str) -> int:
    print(f"hf-mmcoa evaluate: {printable(problem)}", file=sys.stderr)
    return 1


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError if options do not fit each other."""
    check_defence(args)
    if args.shard is not None and (args.task == "retrieval" or args.defence is not None):
        raise ValueError("`--shard` needs `--task zero-shot`, and no `--defence`.")
    if args.shard is not None and args.output is None:
        raise ValueError("`--shard` needs `--output`, beside which its part is kept.")
    if computes_part(args) and (args.gallery is not None or args.csv is not None):
        raise ValueError(f"`--shard {args.shard}` has no numbers yet: give `--gallery` and `--csv` with `merge`.")
    if args.templates and args.task == "retrieval":
        raise ValueError("`--templates` are class prompts, and captions have none: `--task zero-shot` has them.")
    if args.gallery is None:
        return
    if args.task == "retrieval":
        raise ValueError("`--gallery` shows attacked class prompts, so it needs `--task zero-shot`.")
    if args.gallery < 1 or args.output is None:
        raise ValueError("`--gallery` needs at least 1 sample, and `--output`: it is written beside the result.")


def _check_files(args: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Raise ValueError if `--export` or `--csv` does not fit the other options."""
    if args.export is not None and args.task == "retrieval":
        raise ValueError(
            "`--export` writes attacked images and predictions of classes, so it needs `--task zero-shot`."
        )
    if args.csv == "" and args.output is None:
        raise ValueError("`--csv` without a file is written beside `--output`: give `--output`, or `--csv FILE`.")
    if args.export is not None and len(cells) > 1 and args.output is None:
        raise ValueError(
            f"`--export` has a folder for each of {len(cells)} results, named after its file: give `--output FOLDER`."
        )


def _csv_path(args: argparse.Namespace, cells: Sequence[Cell]) -> Path:
    """Return the file of `--csv`: the named one, or that beside the result; of several, in their folder."""
    if args.csv:
        return Path(args.csv)
    return Path(str(cells[0].output)).with_suffix(".csv") if len(cells) == 1 else Path(args.output, "results.csv")
