"""The maths, worked by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.losses import class_targets, contrastive_loss, worst_case_logits, zero_shot_logits

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


@pytest.mark.parametrize("every_class", [True, False])
def test_the_worst_case_is_the_worst_of_all_choices_of_one_text_per_class(every_class):
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(8, 3, generator=generator), dim=-1)
    classes, labels = torch.tensor([0, 1, 2, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 0, 1])
    logits = worst_case_logits(images, texts, classes, labels, torch.tensor(7.0), every_class)
    worst = F.cross_entropy(logits, labels, reduction="none")
    pools = [[row for row in range(8) if classes[row] == each] for each in range(3)]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        free = [pools[each] if every_class or each == label else [each] for each in range(3)]
        tried = [F.cross_entropy(7.0 * texts[list(choice)] @ image, label) for choice in itertools.product(*free)]
        assert worst[number].item() == pytest.approx(max(tried).item(), rel=1e-5)


def test_a_class_without_substitutes_keeps_its_prompt():
    texts = torch.eye(2)
    logits = worst_case_logits(texts, texts, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor(2.0), True)
    assert torch.equal(logits, 2 * torch.eye(2))
