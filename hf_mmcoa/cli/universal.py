"""`hf-mmcoa universal`: find one perturbation for all images on a training split."""

from __future__ import annotations

import argparse
import sys

from ..attacks.settings import AttackSettings
from ..io import printable

HELP = "find one perturbation that misleads a CLIP on most images"
DESCRIPTION = """\
Find one perturbation for all images on a training split, by gradient ascent over mini-batches, and write it to a file.
Measure it on another split:

  hf-mmcoa universal --model robust-clip --dataset cifar10 --split train --epsilon 8/255 --output universal.safetensors
  hf-mmcoa evaluate --model robust-clip --dataset cifar10 --beyond universal=universal.safetensors --output cifar10.json

exit status: 0, 2 for a wrong argument, 1 for any other error
"""


def run(args: argparse.Namespace) -> int:
    """Train and write the perturbation that the parsed arguments ask for; return the exit status."""
    try:
        print(_train(args))
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa universal: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _train(args: argparse.Namespace) -> str:
    """Write the perturbation; return a line on what it does to the images that it was found on."""
    import torch
    from torch.utils.data import DataLoader

    from ..attacks.universal import train_universal
    from ..convert.load import load_model
    from ..data.benchmark_info import describe
    from ..data.load import load_benchmark
    from ..data.perturbation import perturbation_size
    from ..data.rows import ImageRows, collate
    from ..zero_shot import ZeroShotClassifier

    settings = AttackSettings(norm=args.norm, epsilon=args.epsilon, seed=args.seed)
    cpu = args.cpu or not torch.accelerator.is_available()
    device = torch.device("cpu") if cpu else torch.accelerator.current_accelerator()
    model, processor = load_model(args.model, base=args.base)
    dataset = load_benchmark(args.dataset, split=args.split, data_dir=args.data_dir)
    info = describe(dataset)
    classifier = ZeroShotClassifier(model.to(device), processor, info.class_names, args.template or info.template)
    encoder = classifier.encoder
    rows = ImageRows(
        dataset,
        perturb_at=perturbation_size(settings.perturb_at, dataset, encoder.image_size),
        image_size=encoder.image_size,
        image_processor=encoder.image_processor,
    )
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: args.max_samples].tolist()
    loader = DataLoader(
        torch.utils.data.Subset(rows, drawn),
        batch_size=args.batch_size,
        shuffle=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(args.seed),
    )

    def batches():  # type: ignore[no-untyped-def]
        for batch in loader:
            yield batch["images"].to(device), batch["labels"].to(device)

    found = train_universal(
        classifier, batches, epsilon=settings.pixel_radius, norm=settings.norm, epochs=args.epochs, seed=args.seed
    )
    found.save(args.output)
    clean = perturbed = 0
    with torch.no_grad():
        for images, labels in batches():
            clean += int((classifier(images).argmax(1) == labels).sum())
            perturbed += int((classifier(found.apply(images)).argmax(1) == labels).sum())
    accuracies = f"{100 * clean / len(drawn):.1f}% without and {100 * perturbed / len(drawn):.1f}% with it"
    return f"{args.output}: {found!r}, {found.fingerprint}\naccuracy on its {len(drawn)} training images: {accuracies}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa universal`."""
    parser.add_argument("--model", required=True, metavar="PATH_OR_ID", help="as of `hf-mmcoa evaluate`")
    parser.add_argument("--base", metavar="PATH_OR_ID", help="as of `hf-mmcoa evaluate`")
    parser.add_argument("--dataset", required=True, metavar="NAME_OR_PATH", help="a benchmark, a Hub id or a folder")
    parser.add_argument("--split", default="train", help="split to find it on; train without it")
    parser.add_argument("--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data set's files")
    parser.add_argument("--template", help="class prompt with one {} for the class name; the data set's without it")
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf", help="norm of the perturbation")
    parser.add_argument("--epsilon", default="8/255", help="radius in [0, 1] pixel units; 8/255 without it")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the images; 10 without it")
    parser.add_argument("--batch_size", "--batch-size", type=int, default=128, metavar="N", help="128 without it")
    parser.add_argument(
        "--max_samples", "--max-samples", type=int, metavar="N", help="images, drawn once; all without it"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the start and of the order of the images")
    parser.add_argument("--output", required=True, metavar="FILE", help=".safetensors, or .npy without radius and norm")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is an accelerator")
