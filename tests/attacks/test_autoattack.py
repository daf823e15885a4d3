from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_mmcoa.attacks import AutoAttack
from hf_mmcoa.attacks.autoattack import _InputsOnly


@pytest.fixture
def classifier() -> nn.Module:
    """Linear, 5 classes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(5, 192, generator=torch.Generator().manual_seed(0)))
        model[1].bias.zero_()
    return model


@pytest.fixture
def few() -> Tensor:
    return 0.5 + 0.2 * torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize(
    "version", ["apgd-t", pytest.param("standard", marks=pytest.mark.slow)]
)  # 5,000 queries of Square
@pytest.mark.parametrize(("norm", "dual", "epsilon"), [("linf", 1, 0.02), ("l2", 2, 0.1)])
def test_breaks_what_can_be_broken_and_leaves_the_outside_alone(
    classifier: nn.Module, few: Tensor, norm: str, dual: int, epsilon: float, version: str
) -> None:
    pytest.importorskip("pyautoattack")
    with torch.no_grad():
        logits = classifier(few)
    labels, weight = logits.argmax(1), classifier[1].weight.detach()
    gaps = logits - logits.gather(1, labels[:, None])
    gain = (weight[None] - weight[labels][:, None]).norm(p=dual, dim=-1)
    breakable = (gaps + epsilon * gain).scatter(1, labels[:, None], -1).amax(1) > 0
    assert 2 < breakable.sum() < 22
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    states, trace = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()), sys.gettrace()

    adv_images = AutoAttack(epsilon=epsilon, norm=norm, version=version)(few, classifier, labels)

    assert torch.equal(classifier(adv_images).argmax(1) != labels, breakable)
    assert torch.equal(adv_images[~breakable], few[~breakable])
    assert all(weight.grad is None and weight.requires_grad for weight in classifier.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert sys.gettrace() is trace


def test_backward_reaches_the_images_alone(classifier: nn.Module, few: Tensor) -> None:
    """FAB calls `backward`, which would leave gradients on the classifier."""
    images = few.clone().requires_grad_()

    _InputsOnly.apply(images, classifier)[:, 0].sum().backward()

    torch.testing.assert_close(images.grad.flatten(1), classifier[1].weight[0].detach().expand(24, -1))
    assert all(weight.grad is None for weight in classifier.parameters())


def test_few_classes_say_what_is_left_out(classifier: nn.Module, few: Tensor) -> None:
    pytest.importorskip("pyautoattack")
    two_classes = lambda images: classifier(images)[:, :2]  # noqa: E731
    labels = two_classes(few[:2]).argmax(1)

    with pytest.warns(UserWarning, match="standard on 2 classes runs without apgd-t: apgd-t needs at least 4 classes"):
        adv_images = AutoAttack(epsilon=0.3)(few[:2], two_classes, labels)
    assert (two_classes(adv_images).argmax(1) != labels).all()
    with pytest.warns(UserWarning, match="rand on 2 classes runs without apgd-dlr"):
        AutoAttack(epsilon=0.3, version="rand")(few[:1], two_classes, labels[:1])
    with pytest.raises(ValueError, match='"apgd-t" is not for 3 classes: apgd-t needs at least 4'):
        AutoAttack(epsilon=0.3, version="apgd-t")(few, lambda images: classifier(images)[:, :3], torch.zeros(24).long())


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, classifier: nn.Module, few: Tensor) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"hf-mmcoa\[autoattack\]"):
        AutoAttack(epsilon=0.1)(few, classifier, torch.zeros(24).long())


@pytest.mark.parametrize(("name", "value"), [("norm", "l1"), ("version", "plus"), ("epsilon", 8)])
def test_setting_out_of_range_is_an_error(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        AutoAttack(**{"epsilon": 0.1, name: value})
