"""A CLIP of 100 classes, built in a minute: pictures are noisy prototypes, words are syllables.

Each class has three substitutes, of which training reads two, so that some attacks on words succeed and others do not.
"""

from __future__ import annotations

import itertools
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.zero_shot import ZeroShotClassifier

CLASSES, SUBSTITUTES, SIZE = 100, 3, 16


def hundred_classes(quick: bool = False) -> tuple[Any, Any, datasets.Dataset, SynonymTable]:
    """Return a trained model, its processor, 500 test pictures and the substitutes of each class."""
    draw = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    every = ["".join(pair) for pair in itertools.product(syllables, repeat=2)]
    words = [str(word) for word in draw.choice(every, CLASSES * (1 + SUBSTITUTES), replace=False)]
    names, others = words[:CLASSES], words[CLASSES:]
    table = {name: others[SUBSTITUTES * index :][:SUBSTITUTES] for index, name in enumerate(names)}
    prototypes = draw.uniform(0.2, 0.8, (CLASSES, SIZE, SIZE, 3))
    texts = [f"This is a photo of a {word}" for word in words]
    model, processor = tiny_clip(texts, image_size=SIZE, patch_size=4, width=64)
    classifier = ZeroShotClassifier(model, processor, names)
    encoder = classifier.encoder
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    prompts = [[DEFAULT_TEMPLATE.format(word) for word in (name, *table[name][:2])] for name in names]
    for step in range(20 if quick else 300):
        labels = draw.integers(CLASSES, size=64)
        batch = collate(ImageRows(_pictures(prototypes, labels, draw, names)).__getitems__(list(range(64))))
        # Half of the pictures meet a little noise, so that some image attacks fail.
        images = (batch["images"] + 0.1 * torch.randn_like(batch["images"]) * (step % 2)).clamp(0, 1)
        spelled = [prompt[draw.integers(3)] for prompt in prompts]
        logits = encoder.logit_scale * encoder.encode_images(images) @ encoder.encode_texts(spelled).T
        loss = F.cross_entropy(logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = _pictures(prototypes, np.arange(500) % CLASSES, draw, names)
    return model, processor, test, SynonymTable(table)


def _pictures(prototypes: Any, labels: Any, draw: np.random.Generator, names: list[str]) -> datasets.Dataset:
    pixels = prototypes[labels] + draw.normal(0, 0.1, (len(labels), SIZE, SIZE, 3))
    pictures = [Image.fromarray((255 * picture).clip(0, 255).astype(np.uint8)) for picture in pixels]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)
