"""The shipped text tower knows words that no caption holds, and is small enough to ship."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.substitutes.embedded import wordnet_words
from hf_mmcoa.testbed import english_clip as module
from hf_mmcoa.testbed.english_clip import english_clip

FOLDER = Path(module.__file__).with_name("english")


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    return DualEncoder(*english_clip(image_size=8, patch_size=2))


@pytest.mark.parametrize("bed", ["digits", "fashion-mnist"])
def test_words_that_mean_a_class_are_taken_for_it_more_often_than_chance(encoder, bed):
    table = wordnet_words(bed, "wordnet")  # unfiltered
    words = [(word, row) for row, listed in enumerate(table.values()) for word in listed]
    with torch.no_grad():
        classes = encoder.encode_texts([f"a photo of a {name}" for name in table])
        nearest = (encoder.encode_texts([f"a photo of a {word}" for word, _ in words]) @ classes.T).argmax(1)
    right = (nearest == torch.tensor([row for _, row in words])).float().mean()
    assert right > 0.3  # chance is 0.1


def test_the_seed_decides_the_image_tower_alone():
    first, again, other = (english_clip(image_size=8, patch_size=2, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], other[name])}
    assert changed == {"vision_model", "visual_projection"}


def test_it_saves_and_loads_as_a_plain_clip(tmp_path, encoder):
    from transformers import CLIPModel

    encoder.model.save_pretrained(tmp_path)
    texts = ["a photo of a nought", "a scarf"]
    with torch.no_grad():
        again = DualEncoder(CLIPModel.from_pretrained(tmp_path).eval(), encoder.processor).encode_texts(texts)
        assert torch.allclose(again, encoder.encode_texts(texts), atol=1e-6)


def test_what_is_shipped_is_small_and_says_where_it_comes_from():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 5_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "MiniLM" in card and "Princeton" in card and "OpenAI" in card
