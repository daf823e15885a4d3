"""`hf-mmcoa interpolate`: a pretrained and a robust CLIP in, the trade-off between them and any mixture out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..data.load import load_benchmark
from ..evaluation.sanity import failed
from ..io import differences, fingerprint, printable
from ..models.encoder import load_clip
from ..models.lora import load_adapted, merge
from ..models.weights import check_mixable, interpolate
from ..protocols.interpolation import sweep, write_summary
from ..report.table import robustness_table
from .evaluate import SANITY_FAILED, add_measurement_arguments, substitutes, threat_model
from .launch import start_missing_processes

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

HELP = "the clean/robust trade-off between a pretrained and a robust CLIP"
DESCRIPTION = """\
Measure the models whose weights are (1 - alpha) pretrained + alpha robust, clean and under attack, and draw the
trade-off. With --adapter alpha is the scale of the LoRA adapter. DIR gets one result file an alpha, interpolation.json,
interpolation.md and interpolation.png; the same command again computes no finished alpha twice.

exit status: 0 if all sanity checks passed, 3 if one failed (the numbers are printed and written all the same),
2 for a wrong argument, 1 for any other error
"""


def run(args: argparse.Namespace) -> int:
    """Sweep alpha as the parsed arguments say, print the table; returns the exit status."""
    if (status := start_missing_processes(sys.argv[1:])) is not None:
        return status
    names = (args.pretrained, args.robust or args.adapter)
    try:
        _check(args)
        spec = threat_model(args)
        accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
        pretrained, processor = load_clip(args.pretrained)
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
            candidates_of=lambda mixture: substitutes(args.candidates, mixture, processor),
            attacks=args.attacks,
            threat_model=spec,
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
        print("hf-mmcoa interpolate: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    accelerator.end_training()  # else the first process to exit may pull the rug from under the others
    findings = [(alpha, finding) for alpha, result in results.items() for finding in failed(result["sanity"])]
    if accelerator.is_main_process:
        print(robustness_table({f"alpha {alpha:g}": result for alpha, result in results.items()}))
        for alpha, finding in findings:
            what = printable(f"{finding['check']}: {finding['detail']}")
            print(f"alpha {alpha:g}: sanity check failed: {what}", file=sys.stderr)
        print("\n" + "\n".join(map(str, files)))
        if args.save:
            print(f"{args.save}: alpha {args.save_alpha:g}, a CLIPModel")
    return SANITY_FAILED if findings else 0


def _check(args: argparse.Namespace) -> None:
    if set(args.attacks) == {"clean"}:
        raise ValueError("`--attacks clean` leaves nothing to trade clean accuracy for: add image, text or multimodal.")
    if (args.save is None) != (args.save_alpha is None):
        raise ValueError("`--save FOLDER` and `--save_alpha ALPHA` belong together: give both or neither.")
    inputs = [Path(one).resolve() for one in (args.pretrained, args.robust, args.adapter) if one]
    if args.save and Path(args.save).resolve() in inputs:
        raise ValueError(f"`--save {args.save}` would overwrite a model that is read: choose another folder.")


def _robust(args: argparse.Namespace, pretrained: nn.Module, processor: Any) -> nn.Module:
    """The model at alpha = 1; it must read pixels and words as the pretrained one does."""
    if args.adapter:
        return merge(load_adapted(pretrained, args.adapter))  # type: ignore[arg-type]
    robust, other = load_clip(args.robust)
    check_mixable(pretrained, robust)
    read = [_reading(one) for one in (processor, other)]
    if found := differences(*read):
        raise ValueError(f"{args.pretrained} and {args.robust} read their input differently: {'; '.join(found)}.")
    return robust


def _reading(processor: Any) -> dict[str, Any]:
    images = processor.image_processor.to_dict()
    pixels = {key: images.get(key) for key in ("size", "crop_size", "image_mean", "image_std")}
    return pixels | {"vocabulary": fingerprint(processor.tokenizer.get_vocab())}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa interpolate`."""
    parser.add_argument(
        "--pretrained", required=True, metavar="PATH_OR_ID", help="folder or Hub id of the CLIPModel at alpha 0"
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--robust", metavar="PATH_OR_ID", help="the CLIPModel at alpha 1, of the same architecture")
    group.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter of the pretrained model; alpha scales it")
    parser.add_argument(
        "--alphas", nargs="+", type=float, default=list(ALPHAS), metavar="ALPHA", help="outside [0, 1]: with a warning"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of results, table and picture")
    parser.add_argument("--overwrite", action="store_true", help="replace other evaluations' results in --output")
    parser.add_argument("--save_alpha", "--save-alpha", type=float, metavar="ALPHA", help="mixture that --save writes")
    parser.add_argument("--save", metavar="FOLDER", help="write that mixture as a plain CLIPModel folder")
    add_measurement_arguments(parser)
