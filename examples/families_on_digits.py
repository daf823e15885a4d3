"""Train a tiny CLIP on families of text perturbation, and measure it on instances that it has not seen.

    python examples/families_on_digits.py                                  # some minutes on one core, no network
    python examples/families_on_digits.py --steps 50 --seeds 0 --methods none words families

Every method starts from the same pretrained model and takes the same number of steps; only `text_attack` and
`leave_out_family` differ. Printed are accuracies on the test split of the digits under the test part of each family.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hf_mmcoa import MMCoAConfig, MMCoATrainer, load_benchmark
from hf_mmcoa.attacks import BertAttack, LevenshteinAttack
from hf_mmcoa.data import DEFAULT_TEMPLATE, class_prompts, to_tensor
from hf_mmcoa.data.digits import CLASS_NAMES, IMAGE_SIZE
from hf_mmcoa.evaluation import measure_families
from hf_mmcoa.families import text_families
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.testbed.digits import load_captioned_digits, vocabulary
from hf_mmcoa.testbed.pretraining import pretrain_tiny_clip

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "words": {"text_attack": "words"},
    "families": {"text_attack": "families"},
    "families without homoglyphs": {"text_attack": "families", "leave_out_family": "homoglyphs"},
    "families without templates": {"text_attack": "families", "leave_out_family": "templates"},
}
# As `hf_mmcoa/testbed/digits.yaml`, with fewer steps and a cheaper attack on images.
RECIPE: dict[str, Any] = {
    "epsilon": 0.15,
    "step_size": 0.075,
    "num_steps": 2,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-3,
    "weight_decay": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "rho": 1.0,
    "lambda_distill": 0.0,
}
PLAIN = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
CONTEXT = 77  # that of the published CLIPs: letters that the tiny tokenizer does not know take a token each


def measure(model: Any, processor: Any, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """Return the accuracies under the test part of every family."""
    encoder = DualEncoder(model.eval(), processor)
    words = BertAttack(candidates=SYNONYMS, template=DEFAULT_TEMPLATE, class_names=CLASS_NAMES)
    families = text_families(class_names=CLASS_NAMES, words=words, characters=LevenshteinAttack(), part="test")
    with torch.no_grad():
        embeds = encoder.encode_images(images)
        prompts = class_prompts(CLASS_NAMES)
        found = measure_families(families, prompts, encoder.encode_texts, embeds, labels)
        right = (embeds @ encoder.encode_texts(prompts).T).argmax(1) == labels
    return {"clean": float(right.double().mean())} | found


def main() -> None:
    """Train and measure every method with every seed, print a table and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="gradient steps of each method")
    parser.add_argument("--pretrain_epochs", type=int, default=40, help="passes over the captioned digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights, order and attacks")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--output", help="JSON file for all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    test = load_benchmark("digits", split="test")
    images = torch.stack([to_tensor(row["image"]) for row in test])
    labels = torch.tensor(test["label"])
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in options.methods}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            pretrained, processor, _ = pretrain_tiny_clip(
                vocabulary(),
                load_captioned_digits(seed),
                image_size=IMAGE_SIZE,
                patch_size=2,
                epochs=options.pretrain_epochs,
                seed=seed,
                context_length=CONTEXT,
                output_dir=folder,
                disable_tqdm=True,
                use_cpu=True,
            )
            for name in options.methods:
                model, began = copy.deepcopy(pretrained), time.monotonic()
                if METHODS[name]:
                    settings = RECIPE | PLAIN | METHODS[name] | {"max_steps": options.steps, "seed": seed}
                    trainer = MMCoATrainer(
                        model,
                        MMCoAConfig(output_dir=folder, **settings),
                        load_benchmark("digits", split="train"),
                        processing_class=processor,
                        candidates=SYNONYMS.split(0)[0],  # the known half; its words are in no test part
                    )
                    trainer.train()
                results[name].append(
                    {"seed": seed, "seconds": round(time.monotonic() - began)}
                    | measure(model, processor, images, labels)
                )
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return mean and worst case of every family in percent, over the seeds, as Markdown."""
    first = next(iter(results.values()))[0]
    families = [key.split("/")[1] for key in first if key.endswith("/mean")]
    lines = ["| family | " + " | ".join(results) + " |", "| --- |" + " ---: |" * len(results)]

    def cell(runs: list[dict[str, Any]], *keys: str) -> str:
        return " / ".join(f"{100 * statistics.mean(run[key] for run in runs):.1f}" for key in keys)

    lines.append("| clean prompts | " + " | ".join(cell(runs, "clean") for runs in results.values()) + " |")
    for family in families:
        keys = [f"families/{family}/{which}" for which in ("mean", "worst")]
        lines.append(f"| {family} | " + " | ".join(cell(runs, *keys) for runs in results.values()) + " |")
    lines.append("| worst of all | " + " | ".join(cell(runs, "families/worst") for runs in results.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
