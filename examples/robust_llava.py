"""Give a LLaVA a robust vision tower, and measure what an attack on the tower does to its text.

    python examples/robust_llava.py                            # two minutes on one core, no network
    python examples/robust_llava.py --seeds 0 1 2 --output llava.json

A tiny CLIP is pretrained on digits, and a tiny LLaVA is taught on its tower, which is frozen, to say which digit it
sees. Then the CLIP is fine-tuned by FARE, and its tower is put into the same LLaVA: projector and language model never
see it before. The attack moves what the LLaVA reads of the tower, all patch tokens, away from the clean image's; it
knows neither classes nor the language model.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from hf_mmcoa import MMCoAConfig, MMCoATrainer, load_benchmark, swap_vision_tower
from hf_mmcoa.attacks.settings import AttackSettings
from hf_mmcoa.data import to_tensor
from hf_mmcoa.data.digits import CLASS_NAMES
from hf_mmcoa.evaluation import evaluate_encoder
from hf_mmcoa.models.encoding import pixel_values
from hf_mmcoa.testbed.pretraining import pretrain_on_digits
from hf_mmcoa.testbed.tiny_llava import EOS, SPECIAL, say, teach, tiny_llava

WORDS = ("this", "is", "a", *CLASS_NAMES)
PLAIN: dict[str, Any] = {
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def pictures(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits of a split in [0, 1], (images, 3, 8, 8), and their labels."""
    rows = load_benchmark("digits", split=split)
    return torch.stack([to_tensor(row["image"]) for row in rows]), torch.tensor(rows["label"])


def answers(labels: torch.Tensor) -> torch.Tensor:
    """Return the token ids of "this is a four" for each label, (images, 5)."""
    said = [["this", "is", "a", CLASS_NAMES[label]] for label in labels.tolist()]
    return torch.tensor([[*(len(SPECIAL) + WORDS.index(word) for word in words), EOS] for words in said])


def measure(llava: Any, processor: Any, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> dict[str, float]:
    """Return how often the text is right, clean and attacked, how often it changes, and how far the features move."""
    settings = AttackSettings(epsilon=epsilon, num_steps=30)
    shift = evaluate_encoder(llava, processor, images, settings, batch_size=120)
    noisy = (images + epsilon * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(
        0, 1
    )
    clean, noise, attacked = (
        say(llava, pixel_values(each, processor.image_processor), WORDS, 4)
        for each in (images, noisy, shift.adv_images)
    )
    right = [f"this is a {CLASS_NAMES[label]}" for label in labels.tolist()]
    share = lambda one, other: statistics.mean(a == b for a, b in zip(one, other, strict=True))  # noqa: E731
    return {
        "clean text right": share(clean, right),
        "text changed by noise": 1 - share(clean, noise),
        "text changed by the attack": 1 - share(clean, attacked),
        "text right under the attack": share(attacked, right),
        "cosine under the attack": shift.means()["attack"]["cosine"],
        "relative shift under the attack": shift.means()["attack"]["relative_l2"],
    }


def main() -> None:
    """Pretrain, teach, fine-tune, swap and measure with every seed; print the means as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epsilon", type=float, default=0.2, help="radius of the attacks, in training and after it")
    parser.add_argument("--objectives", nargs="+", default=["fare"], help="how the CLIP is fine-tuned")
    parser.add_argument("--pretrain_epochs", type=int, default=40)
    parser.add_argument("--teach_steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300, help="steps of the fine-tuning")
    parser.add_argument("--max_samples", type=int, help="test digits; all 360 without it")
    parser.add_argument("--output", help="JSON file for all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, train_labels = pictures("train")
    images, labels = (each[: options.max_samples] for each in pictures("test"))
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            shared = {**PLAIN, "output_dir": folder, "seed": seed}
            clip, processor = pretrain_on_digits(MMCoAConfig(**shared), options.pretrain_epochs)
            llava = tiny_llava(clip, WORDS, seed=seed)
            taught = pixel_values(train, processor.image_processor)
            teach(llava, taught, answers(train_labels), steps=options.teach_steps, seed=seed)
            found = {"original": measure(llava, processor, images, labels, options.epsilon)}
            for objective in options.objectives:
                robust = copy.deepcopy(clip)
                config = MMCoAConfig(
                    **shared,
                    objective=objective,
                    epsilon=options.epsilon,
                    num_steps=3,
                    max_steps=options.steps,
                    per_device_train_batch_size=128,
                    learning_rate=1e-3,
                    lr_scheduler_type="cosine",
                )
                MMCoATrainer(
                    robust, config, load_benchmark("digits", split="train"), processing_class=processor
                ).train()
                swapped = swap_vision_tower(copy.deepcopy(llava), robust)
                found[objective] = measure(swapped, processor, images, labels, options.epsilon)
            for name, numbers in found.items():
                results.setdefault(name, []).append(numbers)
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("| | " + " | ".join(f"{name} tower" for name in results) + " |\n| --- |" + " ---: |" * len(results))
    for key in next(iter(results.values()))[0]:
        means = (statistics.mean(run[key] for run in runs) for runs in results.values())
        print(f"| {key} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
