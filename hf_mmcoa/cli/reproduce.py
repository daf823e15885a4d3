"""`hf-mmcoa reproduce`: measure a published table again and say which of its numbers hold."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io import printable
from .evaluate_arguments import add_arguments as add_evaluate_arguments
from .evaluation_cells import Cell, cells_of
from .launch import refuse_several_processes
from .measure_cells import measure_all, missing_folder

if TYPE_CHECKING:
    from ..protocols.published_table import PublishedData, PublishedTable

HELP = "measure a published table again and say which of its numbers hold"
DESCRIPTION = """\
Measure the models of a published table on its data under its attack, as far as both could be read, and write a table of
published and measured numbers: DIR/reproduction.md and DIR/reproduction.json, and a result file of each evaluation in
DIR/results. Give the same command again to resume an interrupted run; what is finished is not measured again.

  hf-mmcoa reproduce robustvlm-vit-b-32 --output output/robustvlm --dry-run
  hf-mmcoa reproduce robustvlm-vit-b-32 --output output/robustvlm --max_samples 100
  hf-mmcoa reproduce tga-zsr --output output/tga-zsr --models TGA-ZSR=model_best.pth.tar

A number holds if it lies in the 95% interval of the measured one, widened by the published one's own sampling error.

exit status: 0 if every number was measured and holds, 3 if one differs, 1 if none differs but some were not measured
or something else failed, 2 for a wrong argument
"""
DIFFERS = 3  # exit status


def run(args: argparse.Namespace) -> int:
    """Measure, or list, the evaluations of the table that the parsed arguments name; return the exit status."""
    from ..protocols.published_table import read_table

    try:
        refuse_several_processes("reproduce")
        table = read_table(args.table)
        models = _models(table, args.models)
        if args.max_samples is not None and args.max_samples < 1:
            raise ValueError(f"`--max_samples` must be at least 1, got {args.max_samples}.")
        words = [(data.name, each) for data in table.data for each in _evaluate_words(table, data, models, args)]
        if args.dry_run:
            print(printable(_plan(table, models, words)))
            return 0
        return _reproduce(table, models, words, args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"hf-mmcoa reproduce: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf-mmcoa reproduce: interrupted; give the same command again to resume.", file=sys.stderr)
        return 130


def _models(table: PublishedTable, given: list[str] | None) -> dict[str, str]:
    """Return the chosen models of the table, by name, each with the place that it is read from."""
    if given is None:
        return dict(table.models)
    models: dict[str, str] = {}
    for one in given:
        name, _, place = one.partition("=")
        if name not in table.models or name in models:
            raise ValueError(f"`--models`: expected each NAME or NAME=PATH_OR_ID once, of {', '.join(table.models)}.")
        models[name] = place or table.models[name]
    if alike := [place for place in models.values() if list(models.values()).count(place) > 1]:
        raise ValueError(f"`--models`: {alike[0]} is given for two models.")
    return models


def _evaluate_words(
    table: PublishedTable, data: PublishedData, models: Mapping[str, str], args: argparse.Namespace
) -> list[list[str]]:
    """Return the options of each `hf-mmcoa evaluate` that measures one data set.

    Files of weights that were given in the place of the table's models need `--base`, and are measured apart.
    """
    samples = args.max_samples or table.published_samples(next(iter(table.epsilons), None))
    common = ["--output", str(Path(args.output) / "results"), "--batch_size", str(args.batch_size)]
    common += ["--max_samples", str(samples)] if samples is not None else []
    common += ["--data_dir", args.data_dir] if args.data_dir else []
    common += [f"--{flag}" for flag in ("cpu", "quiet") if getattr(args, flag)]
    own = [place for name, place in models.items() if place == table.models[name]]
    given = [place for place in models.values() if place not in own]
    base = ["--base", table.base] if table.base else []
    return [
        [*table.evaluate_words(data, places, table.epsilons), *common, *options]
        for places, options in ((own, []), (given, base))
        if places
    ]


def _plan(table: PublishedTable, models: Mapping[str, str], words: Sequence[tuple[str, list[str]]]) -> str:
    """Return the commands that would be run, and what they add up to."""
    radii = max(len(table.epsilons), 1)
    chosen = [one for one in table.numbers if one.model in models]
    return "\n".join(
        [
            table.title,
            *(f"  {name}: {place}" for name, place in models.items()),
            "",
            *(shlex.join(["hf-mmcoa", "evaluate", *each]) for _, each in words),
            "",
            f"{len(chosen)} published numbers; {len(models) * len(table.data) * radii} evaluations "
            f"({len(models)} models, {len(table.data)} data sets, {radii} radii)",
            *(f"remains different: {one}" for one in table.differences),
            *(f"could not be read: {one}" for one in table.unknown),
        ]
    )


def _reproduce(
    table: PublishedTable, models: Mapping[str, str], words: Sequence[tuple[str, list[str]]], args: argparse.Namespace
) -> int:
    """Measure data set by data set; the table is written after each of them."""
    import dataclasses

    import torch
    from accelerate import Accelerator

    from ..protocols.reproduction import compare_table, reproduction_lines, write_reproduction

    table = dataclasses.replace(table, numbers=tuple(one for one in table.numbers if one.model in models))
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--output`: {folder} is a file: name a folder.")
    (folder / "results").mkdir(parents=True, exist_ok=True)  # a folder that exists holds one file a cell
    accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
    parser, names = argparse.ArgumentParser(prog="hf-mmcoa evaluate"), {place: name for name, place in models.items()}
    add_evaluate_arguments(parser)
    results: dict[Any, Any] = {}
    problems: dict[Any, str] = {}
    for data, given in words:
        options = parser.parse_args(given)
        cells = cells_of(options)
        written: list[str | None] = [*table.epsilons] or [None]
        radii = dict(zip(_radii(cells), written, strict=True))
        places = {cell: (names[cell.model], data, radii[cell.threat_model.pixel_radius]) for cell in cells}
        problem = missing_folder(options.dataset[0], args.data_dir)
        found, wrong = ({}, dict.fromkeys(cells, problem)) if problem else measure_all(cells, options, accelerator)
        results |= {places[cell]: result for cell, result in found.items()}
        problems |= {places[cell]: problem for cell, problem in wrong.items()}
        for cell, problem in wrong.items():
            print(f"hf-mmcoa reproduce: {printable(f'{cell}: {problem}')}", file=sys.stderr)
        compared = compare_table(table, results, problems)
        write_reproduction(table, models, compared, results, folder)
    lines = reproduction_lines(table, compared, [])
    print(printable("\n".join(line for line in lines if line.startswith("|"))))
    print(f"\n{folder}/reproduction.md\n{folder}/reproduction.json")
    verdicts = [one.verdict for one in compared]
    return DIFFERS if "differs" in verdicts else 1 if "not measured" in verdicts else 0


def _radii(cells: list[Cell]) -> list[float]:
    """Return the radii of cells, each once, in their order."""
    return list(dict.fromkeys(cell.threat_model.pixel_radius for cell in cells))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa reproduce`."""
    parser.add_argument(
        "table",
        metavar="NAME_OR_YAML",
        help="robustvlm-vit-b-32, robustvlm-vit-l-14, tga-zsr, or a YAML file (docs/reproduce.md)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results and the table")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME[=PATH_OR_ID]",
        help="models of the table to measure, each with another place to read it from; all without it",
    )
    parser.add_argument(
        "--max_samples",
        "--max-samples",
        type=int,
        metavar="N",
        help="measure on this many samples of each data set; as many as published without it",
    )
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data sets' files already"
    )
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, default=128, metavar="N", help="images per batch; 128 without it"
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="print the evaluations and run nothing")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is an accelerator")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
