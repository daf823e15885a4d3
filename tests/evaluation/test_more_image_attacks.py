"""The attacks that a name reaches beside PGD and APGD: within the ball, and they mislead."""

from __future__ import annotations

import pytest
import torch
from squares import CLASS_NAMES

from hf_mmcoa.attacks import factory
from hf_mmcoa.attacks.class_prompts import FixedPrompts
from hf_mmcoa.attacks.engine import attack_images
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.zero_shot import ZeroShotClassifier

NAMES = ["fgsm", "mi-fgsm", "di-fgsm", "mi-di-fgsm", "eot-pgd", "pgd-targeted", "autoattack-apgd-dlr", "fab", "fab-t"]


def attacked(model, processor, dataset, name, epsilon=0.1, steps=6):
    classifier = ZeroShotClassifier(model, processor, CLASS_NAMES)
    batch = collate(ImageRows(dataset).__getitems__(list(range(12))))
    images, labels = batch["images"], batch["labels"]
    with torch.no_grad():
        right = classifier(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    prompts = FixedPrompts(classifier.prompt_embeds, classifier.encoder.logit_scale.detach())
    found = attack_images(
        factory.image_attack(name, ThreatModel(epsilon=epsilon, num_steps=steps)),
        images,
        labels,
        encode=classifier.encoder.encode_images,
        attacked=prompts,
        judged=prompts,
        generator=torch.Generator().manual_seed(0),
        skip_fallen=True,
    )
    return images, found


@pytest.mark.few(4)
@pytest.mark.parametrize("name", [*NAMES, "square"])
def test_a_named_attack_stays_in_the_ball_and_misleads(model, processor, dataset, name):
    """DI shows the loss shrunk images: with `skip_fallen` one of these must not be taken for the attacked image."""
    images, found = attacked(model, processor, dataset, name)
    assert (found.images - images).abs().max() <= 0.1 + 1e-6
    assert found.stands.float().mean() < 0.8 and len(images) > 6


def test_the_names_are_different_attacks(model, processor, dataset):
    results = {name: attacked(model, processor, dataset, name, 0.01)[1].images for name in NAMES[:5]}
    for one in results:
        for other in results:
            assert one == other or not torch.equal(results[one], results[other]), (one, other)
