"""How far an attack moves the features of a vision tower: it needs no classes, and it moves them further than noise."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CLIPVisionModel

from hf_mmcoa.attacks import APGD, PGD, FeatureDistance
from hf_mmcoa.attacks.settings import AttackSettings
from hf_mmcoa.evaluation import Shift, evaluate_encoder
from hf_mmcoa.models.vision_tower import tower_reader, vision_tower
from hf_mmcoa.testbed.tiny_llava import tiny_llava

BUDGET = AttackSettings(epsilon=0.05, num_steps=10)


def test_shift_by_hand():
    one = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # two tokens
    other = torch.tensor([[[0.0, 1.0], [0.0, 4.0]]])
    shift = Shift.between(one, other)
    torch.testing.assert_close(shift.cosine, torch.tensor([0.5]))  # 0 and 1
    torch.testing.assert_close(shift.relative_l2, torch.tensor([(6 / 5) ** 0.5]))  # (1 + 1 + 4) over (1 + 4)


def test_feature_distance_is_what_pgd_and_apgd_increase(images):
    weight = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    distance = FeatureDistance.of(lambda images: torch.conv2d(images, weight, stride=4), images)
    assert torch.equal(distance(images), torch.zeros(4))
    by_hand = (torch.conv2d(1 - images, weight, stride=4) - torch.conv2d(images, weight, stride=4)).square()
    torch.testing.assert_close(distance(1 - images), by_hand.sum((1, 2, 3)))
    start = PGD(epsilon=0.1, step_size=0.0, num_steps=0)(images, distance)
    for attack in (PGD(epsilon=0.1, step_size=0.02, num_steps=10), APGD(epsilon=0.1, num_steps=10)):
        assert (distance(attack(images, distance)) > 1.5 * distance(start)).all()


def test_the_attack_moves_features_further_than_noise_and_stays_in_the_ball(tiny_clip, tiny_processor, images):
    tiny_clip.train()
    shift = evaluate_encoder(tiny_clip, tiny_processor, images, BUDGET, batch_size=3)
    assert shift.attack.cosine.shape == shift.noise.relative_l2.shape == (4,)
    assert (shift.attack.relative_l2 > 1.2 * shift.noise.relative_l2).all()
    assert (shift.attack.cosine < shift.noise.cosine).all() and (shift.noise.cosine < 1).all()
    assert float((shift.adv_images - images).abs().max()) <= 0.05 + 1e-6
    assert shift.from_reference is None and set(shift.means()) == {"noise", "attack"}
    assert tiny_clip.training and all(weight.requires_grad for weight in tiny_clip.parameters())
    again = evaluate_encoder(tiny_clip, tiny_processor, images, BUDGET, batch_size=3)
    assert torch.equal(again.adv_images, shift.adv_images)


def test_without_a_budget_nothing_moves(tiny_clip, tiny_processor, images):
    shift = evaluate_encoder(tiny_clip, tiny_processor, images, AttackSettings(epsilon=0))
    assert torch.equal(shift.adv_images, images)
    torch.testing.assert_close(shift.attack.cosine, torch.ones(4))
    assert torch.equal(shift.attack.relative_l2, torch.zeros(4))


def test_more_restarts_find_more(tiny_clip, tiny_processor, images):
    once, often = (
        evaluate_encoder(tiny_clip, tiny_processor, images, AttackSettings(epsilon=0.05, num_steps=1, restarts=n))
        for n in (1, 5)
    )
    assert often.attack.relative_l2.mean() > once.attack.relative_l2.mean()


def test_a_tower_alone_and_a_llava_give_the_numbers_of_their_clip(tiny_clip, tiny_processor, images):
    tower = CLIPVisionModel(tiny_clip.config.vision_config)
    vision_tower(tower).load_state_dict(tiny_clip.vision_model.state_dict())
    of_clip = evaluate_encoder(tiny_clip, tiny_processor, images, BUDGET)
    for model, processor in ((tower, tiny_processor.image_processor), (tiny_llava(tiny_clip, ("a",)), tiny_processor)):
        torch.testing.assert_close(
            evaluate_encoder(model, processor, images, BUDGET).attack.cosine, of_clip.attack.cosine
        )


def test_layer_and_projector_decide_what_is_attacked(tiny_clip, tiny_processor, images):
    llava = tiny_llava(tiny_clip, ("a",), width=16)
    found = {
        name: evaluate_encoder(llava, tiny_processor, images, BUDGET, **options).attack.relative_l2
        for name, options in {
            "own": {},
            "-2": {"layer": -2},
            "-1": {"layer": -1},
            "projected": {"projected": True},
        }.items()
    }
    assert torch.equal(found["own"], found["-2"])
    assert not torch.allclose(found["own"], found["-1"]) and not torch.allclose(found["own"], found["projected"])
    assert tower_reader(llava, projected=True)(images).shape == (4, 16, 16)


def test_the_reference_says_how_far_clean_features_are(tiny_clip, tiny_processor, images):
    moved = copy.deepcopy(tiny_clip)
    for weight in moved.vision_model.parameters():
        weight.data += 0.02
    same, other = (
        evaluate_encoder(model, tiny_processor, images, BUDGET, reference=tiny_clip).means()["from_reference"]
        for model in (tiny_clip, moved)
    )
    assert same == {"cosine": pytest.approx(1), "relative_l2": 0}
    assert other["cosine"] < 0.9999 and other["relative_l2"] > 0.01


def test_weights_in_16_bits_are_measured_in_32(tiny_clip, tiny_processor, images):
    half = tiny_clip.to(torch.bfloat16)
    exact = evaluate_encoder(copy.deepcopy(half).float(), tiny_processor, images, BUDGET)
    assert torch.equal(evaluate_encoder(half, tiny_processor, images, BUDGET).attack.cosine, exact.attack.cosine)


def test_what_does_not_fit_is_refused(tiny_clip, tiny_siglip, tiny_processor, images):
    with pytest.raises(TypeError, match="tower of CLIP is needed"):
        evaluate_encoder(tiny_siglip, tiny_processor, images)
    with pytest.raises(TypeError, match="CLIPModel has no projector"):
        evaluate_encoder(tiny_clip, tiny_processor, images, projected=True)
    with pytest.raises(ValueError, match="there is no 7"):
        evaluate_encoder(tiny_clip, tiny_processor, images, layer=7)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        evaluate_encoder(tiny_clip, tiny_processor, 255 * images)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        evaluate_encoder(tiny_clip, tiny_processor, images, batch_size=0)
    processor = copy.deepcopy(tiny_processor)
    processor.image_processor.crop_size = {"height": 24, "width": 24}
    with pytest.raises(ValueError, match="images of 24 pixels, the vision tower reads 32"):
        evaluate_encoder(tiny_clip, processor, images)
