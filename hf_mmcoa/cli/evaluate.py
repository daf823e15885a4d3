"""`hf-mmcoa evaluate`: measure a CLIP on a data set, clean and under attack."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..io import printable
from .launch import start_missing_processes
from .measurement_arguments import SANITY_FAILED, add_measurement_arguments, substitutes, threat_model

HELP = "measure the accuracy of a CLIP, clean and under attack"
DESCRIPTION = """\
Measure the zero-shot accuracy of a CLIP, clean and under image, text and multimodal attack. Give the same command again
to resume an interrupted run. With --task retrieval: measure recall at 1, 5 and 10 between images and captions, clean
and under attack.

exit status: 0 if all sanity checks passed, 3 if one failed (the numbers are printed and written all the same),
2 for a wrong argument, 1 for any other error
"""


def run(args: argparse.Namespace) -> int:
    """Evaluate as the parsed arguments say, print the table and failed sanity checks; return the exit status."""
    if (status := start_missing_processes()) is not None:
        return status
    import torch
    from accelerate import Accelerator

    from ..data.load import load_benchmark
    from ..evaluation.csv_table import write_csv
    from ..evaluation.evaluator import evaluate_robustness
    from ..evaluation.recalls import retrieval_table
    from ..evaluation.retrieval import evaluate_retrieval
    from ..evaluation.sanity import failed
    from ..models.encoder import load_clip
    from ..report.class_tables import class_lines
    from ..report.gallery import attack_gallery, gallery_path, save_gallery
    from ..report.table import interval_sentence, robustness_table

    try:
        _check_gallery(args)
        _check_export(args)
        spec = threat_model(args)
        accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
        model, processor = load_clip(args.model)
        dataset = load_benchmark(args.dataset, split=args.split, data_dir=args.data_dir, text_column=args.text_column)
        given = substitutes(args.candidates, model, processor)
        options: dict[str, Any] = {
            "attacks": args.attacks,
            "threat_model": spec,
            "candidates": given,
            "batch_size": args.batch_size,
            "max_samples": args.max_samples,
            "output": args.output,
            "overwrite": args.overwrite,
            "progress": not args.quiet,
            "model_name": args.model,
        }
        if args.task == "retrieval":
            result = evaluate_retrieval(model, processor, dataset, accelerator=accelerator, **options)
        else:
            result = evaluate_robustness(
                model,
                processor,
                dataset,
                accelerator=accelerator,
                sanity=not args.no_sanity,
                export=args.export,
                export_images=args.export_images,
                **options,
            )
        if args.csv is not None and accelerator.is_main_process:
            write_csv([result], _csv_path(args))
        if args.gallery and accelerator.is_main_process:
            models = {Path(args.model).name: (model, processor)}
            gallery = attack_gallery(models, dataset, spec, candidates=given, num_samples=args.gallery)
            save_gallery(gallery, gallery_path(args.output))
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa evaluate: {printable(str(error))}", file=sys.stderr)
        return 1
    accelerator.end_training()  # without it the first process to exit may close the group while others still use it
    findings = failed(result["sanity"])
    if accelerator.is_main_process:
        retrieval = args.task == "retrieval"
        print(retrieval_table(result) if retrieval else robustness_table({Path(args.model).name: result}))
        if not retrieval:
            print(interval_sentence(averaged=False))
            print(printable("\n".join(["", *class_lines(result)])))
        for finding in findings:
            print(f"sanity check failed: {finding['check']}: {printable(finding['detail'])}", file=sys.stderr)
        if args.output:
            print(
                f"\n{args.output}: {result['num_samples']} samples of {result['dataset']}, threat model {args.preset}"
            )
    return SANITY_FAILED if findings else 0


def _check_gallery(args: argparse.Namespace) -> None:
    """Raise ValueError if `--gallery` does not fit the other options."""
    if args.gallery is None:
        return
    if args.task == "retrieval":
        raise ValueError("`--gallery` shows attacked class prompts, so it needs `--task zero-shot`.")
    if args.gallery < 1 or args.output is None:
        raise ValueError("`--gallery` needs at least 1 sample, and `--output`: it is written beside the result.")


def _check_export(args: argparse.Namespace) -> None:
    """Raise ValueError if `--export` or `--csv` does not fit the other options."""
    if args.export is not None and args.task == "retrieval":
        raise ValueError(
            "`--export` writes attacked images and predictions of classes, so it needs `--task zero-shot`."
        )
    if args.csv == "" and args.output is None:
        raise ValueError("`--csv` without a file is written beside `--output`: give `--output`, or `--csv FILE`.")


def _csv_path(args: argparse.Namespace) -> Path:
    """Return the file of `--csv`: the named one, or that beside the result."""
    return Path(args.csv) if args.csv else Path(args.output).with_suffix(".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa evaluate`."""
    parser.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="folder or Hub id of a CLIPModel with its processor"
    )
    parser.add_argument(
        "--task",
        choices=["zero-shot", "retrieval"],
        default="zero-shot",
        help="classify images by class prompts (the default), or retrieve captions and images",
    )
    parser.add_argument("--output", metavar="FILE", help="JSON result to write; without it the numbers are printed")
    parser.add_argument("--overwrite", action="store_true", help="replace the result of another evaluation in --output")
    parser.add_argument(
        "--gallery", type=int, metavar="N", help="also write N attacked samples beside --output, for the report"
    )
    parser.add_argument(
        "--csv",
        nargs="?",
        const="",
        metavar="FILE",
        help="also write the numbers as CSV, one row a metric; without FILE beside --output",
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="also write the attacked images and texts, and the predictions under every attack as parquet",
    )
    parser.add_argument(
        "--export_images",
        "--export-images",
        choices=["png", "safetensors"],
        default="png",
        help="form of the images of --export: png, rounded to 8 bits (the default; the outcome after rounding is "
        "measured too), or safetensors, exact",
    )
    parser.add_argument(
        "--text_column",
        "--text-column",
        metavar="NAME",
        help="column of the captions; needed if the data set has labels too, or the column an unusual name",
    )
    add_measurement_arguments(parser)
