from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import StrongAttack
from hf_mmcoa.attacks.image_losses import margin_loss

DIM = 3 * 4 * 4


@pytest.fixture
def linear() -> Tensor:
    """Weights of a linear classifier of 5 classes: what any perturbation can do to it is known in closed form."""
    return torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_breaks_exactly_the_samples_that_can_be_broken(linear: Tensor, norm: str, dual: int) -> None:
    images = 0.5 + 0.2 * torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    epsilon = 0.02 if norm == "linf" else 0.1  # far from the edges of [0, 1], so the ball alone binds
    logits_fn = lambda images: images.flatten(1) @ linear.T  # noqa: E731
    logits = logits_fn(images)
    labels = logits.argmax(1)
    gaps = logits - logits.gather(1, labels[:, None])
    gain = (linear[None] - linear[labels][:, None]).norm(p=dual, dim=-1)  # of the best perturbation towards each class
    breakable = (gaps + epsilon * gain).scatter(1, labels[:, None], -1).amax(1) > 0
    assert 5 < breakable.sum() < 59

    adv_images = StrongAttack(epsilon=epsilon, norm=norm, num_steps=50)(images, logits_fn, labels)

    assert torch.equal(logits_fn(adv_images).argmax(1) != labels, breakable)


def test_attacks_only_what_still_stands(linear: Tensor) -> None:
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    logits_fn = lambda images: images.flatten(1) @ linear.T  # noqa: E731
    labels = logits_fn(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5  # wrong already
    sizes = []

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return logits_fn(images)

    adv_images = StrongAttack(epsilon=1.0, num_steps=5)(images, counted, labels)

    assert torch.equal(adv_images[:3], images[:3])
    assert sizes[0] == 8 and max(sizes[1:]) == 5
    assert (margin_loss(logits_fn(adv_images), labels) > 0).all()


def test_falls_back_on_targets_where_the_margin_misleads() -> None:
    """The runner-up class only falls when approached; the third class is far behind, and the way to it is open."""
    images = torch.full((1, 3, 1, 1), 0.5)

    def logits_fn(images: Tensor) -> Tensor:
        x = images[:, 0, 0, 0]
        return torch.stack([0 * x, -0.5 - 10 * (x - 0.5).abs() - 1e-3 * (x - 0.5), 20 * (0.55 - x) - 2], 1)

    labels = torch.tensor([0])
    with_targets = StrongAttack(epsilon=0.2, num_steps=4)(images, logits_fn, labels)

    assert logits_fn(with_targets).argmax(1).item() == 2


def test_labels_that_do_not_fit_are_an_error(linear: Tensor) -> None:
    logits_fn = lambda images: images.flatten(1) @ linear.T  # noqa: E731
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 5\), got 1 to 5"):
        StrongAttack(epsilon=0.1)(torch.rand(2, 3, 4, 4), logits_fn, torch.tensor([1, 5]))
