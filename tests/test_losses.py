"""The maths, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mmcoa.losses import class_targets, contrastive_loss, zero_shot_logits

EYE = torch.eye(2)
ONE = torch.tensor(1.0)


def test_two_orthogonal_pairs_at_scale_one():
    # each row: -log(e / (e + 1)) = log(1 + e) - 1, in both directions
    assert contrastive_loss(EYE, EYE, ONE).item() == pytest.approx(2 * (math.log(1 + math.e) - 1))


def test_scale_multiplies_the_logits():
    assert contrastive_loss(EYE, EYE, 3 * ONE).item() == pytest.approx(2 * (math.log(1 + math.exp(3)) - 3))


def test_the_two_directions_differ_when_texts_repeat():
    images, texts = EYE, torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # image to text: both columns equal, log 2 a row; text to image: row 0 log(1 + e) - 1, row 1 log(1 + e)
    expected = math.log(2) + (2 * math.log(1 + math.e) - 1) / 2
    assert contrastive_loss(images, texts, ONE).item() == pytest.approx(expected)


def test_class_targets_share_the_weight_of_a_class():
    expected = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    assert torch.equal(class_targets(torch.tensor([3, 5, 3])), expected)


def test_class_targets_of_distinct_labels_are_the_diagonal():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(4, 8, generator=generator), dim=-1) for _ in range(2))
    soft = contrastive_loss(a, b, 10 * ONE, class_targets(torch.arange(4)))
    assert soft.item() == pytest.approx(contrastive_loss(a, b, 10 * ONE).item(), rel=1e-6)


def test_identical_prompts_of_a_class_have_one_gradient_under_both_targets():
    # Where the texts of a class are identical, diagonal and class targets differ by a constant.
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 0, 1, 1])
    images = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1).requires_grad_()
    texts = torch.nn.functional.normalize(torch.randn(2, 8, generator=generator), dim=-1)[labels]
    losses = [contrastive_loss(images, texts, 10 * ONE, targets) for targets in (None, class_targets(labels))]
    diagonal, classes = (torch.autograd.grad(loss, images)[0] for loss in losses)
    assert torch.allclose(diagonal, classes, atol=1e-5)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"image_embeds.*\(2, 2\).*text_embeds.*\(3, 3\)"):
        contrastive_loss(EYE, torch.eye(3), ONE)


def test_zero_shot_logits_by_hand():
    assert torch.equal(zero_shot_logits(EYE, torch.tensor([[0.0, 1.0]]), 5 * ONE), torch.tensor([[0.0], [5.0]]))
