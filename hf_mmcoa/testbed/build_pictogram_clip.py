"""Teach an image tower the pictograms of four designs, under the locked English text tower: makes `pictograms/`.

    OMP_NUM_THREADS=1 python -m hf_mmcoa.testbed.build_pictogram_clip --output pictograms

Locked-image tuning with the roles exchanged, as in `align_with_english` (LiT, arXiv:2111.07991), with what four
drawings a concept need against learning by heart: random views (`pictogram_views.py`), patches left out (FLIP,
arXiv:2212.00794), smooth labels, an average of the weights. The test designs and the held-out concepts take no part.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import trange
from transformers import CLIPModel, CLIPProcessor, CLIPVisionModelWithProjection

from ..data.labels import read_labels
from ..data.pictograms import Concepts, load_pictograms
from ..data.prompts import class_prompts
from ..models.encoder import DualEncoder
from .english_clip import english_clip
from .pictogram_clip import LOGIT_SCALE
from .pictogram_views import Views, on_white, premultiplied

SIZE, PATCH, WIDTH, LAYERS = 48, 8, 96, 4
TEMPLATE = "A pictogram of a {}"
TEMPLATES = (
    TEMPLATE,
    "This is a photo of a {}",
    "a drawing of a {}",
    "a picture of a {}",
    "an icon that shows a {}",
    "{}",
)
PATCHES_SEEN = 0.5  # of a picture's in one step: half the work, and no patch can be relied on
LABEL_SMOOTHING = 0.1
AVERAGE = 0.995  # of the weights, from one step to the next
WARMUP = 100  # steps
GROWTH = (
    0.3  # of the training, in which the changes of the views grow from none: at full size nothing is learnt at first
)


def main() -> None:
    """Build the tower and print what it reaches on the validation design."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write, an image tower")
    parser.add_argument("--steps", type=int, default=20000, help="gradient steps")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="the largest")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    model, processor = english_clip(image_size=SIZE, patch_size=PATCH, width=WIDTH, layers=LAYERS, seed=args.seed)
    train(model, processor, load_pictograms("train"), args.steps, args.batch_size, args.learning_rate)
    for concepts in ("common", "all", "held-out"):
        print(f"validation, {concepts}: {accuracy(model, processor, 'validation', concepts):.1%}")
    save_image_tower(model, args.output)


def train(
    model: CLIPModel,
    processor: CLIPProcessor,
    dataset: datasets.Dataset,
    steps: int,
    batch_size: int,
    learning_rate: float,
    views: Views | None = None,
) -> list[float]:
    """Train the image tower on class prompts; the weights become the average over the last steps.

    Args:
        model: changed in place; its text tower stays as it is.
        processor: the model's.
        dataset: pictograms, with the same number of pictures of each concept.
        steps: number of gradient steps.
        batch_size: pictures a step; concept and design of each are drawn.
        learning_rate: the largest; it rises over `WARMUP` steps and then falls as a cosine.
        views: what is changed at random; all of `Views` without it.

    Returns:
        The loss of every step.
    """
    views = views or Views()
    encoder = DualEncoder(model, processor)
    pictures = premultiplied(dataset)
    labels = torch.from_numpy(read_labels(dataset))
    rows = labels.argsort(stable=True).view(dataset.features["label"].num_classes, -1)  # (concepts, designs)
    names = dataset.features["label"].names
    with torch.no_grad():
        prompts = torch.stack([encoder.encode_texts(class_prompts(names, template)) for template in TEMPLATES])

    model.requires_grad_(False)
    tower = nn.ModuleList([model.vision_model, model.visual_projection]).requires_grad_(True)
    weights = list(tower.parameters())
    average = [weight.detach().clone() for weight in weights]
    vectors = [weight for weight in weights if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": 0.05},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    hook = model.vision_model.embeddings.register_forward_hook(lambda layer, given, tokens: some_patches(tokens))
    model.train()
    losses = []
    for step in (bar := trange(steps, desc="pictograms")):
        classes = torch.randint(len(rows), (batch_size,))
        one, other = (pictures[rows[classes, torch.randint(rows.shape[1], (batch_size,))]] for _ in range(2))
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.encode_images(views.weaker(step / (GROWTH * steps))(one, other)).float()
        drawn = prompts[torch.randint(len(TEMPLATES), (len(rows),)), torch.arange(len(rows))]
        loss = F.cross_entropy(LOGIT_SCALE * found @ drawn.T, classes, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        kept = min(AVERAGE, (step + 1) / (step + 10))  # the first steps count little
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - kept)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    hook.remove()
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
    model.requires_grad_(True).eval()
    return losses


def some_patches(tokens: Tensor) -> Tensor:
    """Return the class token and a random part of the patch tokens of each picture, (batch, fewer, width)."""
    count, length, width = tokens.shape
    kept = torch.rand(count, length - 1).argsort(dim=1)[:, : round(PATCHES_SEEN * (length - 1))] + 1
    return torch.cat([tokens[:, :1], tokens.gather(1, kept[..., None].expand(-1, -1, width))], dim=1)


@torch.no_grad()
def accuracy(model: CLIPModel, processor: CLIPProcessor, split: str, concepts: Concepts) -> float:
    """Return the zero-shot accuracy of a split on a white ground, by the benchmark's prompt."""
    dataset = load_pictograms(split, concepts)
    encoder = DualEncoder(model, processor)
    prompts = encoder.encode_texts(class_prompts(dataset.features["label"].names, TEMPLATE))
    found = encoder.encode_images(on_white(premultiplied(dataset)).clamp(0, 1)) @ prompts.T
    return (found.argmax(-1) == torch.from_numpy(read_labels(dataset))).float().mean().item()


def save_image_tower(model: CLIPModel, folder: str | Path) -> None:
    """Write the image tower alone in float16, as `pictogram_clip` reads it."""
    config: Any = model.config.vision_config
    tower = CLIPVisionModelWithProjection(config)
    tower.vision_model.load_state_dict(model.vision_model.state_dict())
    tower.visual_projection.load_state_dict(model.visual_projection.state_dict())
    tower.half().save_pretrained(folder)


if __name__ == "__main__":
    main()
