from __future__ import annotations

import math

import pytest
import torch

from hf_mmcoa.attacks import image_losses

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
LABELS = torch.tensor([1, 2])


def test_class_loss_is_the_cross_entropy_of_each_sample() -> None:
    expected = [math.log(1 + math.exp(-2) + math.exp(-1)), math.log(1 + math.exp(1) + math.exp(-4))]

    assert image_losses.class_loss(LOGITS, LABELS).tolist() == pytest.approx(expected)


def test_margin_is_positive_where_the_sample_is_misclassified() -> None:
    assert image_losses.margin_loss(LOGITS, LABELS).tolist() == [-1.0, 1.0]


def test_targeted_margin_is_to_the_target_alone() -> None:
    assert image_losses.targeted_margin_loss(LOGITS, LABELS, torch.tensor([0, 1])).tolist() == [-2.0, -4.0]


def test_targets_are_the_wrong_classes_by_falling_logit() -> None:
    assert image_losses.likeliest_wrong_classes(LOGITS, LABELS).tolist() == [[2, 0], [0, 1]]


def test_embedding_loss_is_the_squared_distance() -> None:
    assert image_losses.embedding_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])).tolist() == [18.0]


def test_kl_takes_the_reference_as_its_first_distribution() -> None:
    embeds, reference = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])  # (1/4, 3/4) and (1/2, 1/2)

    loss = image_losses.kl_loss(embeds, reference)

    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert loss.item() != pytest.approx(image_losses.kl_loss(reference, embeds).item())
