"""Measure cells one after the other: what `hf-mmcoa evaluate` does, and `hf-mmcoa reproduce` data set by data set."""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .defence_argument import named_defence
from .evaluation_cells import Cell
from .measurement_arguments import kinds, substitutes, with_templates

DEFENCE_EFFORT = ("adaptive_steps", "eot_draws", "draws")


def measure_all(
    cells: Sequence[Cell], args: argparse.Namespace, accelerator: Any
) -> tuple[dict[Cell, dict[str, Any]], dict[Cell, str]]:
    """Measure every cell; return the results, and what was wrong with the cells that have none.

    Cells of one model follow each other, so that one model is in memory at a time.
    """
    from ..convert.load import load_model
    from ..data.load import load_benchmark

    load_data = functools.cache(
        lambda name: load_benchmark(name, split=args.split, data_dir=args.data_dir, text_column=args.text_column)
    )
    results: dict[Cell, dict[str, Any]] = {}
    problems: dict[Cell, str] = {}
    several = len({cell.dataset for cell in cells}) > 1  # a single one may be `data_dir` itself
    for name, of_model in itertools.groupby(cells, key=lambda cell: cell.model):
        loaded: Any = None
        for cell in of_model:
            if several and (missing := missing_folder(cell.dataset, args.data_dir)):
                problems[cell] = missing
                continue
            try:
                if loaded is None:
                    model, processor = load_model(
                        name, base=args.base, activation=args.activation, processor=args.processor
                    )
                    loaded = model, processor, substitutes(args, model, processor)
                model, processor, given = loaded
                dataset = load_data(cell.dataset)
                results[cell] = _measure(cell, model, processor, given, dataset, args, accelerator)
            except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
                problems[cell] = str(error)
    return results, problems


def _measure(
    cell: Cell, model: Any, processor: Any, given: Any, dataset: Any, args: argparse.Namespace, accelerator: Any
) -> dict[str, Any]:
    """Measure one cell, or return the result that lies in its file; write its gallery if one is asked for."""
    from ..evaluation.defended import evaluate_defence
    from ..evaluation.evaluator import evaluate_robustness
    from ..evaluation.retrieval import evaluate_retrieval
    from ..report.gallery import attack_gallery, gallery_path, save_gallery

    spec = with_templates(cell.threat_model, args, dataset)
    options: dict[str, Any] = {
        "attacks": kinds(args),
        "threat_model": spec,
        "candidates": given,
        "batch_size": args.batch_size,
        "max_samples": args.max_samples,
        "output": cell.output,
        "overwrite": args.overwrite,
        "progress": not args.quiet,
        "model_name": cell.model,
        "accelerator": accelerator,
    }
    if args.defence is not None:
        del options["attacks"], options["candidates"]
        options |= {name: value for name in DEFENCE_EFFORT if (value := getattr(args, name)) is not None}
        defence = named_defence(args.defence, args.defence_settings or ())
        return evaluate_defence(model, processor, dataset, defence, sanity=not args.no_sanity, **options)
    if args.task == "retrieval":
        return evaluate_retrieval(model, processor, dataset, **options)
    result = evaluate_robustness(
        model,
        processor,
        dataset,
        sanity=not args.no_sanity,
        export=_export_folder(cell, args),
        export_images=args.export_images,
        shard=args.shard,
        **options,
    )
    if args.gallery and accelerator.is_main_process:
        models = {Path(cell.model).name: (model, processor)}
        gallery = attack_gallery(models, dataset, spec, candidates=given, num_samples=args.gallery)
        save_gallery(gallery, gallery_path(str(cell.output)))
    return result


def _export_folder(cell: Cell, args: argparse.Namespace) -> str | None:
    """Return where the samples of a cell are exported: with several cells, a folder named after the result's file."""
    several = args.export is not None and cell.output is not None and cell.output != args.output
    return str(Path(args.export, Path(str(cell.output)).stem)) if several else args.export


def missing_folder(dataset: str, data_dir: str | None) -> str:
    """Return what is wrong if a data set has no folder in `data_dir`, which would be read in its place."""
    from ..data.benchmarks import find_benchmark

    if data_dir is None or find_benchmark(dataset) is not None or (Path(data_dir) / dataset).is_dir():
        return ""
    return f"`--data_dir`: there is no folder {Path(data_dir) / dataset}."
