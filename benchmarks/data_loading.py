"""Does the loader keep up? Images a second that `ImageRows` delivers, against those that a PGD-10 step consumes.

    python benchmarks/data_loading.py [--output benchmarks/results/data_loading.json]

Both are measured alternately on one thread, so that whatever else the machine does hits both alike, and compared pair
by pair. A loader worker is a process beside the training step; the ratio is that of one worker. Exit status 1 if the
median ratio is below 1.5.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_mmcoa import MMCoAConfig, MMCoATrainer, load_benchmark
from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.attacks.candidates import SynonymTable
from hf_mmcoa.data import ImageRows, collate, digits, fashion_mnist
from hf_mmcoa.tiny_clip import tiny_clip

WANTED = 1.5
BATCH = 128


def main() -> int:
    """Measure, print a table, and say by the exit status whether the ratio is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file of all runs")
    parser.add_argument("--runs", type=int, default=5, help="pairs of measurements a data set, at least 5")
    parser.add_argument("--batches", type=int, default=4, help="batches a measurement")
    args = parser.parse_args()
    if args.runs < 5:
        parser.error(f"--runs must be at least 5, got {args.runs}")
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    found = {name: measure(args.runs, args.batches, *make()) for name, make in CASES.items()}
    print(table(found))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "wanted_ratio": WANTED,
            "batch_size": BATCH,
            "machine": f"{platform.processor() or platform.machine()}, one thread",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "cases": found,
        }
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(case["ratio"] >= WANTED for case in found.values()) else 1


def measure(runs: int, batches: int, dataset: Any, perturb_at: Any, words: SynonymTable, model: Any) -> dict[str, Any]:
    """Alternating images a second of the loader and of the training step."""
    clip, processor = model
    rows = ImageRows(dataset, perturb_at=perturb_at, image_size=clip.config.vision_config.image_size)
    load = _endless(DataLoader(rows, BATCH, shuffle=True, drop_last=True, collate_fn=collate))
    batch = next(load)
    step = _training_step(clip, processor, dataset, perturb_at, words, batch)
    step()
    loader, consumer = [], []
    for _ in range(runs):
        loader.append(_images_per_second(lambda: next(load), batches))
        consumer.append(_images_per_second(step, batches))
    ratios = [one / other for one, other in zip(loader, consumer, strict=True)]
    return {
        "loader_images_per_second": loader,
        "step_images_per_second": consumer,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def _images_per_second(work: Callable[[], Any], batches: int) -> float:
    started = time.perf_counter()
    for _ in range(batches):
        work()
    return batches * BATCH / (time.perf_counter() - started)


def _training_step(clip: Any, processor: Any, dataset: Any, perturb_at: Any, words: SynonymTable, batch: Any) -> Any:
    """A whole MMCoA step as the trainer takes it: PGD-10, words substituted, forward and backward; no optimizer."""
    args = MMCoAConfig(
        output_dir="unused", epsilon="8/255", step_size="2/255", num_steps=10, perturb_at=perturb_at, report_to="none",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    attack = BertAttack(candidates=words, template=args.template, class_names=dataset.features["label"].names)
    trainer = MMCoATrainer(clip, args, dataset, processing_class=processor, text_attack=attack)
    clip.train()

    def step() -> None:
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        clip.zero_grad()

    return step


def _digits() -> tuple[Any, ...]:
    clip = tiny_clip(digits.vocabulary(), image_size=8, patch_size=2)
    return load_benchmark("digits", "train"), "native", digits.SYNONYMS, clip


def _clothes() -> tuple[Any, ...]:
    listed = fashion_mnist.SYNONYMS.table
    words = [*fashion_mnist.CLASS_NAMES, *(word for _, part in listed for word in part), "This is a photo of a"]
    clip = tiny_clip(words, image_size=28, patch_size=7)
    return load_benchmark("fashion-mnist", "train").select(range(5000)), "native", fashion_mnist.SYNONYMS, clip


def _photos() -> tuple[Any, ...]:
    """Photographs of CIFAR's size, as PNGs in colour: noise, which compresses worst and decodes slowest."""
    pixels = np.random.default_rng(0).integers(256, size=(1000, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.CLASS_NAMES))}
    )
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": [n % 10 for n in range(1000)]}
    clip = tiny_clip(digits.vocabulary(), image_size=32, patch_size=8)
    return datasets.Dataset.from_dict(rows, features=features), "native", digits.SYNONYMS, clip


def _large_photos() -> tuple[Any, ...]:
    """Smooth JPEGs of 256 x 256, resized and cropped to a tiny CLIP of 32: the loader's work of a large data set."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        for _ in range(300)
    ]
    rows = {"image": [_jpeg(picture) for picture in pictures], "label": [n % 10 for n in range(300)]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(digits.CLASS_NAMES))}
    )
    clip = tiny_clip(digits.vocabulary(), image_size=32, patch_size=8)
    return datasets.Dataset.from_dict(rows, features=features), "model", digits.SYNONYMS, clip


def _jpeg(picture: Image.Image) -> dict[str, Any]:
    import io

    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=90)
    return {"bytes": content.getvalue(), "path": None}


CASES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "digits 8x8 PNG": _digits,
    "Fashion-MNIST 28x28": _clothes,
    "colour 32x32 PNG": _photos,
    "JPEG 256x256, resized to 32": _large_photos,
}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Medians, as Markdown."""
    lines = [
        "| data | loader, images/s | PGD-10 step, images/s | ratio (lowest to highest) |",
        "|---|---:|---:|---:|",
    ]
    for name, case in found.items():
        loader, step = (statistics.median(case[f"{what}_images_per_second"]) for what in ("loader", "step"))
        spread = f"{min(case['ratios']):.1f} to {max(case['ratios']):.1f}"
        lines.append(f"| {name} | {loader:,.0f} | {step:,.0f} | {case['ratio']:.1f} ({spread}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
