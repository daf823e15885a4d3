from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import PGD, BertAttack, CoAttack, SynonymTable
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["a photo of a cat", "a dog"]
WORDS = BertAttack(candidates=SynonymTable({"cat": ("feline",), "dog": ("hound",)}))


def test_image_leaves_its_clean_self_and_the_attacked_text(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    """The same as PGD on the formula of METHODS, written out."""
    encoder, labels = DualEncoder(tiny_clip, tiny_processor), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        clean = encoder.encode_images(images).softmax(1)
        text = encoder.encode_texts(["a photo of a feline", "a hound"]).softmax(1)[labels]

    def loss_fn(images: Tensor) -> Tensor:
        log_q = encoder.encode_images(images).log_softmax(1)
        kl = lambda p: F.kl_div(log_q, p, reduction="none").sum(1)  # noqa: E731
        return kl(clean) + 3 * kl(text)

    pairs = CoAttack(text_attack=WORDS, epsilon=0.1, num_steps=5)(images, labels, PROMPTS, encoder)

    assert pairs.prompts == [["a photo of a feline", "a hound"]] * 4
    expected = PGD(epsilon=0.1, step_size=0.025, num_steps=5)(images, loss_fn)  # 1.25 * 0.1 / 5
    assert (pairs.images - expected).abs().mean() < 1e-4, "but for signs of gradients that rounding decides"
    with torch.no_grad():
        assert (loss_fn(pairs.images) > loss_fn(images)).all()


def test_setting_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="`num_steps` must be at least 1, got 0"):
        CoAttack(text_attack=WORDS, epsilon=0.1, num_steps=0)
    with pytest.raises(ValueError, match="Did you mean 8 / 255"):
        CoAttack(text_attack=WORDS, epsilon=8)
