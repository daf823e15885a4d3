"""`hf-mmcoa encoder`: measure how far an attack moves what a language model reads of a vision tower."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from ..attacks.settings import AttackSettings
from ..io import printable, write_json

HELP = "measure how far an attack moves the features of a vision tower"
DESCRIPTION = """\
Attack the patch tokens that a LLaVA reads of a CLIP's vision tower, without classes and without a language model, and
measure how far they move: the cosine between a token and its clean version, and the length of the change over the
length of the features, in the mean over the images. Beside it stands the shift by a random point of the same ball.

  hf-mmcoa encoder --model robust-clip --reference openai/clip-vit-large-patch14 --dataset cifar10 --epsilon 4/255

exit status: 0, 2 for a wrong argument, 1 for any other error
"""

FIELDS = ("norm", "epsilon", "num_steps", "restarts", "seed", "perturb_at")


def run(args: argparse.Namespace) -> int:
    """Measure the model that the parsed arguments name and print the table; return the exit status."""
    try:
        settings = AttackSettings(**{name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None})
        means = _measure(args, settings)
        if args.output:
            spec = {name: getattr(settings, name) for name in FIELDS}
            write_json({"model": args.model, "reference": args.reference, "attack_spec": spec, **means}, args.output)
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa encoder: {printable(str(error))}", file=sys.stderr)
        return 1
    print("| shift by | cosine | relative l2 |\n| --- | ---: | ---: |")
    for name, shift in means["shift"].items():
        print(f"| {name.replace('_', ' ')} | {shift['cosine']:.3f} | {shift['relative_l2']:.3f} |")
    return 0


def _measure(args: argparse.Namespace, settings: AttackSettings) -> dict[str, Any]:
    """Return the mean shifts, and on how many images of which data they were measured."""
    import torch

    from ..convert.load import load_model
    from ..data.load import load_benchmark
    from ..data.perturbation import perturbation_size
    from ..data.rows import ImageRows, collate
    from ..evaluation.encoder_shift import evaluate_encoder
    from ..models.encoder import DualEncoder, load_clip

    cpu = args.cpu or not torch.accelerator.is_available()
    device = torch.device("cpu") if cpu else torch.accelerator.current_accelerator()
    model, processor = load_model(args.model, base=args.base)
    reference = None if args.reference is None else load_clip(args.reference)[0].to(device)
    encoder = DualEncoder(model, processor)
    dataset = load_benchmark(args.dataset, split=args.split, data_dir=args.data_dir)
    rows = ImageRows(
        dataset,
        label_column=None,
        text_column=None,
        perturb_at=perturbation_size(settings.perturb_at, dataset, encoder.image_size),
        image_size=encoder.image_size,
        image_processor=encoder.image_processor,
    )
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: args.max_samples].tolist()
    images = collate(rows.__getitems__(sorted(drawn)))["images"]
    shift = evaluate_encoder(
        model.to(device),
        processor,
        images,
        settings,
        layer=args.layer,
        reference=reference,
        batch_size=args.batch_size,
    )
    return {"dataset": args.dataset, "num_samples": len(images), "layer": args.layer, "shift": shift.means()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa encoder`."""
    parser.add_argument("--model", required=True, metavar="PATH_OR_ID", help="as of `hf-mmcoa evaluate`")
    parser.add_argument("--base", metavar="PATH_OR_ID", help="as of `hf-mmcoa evaluate`")
    parser.add_argument(
        "--reference", metavar="PATH_OR_ID", help="CLIP whose clean features are compared too: the LLaVA's own tower"
    )
    parser.add_argument("--dataset", required=True, metavar="NAME_OR_PATH", help="a benchmark, a Hub id or a folder")
    parser.add_argument("--split", default="test", help="split to measure on; test without it")
    parser.add_argument("--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data set's files")
    parser.add_argument("--layer", type=int, default=-2, help="hidden state that is read; -2, as LLaVA, without it")
    parser.add_argument(
        "--max_samples", "--max-samples", type=int, default=256, metavar="N", help="images, drawn once; 256 without it"
    )
    parser.add_argument("--batch_size", "--batch-size", type=int, default=64, metavar="N", help="64 without it")
    parser.add_argument("--output", metavar="FILE", help="JSON file for the numbers")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is an accelerator")
    kinds = {"num_steps": int, "restarts": int, "seed": int}
    helps = {each.name: each.metadata["help"].replace("%", "%%") for each in dataclasses.fields(AttackSettings)}
    for name in FIELDS:
        spellings = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        parser.add_argument(*spellings, dest=name, type=kinds.get(name, str), help=helps[name])
