"""Does the loader keep up? Seconds in which `ImageRows` delivers images, against those of PGD-10 steps on them.

    python benchmarks/data_loading.py

Both sides handle the same number of images, alternately. The loader runs in this process, without workers: each worker
that a training is given delivers as much again, beside the step.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import measure
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_mmcoa import MMCoAConfig, MMCoATrainer, load_benchmark
from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.data import ImageRows, collate
from hf_mmcoa.data.digits import CLASS_NAMES
from hf_mmcoa.substitutes import fashion_mnist
from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.testbed.digits import vocabulary
from hf_mmcoa.testbed.tiny_clip import tiny_clip

TARGET = 1.5  # issue 4


def main() -> None:
    options = measure.parser(str(__doc__).splitlines()[0], "data_loading", runs=5)
    options.add_argument("--batch-size", type=int, default=128)
    options.add_argument("--batches", type=int, default=4, help="in a measurement")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    datasets.disable_progress_bars()
    cases = {
        name: sides(options.batch_size, options.batches, *make())
        for name, make in CASES.items()
        if not options.quick or name == QUICK
    }
    runs = [
        {
            name: {side: measure.timed(work)[1] for side, work in (("loader", load), ("step", step))}
            for name, (load, step) in cases.items()
        }
        for _ in range(options.runs)
    ]
    speed = {name: measure.ratio([run[name] for run in runs], "step", "loader") for name in cases}
    result = measure.report(
        "data_loading",
        runs,
        quick=options.quick,
        settings={"batch_size": options.batch_size, "batches": options.batches, "workers": 0, "num_steps": 10},
        loader_over_step=speed,
        target=TARGET,
        met=None if options.quick else all(one["cpu"]["median"] >= TARGET for one in speed.values()),
    )
    measure.save(result, options.output)
    print(show(result))
    sys.exit(0 if result["met"] is not False else 1)


def sides(
    batch_size: int, batches: int, dataset: Any, perturb_at: Any, words: SynonymTable, model: Any
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What delivers `batches` batches, and what consumes as many; both have run once."""
    clip, processor = model
    rows = ImageRows(dataset, perturb_at=perturb_at, image_size=clip.config.vision_config.image_size)
    loader = _endless(DataLoader(rows, batch_size, shuffle=True, drop_last=True, collate_fn=collate))
    step = _training_step(clip, processor, dataset, perturb_at, words, next(loader))
    step()

    def load() -> None:
        for _ in range(batches):
            next(loader)

    def consume() -> None:
        for _ in range(batches):
            step()

    return load, consume


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


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
    clip = tiny_clip(vocabulary(), image_size=8, patch_size=2)
    return load_benchmark("digits", "train"), "native", SYNONYMS, clip


def _clothes() -> tuple[Any, ...]:
    try:
        clothes = load_benchmark("fashion-mnist", "train").select(range(5000))
    except FileNotFoundError as error:
        sys.exit(f"data_loading: {error}")
    listed = fashion_mnist.SYNONYMS.table
    words = [*fashion_mnist.CLASS_NAMES, *(word for _, part in listed for word in part), "This is a photo of a"]
    clip = tiny_clip(words, image_size=28, patch_size=7)
    return clothes, "native", fashion_mnist.SYNONYMS, clip


def _photos() -> tuple[Any, ...]:
    """Photographs of CIFAR's size, as PNGs in colour: noise, which compresses worst and decodes slowest."""
    pixels = np.random.default_rng(0).integers(256, size=(1000, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    rows = {"image": [Image.fromarray(each) for each in pixels], "label": [n % 10 for n in range(1000)]}
    clip = tiny_clip(vocabulary(), image_size=32, patch_size=8)
    return datasets.Dataset.from_dict(rows, features=features), "native", SYNONYMS, clip


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
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    clip = tiny_clip(vocabulary(), image_size=32, patch_size=8)
    return datasets.Dataset.from_dict(rows, features=features), "model", SYNONYMS, clip


def _jpeg(picture: Image.Image) -> dict[str, Any]:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=90)
    return {"bytes": content.getvalue(), "path": None}


CASES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "digits 8x8 PNG": _digits,
    "Fashion-MNIST 28x28": _clothes,
    "colour 32x32 PNG": _photos,
    "JPEG 256x256, resized to 32": _large_photos,
}


QUICK = "digits 8x8 PNG"


def show(result: dict[str, Any]) -> str:
    """The table for people: images a second of each side, medians, and their ratio."""
    images = result["settings"]["batch_size"] * result["settings"]["batches"]
    rows: list[list[object]] = []
    for name, ratio in result["loader_over_step"].items():
        rates = [images / sorted(run[name][side]["wall"] for run in result["runs"])[len(result["runs"]) // 2]
                 for side in ("loader", "step")]  # fmt: skip
        wall = ratio["wall"]
        rows.append([name, *(f"{rate:,.0f}" for rate in rates), wall["median"], wall["low"], wall["high"],
                     ratio["cpu"]["median"]])  # fmt: skip
    header = ["", "loader images/s", "PGD-10 images/s", "ratio", "low", "high", "by CPU s"]
    return f"{measure.table(header, rows)}\n{measure.verdict(result, 'loader over step at least')}"


if __name__ == "__main__":
    main()
