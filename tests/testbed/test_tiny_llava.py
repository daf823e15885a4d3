"""The tiny LLaVA learns to speak of what it sees, and what it says depends on its tower."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_mmcoa import swap_vision_tower
from hf_mmcoa.attacks.settings import AttackSettings
from hf_mmcoa.evaluation import evaluate_encoder
from hf_mmcoa.models.encoding import pixel_values
from hf_mmcoa.testbed.tiny_clip import tiny_clip
from hf_mmcoa.testbed.tiny_llava import EOS, SPECIAL, question, say, teach, tiny_llava

WORDS = ("dark", "bright", "it", "is")


@pytest.mark.slow
def test_it_is_taught_and_an_attack_on_the_tower_alone_changes_its_text():
    clip, processor = tiny_clip(["a cat"], image_size=8, patch_size=4, width=32)
    llava = tiny_llava(clip, WORDS, width=32, layers=1)
    generator = torch.Generator().manual_seed(0)
    light = torch.rand(64, generator=generator)
    images = (light.view(-1, 1, 1, 1) + 0.05 * torch.rand(64, 3, 8, 8, generator=generator)).clamp(0, 1)
    token = {word: len(SPECIAL) + place for place, word in enumerate(WORDS)}
    said = ["bright" if each > 0.5 else "dark" for each in light.tolist()]
    answers = torch.tensor([[token["it"], token["is"], token[word], EOS] for word in said])
    pixels = pixel_values(images, processor.image_processor)
    tower = copy.deepcopy(llava.model.vision_tower.state_dict())
    teach(llava, pixels, answers, steps=80)
    assert all(torch.equal(weight, tower[name]) for name, weight in llava.model.vision_tower.state_dict().items())
    clean = say(llava, pixels, WORDS, 3)
    right = [one == f"it is {other}" for one, other in zip(clean, said, strict=True)]
    assert sum(right) > 0.85 * 64 and not llava.training

    settings = AttackSettings(epsilon=0.3, num_steps=10)
    attacked = evaluate_encoder(llava, processor, images, settings).adv_images
    moved = say(llava, pixel_values(attacked, processor.image_processor), WORDS, 3)
    changed = sum(one != other for one, other in zip(clean, moved, strict=True))
    # A tower that sees nothing cannot be attacked.
    blind = copy.deepcopy(clip)
    blind.vision_model.embeddings.patch_embedding.weight.data.zero_()
    swapped = swap_vision_tower(copy.deepcopy(llava), blind)
    shift = evaluate_encoder(swapped, processor, images, settings)
    texts = [
        say(swapped, pixel_values(each, processor.image_processor), WORDS, 3) for each in (images, shift.adv_images)
    ]
    assert changed >= 5 and texts[0] == texts[1] and len(set(texts[0])) == 1
    assert float(shift.attack.relative_l2.max()) < 1e-5


def test_the_question_has_a_token_for_every_patch():
    clip, _ = tiny_clip(["a cat"], image_size=8, patch_size=2)
    full = tiny_llava(clip, WORDS, vision_feature_select_strategy="full")
    assert question(tiny_llava(clip, WORDS), 3).shape == (3, 17) and question(full, 1).shape == (1, 18)
