from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_mmcoa.attacks import PGD, StrongAttack, factory, image_losses
from hf_mmcoa.attacks.settings import AttackSettings
from hf_mmcoa.gradients import gradient

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
LABELS = torch.tensor([1, 2])


def test_class_loss_is_the_cross_entropy_of_each_sample() -> None:
    expected = [math.log(1 + math.exp(-2) + math.exp(-1)), math.log(1 + math.exp(1) + math.exp(-4))]

    assert image_losses.class_loss(LOGITS, LABELS).tolist() == pytest.approx(expected)


def test_log_odds_are_the_logit_of_the_error_probability() -> None:
    expected = [math.log(math.exp(-2) + math.exp(-1)), math.log(math.exp(1) + math.exp(-4))]

    assert image_losses.log_odds_loss(LOGITS, LABELS).tolist() == pytest.approx(expected)


def test_the_cross_entropy_is_softplus_of_the_log_odds_so_both_point_the_same_way() -> None:
    logits = torch.randn(64, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 7

    log_odds = image_losses.log_odds_loss(logits, labels)

    torch.testing.assert_close(F.softplus(log_odds), image_losses.class_loss(logits, labels))
    ours = gradient(lambda z: image_losses.log_odds_loss(z, labels), logits)
    theirs = gradient(lambda z: image_losses.class_loss(z, labels), logits)
    torch.testing.assert_close(F.normalize(ours, dim=1), F.normalize(theirs, dim=1))


SATURATED = 1e4  # scale of the logits (1 - mean, mean) below: at mean 0.4 the log-odds are -2000


def saturated_logits(images: Tensor) -> Tensor:
    mean = images.mean((1, 2, 3))
    return SATURATED * torch.stack([1 - mean, mean], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_log_odds_break_a_model_whose_cross_entropy_has_no_gradient(norm: str) -> None:
    images, labels = torch.full((2, 3, 2, 2), 0.4), torch.zeros(2, dtype=torch.long)
    radius = 0.2 if norm == "linf" else 0.2 * 12**0.5
    pgd = PGD(epsilon=radius, step_size=radius / 4, num_steps=5, norm=norm, random_start=False)
    assert not gradient(lambda x: image_losses.class_loss(saturated_logits(x), labels), images).any()

    missed = pgd(images, lambda x: image_losses.class_loss(saturated_logits(x), labels))
    broken = pgd(images, lambda x: image_losses.log_odds_loss(saturated_logits(x), labels))

    assert saturated_logits(missed).argmax(1).tolist() == [0, 0]
    assert saturated_logits(broken).argmax(1).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["pgd-ce", "apgd-ce"])
def test_attacks_named_after_the_cross_entropy_break_it_too(name: str) -> None:
    images, labels = torch.full((2, 3, 2, 2), 0.4), torch.zeros(2, dtype=torch.long)
    settings = AttackSettings(epsilon=0.2, num_steps=5, random_start=False)

    adv_images, _ = factory.image_attack(name, settings).find(
        images, labels, lambda x, rows: saturated_logits(x), torch.Generator().manual_seed(0), False
    )

    assert saturated_logits(adv_images).argmax(1).tolist() == [1, 1]


def test_strong_needs_no_more_than_its_first_loss_there() -> None:
    images, labels = torch.full((2, 3, 2, 2), 0.4), torch.zeros(2, dtype=torch.long)
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return saturated_logits(x)

    adv_images = StrongAttack(epsilon=0.2, num_steps=5)(images, counted, labels)

    assert saturated_logits(adv_images).argmax(1).tolist() == [1, 1]
    assert len(calls) == 1 + 6 + 1  # the clean look, one run of APGD, the look at what it found


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
