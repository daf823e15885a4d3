from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import PGD, Momentum

IMAGES = torch.full((1, 3, 2, 2), 0.5)
TWO_STEPS = PGD(epsilon=0.3, step_size=0.1, num_steps=2, random_start=False)


def uphill_then_down(images: Tensor) -> Tensor:
    """Gradient +3 up to 0.55, -0.01 beyond: normalised both have length 1."""
    return torch.where(images < 0.55, 3 * images, -0.01 * images).sum((1, 2, 3))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (0.0, 0.5),  # up, then down: the attack itself
        (0.5, 0.5),  # 0.5 * 1 - 1 < 0: down
        (1.5, 0.7),  # 1.5 * 1 - 1 > 0: up again
    ],
)
def test_adds_the_past_directions_at_equal_length(decay: float, expected: float) -> None:
    adv_images = Momentum(TWO_STEPS, decay=decay)(IMAGES, uphill_then_down)

    assert adv_images.flatten().tolist() == pytest.approx([expected] * 12)


def test_without_decay_it_is_the_attack_itself() -> None:
    attack = PGD(epsilon=0.3, step_size=0.1, num_steps=3)
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    loss_fn = lambda images: (images**2 * torch.arange(4)).sum((1, 2, 3))  # noqa: E731

    torch.testing.assert_close(Momentum(attack, decay=0.0)(images, loss_fn), attack(images, loss_fn))


def test_negative_decay_is_an_error() -> None:
    with pytest.raises(ValueError, match="`decay` must not be negative, got -1"):
        Momentum(TWO_STEPS, decay=-1)
