"""PGD against hand-computed steps; the contract that all attacks share is in test_contract.py."""

from __future__ import annotations

import pytest
import torch

from hf_mmcoa.attacks.pgd import PGD

GREY = torch.full((2, 3, 2, 2), 0.5)


def brightness(images):
    return images.sum((1, 2, 3))


def test_linf_steps_by_the_sign_and_stops_at_the_ball():
    attack = PGD(epsilon=0.25, step_size=0.125, num_steps=1, random_start=False)
    assert torch.equal(attack(GREY, brightness), GREY + 0.125)
    attack = PGD(epsilon=0.25, step_size=0.125, num_steps=5, random_start=False)
    assert torch.equal(attack(GREY, brightness), GREY + 0.25)


def test_l2_steps_along_the_gradient_and_stops_at_the_ball():
    weights = torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1)
    attack = PGD(epsilon=0.1, step_size=0.04, num_steps=1, norm="l2", random_start=False)
    pixel = torch.full((1, 3, 1, 1), 0.5)
    expected = pixel + 0.04 * weights / 5
    assert torch.allclose(attack(pixel, lambda images: (weights * images).sum((1, 2, 3))), expected)
    attack = PGD(epsilon=0.1, step_size=0.04, num_steps=9, norm="l2", random_start=False)
    expected = pixel + 0.1 * weights / 5
    assert torch.allclose(attack(pixel, lambda images: (weights * images).sum((1, 2, 3))), expected)


def test_pixels_stay_in_range():
    attack = PGD(epsilon=0.5, step_size=0.5, num_steps=2, random_start=False)
    assert torch.equal(attack(torch.full((1, 3, 2, 2), 0.9), brightness), torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_fills_the_ball(norm):
    attack = PGD(epsilon=0.2, step_size=0.0, num_steps=0, norm=norm)
    images = torch.full((512, 3, 2, 2), 0.5)
    delta = (attack(images, brightness, torch.Generator().manual_seed(0)) - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= 0.2 + 1e-6
    assert size.max() > 0.19
    if norm == "l2":  # uniform in radius: half of the starts within half of the ball
        assert 0.4 < (size < 0.1).float().mean() < 0.6
    else:  # uniform in the cube: coordinates have mean 0 and standard deviation epsilon / sqrt(3)
        assert abs(delta.mean()) < 0.005 and abs(delta.std() - 0.2 / 3**0.5) < 0.005


def test_the_generator_decides_the_start():
    attack = PGD(epsilon=0.2, step_size=0.1, num_steps=0)
    first, again, other = (attack(GREY, brightness, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 8}, r"got 8\. Did you mean 8 / 255\?"),
        ({"epsilon": -0.1}, "pixel units, got -0.1"),
        ({"step_size": -1}, "`step_size`"),
        ({"num_steps": -1}, "`num_steps`"),
        ({"norm": "l1"}, "`norm`.*'l1'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"epsilon": 0.1, "step_size": 0.1, "num_steps": 1, **settings})


def test_an_l2_ball_may_be_larger_than_one():
    assert PGD(epsilon=2.0, step_size=0.5, num_steps=1, norm="l2").epsilon == 2.0


def test_a_loss_that_is_not_one_value_per_image_is_refused():
    with pytest.raises(ValueError, match=r"one value per sample, \(2,\), got shape \(\)"):
        PGD(epsilon=0.1, step_size=0.1, num_steps=1)(GREY, lambda images: images.sum())
