from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import PGD, Restarts


def test_keeps_the_run_of_largest_loss_for_each_sample() -> None:
    images = torch.zeros(3, 3, 1, 1)
    runs = iter([[0.1, 0.5, 0.3], [0.4, 0.2, 0.3], [0.2, 0.3, 0.6]])

    def attack(images: Tensor, loss_fn: object, generator: torch.Generator | None = None) -> Tensor:
        return images + torch.tensor(next(runs)).view(3, 1, 1, 1)

    best = Restarts(attack, times=3)(images, lambda images: images.mean((1, 2, 3)))

    assert best[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_runs_start_at_different_points() -> None:
    images = torch.full((16, 3, 4, 4), 0.5)
    starts = PGD(epsilon=0.3, step_size=0.0, num_steps=0)  # the random start alone
    loss_fn = lambda images: images.sum((1, 2, 3))  # noqa: E731

    once, often = (
        loss_fn(Restarts(starts, times=1)(images, loss_fn)),
        loss_fn(Restarts(starts, times=5)(images, loss_fn)),
    )

    assert (often >= once).all() and (often > once).sum() >= 8  # 4 of 5 samples on average


def test_times_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="`times` must be at least 1, got 0"):
        Restarts(PGD(epsilon=0.1, step_size=0.1, num_steps=1), times=0)
