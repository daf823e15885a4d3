from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import PGD, Diversity

STEPS = PGD(epsilon=0.1, step_size=0.02, num_steps=3)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_probability_it_is_the_attack_itself(images: Tensor) -> None:
    loss_fn = lambda images: (images**2).sum((1, 2, 3))  # noqa: E731

    assert torch.equal(Diversity(STEPS, probability=0)(images, loss_fn, seeded()), STEPS(images, loss_fn, seeded()))


def test_loss_sees_shrunk_images_in_a_frame_of_zeros() -> None:
    ones = torch.ones(2, 3, 20, 20)
    attack = Diversity(STEPS, probability=1, smallest=0.5)

    seen = attack.transform(ones, seeded())

    assert seen.shape == ones.shape
    inside = seen[0, 0] > 0
    rows, columns = inside.any(1).sum().item(), inside.any(0).sum().item()
    assert rows == columns and 10 <= rows < 20
    assert inside.sum() == rows * columns, "one square block, not scattered pixels"
    torch.testing.assert_close(seen[0, 0][inside], torch.ones(rows * columns))


def test_transforms_the_given_share_of_images() -> None:
    images = torch.ones(400, 3, 8, 8)

    seen = Diversity(STEPS, probability=0.3, smallest=0.6).transform(images, seeded())

    assert 80 < (seen.flatten(1).amin(1) == 0).sum() < 160  # 120 expected, standard deviation 9


def test_views_change_from_step_to_step(images: Tensor) -> None:
    views: list[Tensor] = []

    def loss_fn(images: Tensor) -> Tensor:
        views.append(images.detach())
        return images.sum((1, 2, 3))

    Diversity(STEPS, probability=1, smallest=0.5)(images, loss_fn)

    frames = {tuple(map(tuple, (view[0, 0] > 0).tolist())) for view in views}
    assert len(frames) == 3


@pytest.mark.parametrize(("name", "value"), [("probability", 1.5), ("smallest", 0.0)])
def test_setting_out_of_range_is_an_error(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        Diversity(STEPS, **{name: value})
