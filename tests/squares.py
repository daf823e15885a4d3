"""A CLIP that knows three kinds of noisy squares: trained in a second, right on clean images, easy to attack."""

from __future__ import annotations

import copy
import functools

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.zero_shot import ZeroShotClassifier

CLASS_NAMES = ["cat", "dog", "car"]
# The model is trained on the class words and on KNOWN, and has never seen UNSEEN.
KNOWN = SynonymTable({"cat": ("feline",), "dog": ("hound",), "car": ("auto",)})
UNSEEN = SynonymTable({"cat": ("kitty",), "dog": ("puppy",), "car": ("wagon",)})
WORDS = [*CLASS_NAMES, "feline", "hound", "auto", "kitty", "puppy", "wagon"]


def squares(rows: int = 24, size: int = 8, seed: int = 0) -> datasets.Dataset:
    """Rows of three classes in turn: red, green and blue squares with noise, as PNG; the noise alone hides some."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    pixels = rng.normal(0.45, 0.12, (rows, size, size, 3))
    pixels[np.arange(rows), :, :, labels] += 0.12
    pictures = [Image.fromarray((picture * 255).clip(0, 255).astype(np.uint8)) for picture in pixels]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASS_NAMES)})
    return datasets.Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)


@pytest.fixture(scope="session")
def dataset() -> datasets.Dataset:
    """24 rows that the model was not trained on."""
    return squares()


@functools.cache
def _train() -> tuple[CLIPModel, CLIPProcessor]:
    texts = [f"This is a photo of a {word}" for word in WORDS]
    model, processor = tiny_clip(texts, image_size=16, patch_size=8, width=32)
    classifier = ZeroShotClassifier(model, processor, CLASS_NAMES)
    data = squares(96, seed=1)
    batch = collate(ImageRows(data).__getitems__(list(range(len(data)))))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    encoder = classifier.encoder
    known = [f"This is a photo of a {words[0]}" for _, words in KNOWN.table]
    for _ in range(40):
        image_embeds = encoder.logit_scale * encoder.encode_images(batch["images"])
        loss = sum(
            F.cross_entropy(image_embeds @ encoder.encode_texts(prompts).T, batch["labels"])
            for prompts in (classifier.prompts, known)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval(), processor


@pytest.fixture(scope="session")
def _trained() -> tuple[CLIPModel, CLIPProcessor]:
    return _train()  # three rooms have this fixture


@pytest.fixture
def model(_trained: tuple[CLIPModel, CLIPProcessor]) -> CLIPModel:
    """The trained CLIP, a copy for each test."""
    return copy.deepcopy(_trained[0])


@pytest.fixture(scope="session")
def processor(_trained: tuple[CLIPModel, CLIPProcessor]) -> CLIPProcessor:
    """Its processor."""
    return _trained[1]
