"""`hf-mmcoa interpolate`: measure the models between a pretrained and a robust CLIP, and save one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io import differences, fingerprint, printable
from .launch import start_missing_processes
from .measurement_arguments import (
    SANITY_FAILED,
    add_measurement_arguments,
    kinds,
    substitutes,
    threat_model,
    with_templates,
)

if TYPE_CHECKING:
    from torch import nn

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

HELP = "measure the trade-off between a pretrained and a robust CLIP"
DESCRIPTION = """\
Measure models with the weights (1 - alpha) * pretrained + alpha * robust, clean and under attack, and plot robust
against clean accuracy. With --adapter, alpha is the scale of the LoRA adapter. DIR receives one result file per alpha,
interpolation.json, interpolation.md and interpolation.png. Give the same command again to resume: it skips every alpha
that is finished.

exit status: 0 if all sanity checks passed, 3 if one failed (the numbers are printed and written all the same),
2 for a wrong argument, 1 for any other error
"""


def run(args: argparse.Namespace) -> int:
    """Measure each alpha as the parsed arguments say and print the table; return the exit status."""
    if (status := start_missing_processes()) is not None:
        return status
    import torch
    from accelerate import Accelerator

    from ..convert.load import load_whole
    from ..data.load import load_benchmark
    from ..evaluation.sanity import failed
    from ..models.weights import interpolate
    from ..protocols.interpolation import sweep, write_summary
    from ..report.conditions import attacks_texts, interval_sentence
    from ..report.table import robustness_table

    names = (args.pretrained, args.robust or args.adapter)
    try:
        _check(args)
        spec = threat_model(args)
        accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
        pretrained, processor = load_whole(args.pretrained)
        robust = _robust(args, pretrained, processor)
        if args.save and accelerator.is_main_process:
            interpolate(pretrained, robust, args.save_alpha).save_pretrained(args.save)  # type: ignore[operator]
            processor.save_pretrained(args.save)
        dataset = load_benchmark(args.dataset, split=args.split, data_dir=args.data_dir)
        pretrained, robust = pretrained.to(accelerator.device), robust.to(accelerator.device)
        results = sweep(
            pretrained,
            robust,
            processor,
            dataset,
            args.alphas,
            args.output,
            names=names,
            candidates_of=lambda mixture: substitutes(args, mixture, processor),
            attacks=kinds(args),
            threat_model=with_templates(spec, args, dataset),
            batch_size=args.batch_size,
            max_samples=args.max_samples,
            overwrite=args.overwrite,
            accelerator=accelerator,
            sanity=not args.no_sanity,
            progress=not args.quiet,
        )
        files = write_summary(results, args.output, names) if accelerator.is_main_process else []
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa interpolate: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hf-mmcoa interpolate: interrupted; give the same command again to resume.", file=sys.stderr)
        return 130
    accelerator.end_training()  # without it the first process to exit may close the group while others still use it
    findings = [(alpha, finding) for alpha, result in results.items() for finding in failed(result["sanity"])]
    if accelerator.is_main_process:
        print(robustness_table({f"alpha {alpha:g}": result for alpha, result in results.items()}))
        print(interval_sentence(averaged=False, texts=attacks_texts(results.values())))
        for alpha, finding in findings:
            what = printable(f"{finding['check']}: {finding['detail']}")
            print(f"alpha {alpha:g}: sanity check failed: {what}", file=sys.stderr)
        print("\n" + "\n".join(map(str, files)))
        if args.save:
            print(f"{args.save}: alpha {args.save_alpha:g}, a CLIPModel")
    return SANITY_FAILED if findings else 0


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError if options contradict each other."""
    if set(kinds(args)) == {"clean"}:
        raise ValueError("`--attacks clean` leaves no robust accuracy to trade off: add image, text or multimodal.")
    if (args.save is None) != (args.save_alpha is None):
        raise ValueError("`--save FOLDER` and `--save_alpha ALPHA` belong together: give both or neither.")
    inputs = [Path(one).resolve() for one in (args.pretrained, args.robust, args.adapter) if one]
    if args.save and Path(args.save).resolve() in inputs:
        raise ValueError(f"`--save {args.save}` would overwrite one of the models to mix: choose another folder.")


def _robust(args: argparse.Namespace, pretrained: nn.Module, processor: Any) -> nn.Module:
    """Return the model at alpha = 1.

    Raises:
        ValueError: if its architecture or its preprocessing of images and texts differs from the pretrained model's.
    """
    from ..convert.load import load_whole
    from ..models.lora import load_adapted, merge
    from ..models.weights import check_mixable

    if args.adapter:
        return merge(load_adapted(pretrained, args.adapter))  # type: ignore[arg-type]
    robust, other = load_whole(args.robust)
    check_mixable(pretrained, robust)
    if found := differences(_preprocessing(processor), _preprocessing(other)):
        raise ValueError(f"{args.pretrained} and {args.robust} preprocess their input differently: {'; '.join(found)}.")
    return robust


def _preprocessing(processor: Any) -> dict[str, Any]:
    """Return the settings of a processor that change what the model sees."""
    images = processor.image_processor.to_dict()
    pixels = {key: images.get(key) for key in ("size", "crop_size", "image_mean", "image_std")}
    return pixels | {"vocabulary": fingerprint(processor.tokenizer.get_vocab())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa interpolate`."""
    parser.add_argument(
        "--pretrained",
        required=True,
        metavar="PATH_OR_ID",
        help="folder or Hub id of the CLIPModel at alpha 0, or robust:NAME",
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--robust",
        metavar="PATH_OR_ID",
        help="the CLIPModel at alpha 1, of the same architecture, or robust:NAME",
    )
    group.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter of the pretrained model, which alpha scales")
    parser.add_argument(
        "--alphas",
        nargs="+",
        type=float,
        default=list(ALPHAS),
        metavar="ALPHA",
        help="share of the robust weights; 0 0.25 0.5 0.75 1 without it",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for results, table and plot")
    parser.add_argument("--overwrite", action="store_true", help="replace results of other evaluations in --output")
    parser.add_argument(
        "--save_alpha", "--save-alpha", type=float, metavar="ALPHA", help="alpha of the model that --save writes"
    )
    parser.add_argument("--save", metavar="FOLDER", help="folder to write that model to, as a plain CLIPModel")
    add_measurement_arguments(parser)
