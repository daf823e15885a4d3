from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import APGD, PGD


def test_looks_at_the_step_size_where_the_paper_does() -> None:
    # p = 0.22, then p_j + max(p_j - p_{j-1} - 0.03, 0.06), in steps of 100.
    assert sorted(APGD(epsilon=0.1)._looks()) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_an_optimum_that_steps_of_one_size_jump_over(norm: str) -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    best = images + 0.01 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))

    def loss_fn(images: Tensor) -> Tensor:
        return -(images - best).square().sum((1, 2, 3))

    found = loss_fn(APGD(epsilon=0.2, norm=norm)(images, loss_fn))
    fixed = loss_fn(PGD(epsilon=0.2, step_size=0.05, num_steps=100, norm=norm)(images, loss_fn))

    assert (found > -1e-4).all() and (fixed < 10 * found).all()


def test_gives_the_best_point_that_it_saw(images: Tensor) -> None:
    seen = []

    def loss_fn(images: Tensor) -> Tensor:
        loss = (20 * images).sin().sum((1, 2, 3))
        seen.append(loss.detach())
        return loss

    adv_images = APGD(epsilon=0.3, num_steps=9)(images, loss_fn)

    torch.testing.assert_close(loss_fn(adv_images), torch.stack(seen[:10]).amax(0), rtol=1e-4, atol=1e-3)


def test_setting_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="Did you mean 8 / 255"):
        APGD(epsilon=8)
