from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import PGD, SGA, BertAttack, SynonymTable
from hf_mmcoa.attacks.sga import _scaled
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["a photo of a cat", "a dog"]
WORDS = BertAttack(candidates=SynonymTable({"cat": ("feline", "small"), "dog": ("hound", "large")}))
LABELS = torch.tensor([0, 1, 1, 0])


def test_text_answers_the_image_and_image_the_text(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    attacked_on: list[Tensor] = []

    def image_attack(images: Tensor, loss_fn: object, generator: torch.Generator | None = None) -> Tensor:
        attacked_on.append(loss_fn(images).detach())  # type: ignore[operator]
        return PGD(epsilon=0.2, step_size=0.05, num_steps=5)(images, loss_fn, generator)  # type: ignore[arg-type]

    pairs = SGA(text_attack=WORDS, image_attack=image_attack)(images, LABELS, PROMPTS, encoder)

    with torch.no_grad():
        views = [_scaled(images, scale) for scale in (0.5, 0.75, 1.0, 1.25, 1.5)]
        for row, label in enumerate(LABELS.tolist()):
            pool = WORDS.variants(PROMPTS)[label]
            texts = encoder.encode_texts(pool)
            first = sum(encoder.encode_images(view[row : row + 1]) @ texts.T for view in views)
            assert attacked_on[0][row].item() == pytest.approx(-first.min().item(), abs=1e-4)
            last = (encoder.encode_images(pairs.images[row : row + 1]) @ texts.T).squeeze(0)
            assert last[pool.index(pairs.prompts[row][label])] == pytest.approx(last.min().item(), abs=1e-6)
            assert pairs.prompts[row][1 - label] == PROMPTS[1 - label], "other classes keep their prompts"


def test_views_differ_and_keep_the_size(images: Tensor) -> None:
    views = [_scaled(images, scale) for scale in (0.5, 0.75, 1.0, 1.25, 1.5)]

    assert all(view.shape == images.shape and view.min() >= 0 and view.max() <= 1 for view in views)
    assert views[2] is images
    assert all((left - right).abs().max() > 0.01 for left, right in pairwise(views))


@pytest.mark.parametrize("scales", [(), (0.5, 0.0)])
def test_scales_out_of_range_are_an_error(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`scales` must be positive"):
        SGA(text_attack=WORDS, image_attack=PGD(epsilon=0.1, step_size=0.1, num_steps=1), scales=scales)
