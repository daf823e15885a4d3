"""RobustBench's rules: a sound classifier passes them, and each way of breaking one is seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import grad as another_name

from hf_mmcoa.evaluation.rules import check_rules
from hf_mmcoa.zero_shot import ZeroShotClassifier

GRADIENTS, RANDOMNESS, LOOP = (
    "non-zero gradients",
    "no randomness in the forward pass",
    "no optimisation loop in the forward pass",
)


class Linear(nn.Module):
    """Three classes, with something done to the images first."""

    def __init__(self, before=lambda images, layer: images):
        super().__init__()
        self.layer, self.before = nn.Linear(3 * 4 * 4, 3), before

    def forward(self, images):
        return self.layer(self.before(images, self.layer).flatten(1))


def purify(images, layer):
    """Descend the norm of the logits with autograd, called by another name than its own."""
    with torch.enable_grad():
        moved = images.detach().requires_grad_()
        for _ in range(3):
            (step,) = another_name(layer(moved.flatten(1)).square().sum(), moved)
            moved = (moved - 0.1 * step).detach().requires_grad_()
    return moved if not images.requires_grad else images + (moved - images).detach()


def backward(images, layer):
    with torch.enable_grad():
        moved = images.detach().clone().requires_grad_()
        layer(moved.flatten(1)).sum().backward()
    layer.zero_grad()
    return images


def search(images, layer):
    """Try points without any gradient, and keep the one of largest logit."""
    tried = [images, images * 0.9, images * 0.8]
    return tried[max(range(3), key=lambda at: layer(tried[at].flatten(1)).max().item())]


def broken(classifier):
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return [one["check"] for one in check_rules(classifier, images) if not one["passed"]]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda images, layer: images, []),
        (lambda images, layer: images.round(), [GRADIENTS]),
        (lambda images, layer: images.detach(), [GRADIENTS]),
        (lambda images, layer: images + 0.1 * torch.randn_like(images), [RANDOMNESS]),
        (purify, [LOOP]),
        (backward, [LOOP]),
        (search, [LOOP]),
    ],
    ids=["sound", "rounds", "detaches", "draws noise", "autograd", "backward", "search"],
)
def test_each_rule(before, expected):
    torch.manual_seed(0)
    assert broken(Linear(before)) == expected


def test_a_function_is_a_classifier_too():
    weights = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    assert broken(lambda images: images.flatten(1) @ weights) == []


def test_a_clip_keeps_the_rules_and_is_left_as_it_was(tiny_clip, tiny_processor, images):
    classifier = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog", "car"]).eval()
    findings = check_rules(classifier, images)
    assert [one["passed"] for one in findings] == [True, True, True], findings
    assert not any(module._forward_pre_hooks for module in classifier.modules())
    assert all(weight.grad is None for weight in classifier.parameters())


def test_a_classifier_with_dropout_is_random(tiny_clip, tiny_processor, images):
    tiny_clip.vision_model.post_layernorm = nn.Sequential(tiny_clip.vision_model.post_layernorm, nn.Dropout(0.5))
    classifier = ZeroShotClassifier(tiny_clip, tiny_processor, ["cat", "dog", "car"]).train()
    torch.manual_seed(0)
    assert RANDOMNESS in [one["check"] for one in check_rules(classifier, images) if not one["passed"]]
