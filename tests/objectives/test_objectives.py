"""Each objective on fixed embeddings, compared with its equation written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.losses import class_targets, contrastive_loss
from hf_mmcoa.objectives import Clean, Embeddings, MMCoA

SCALE = torch.tensor(7.0)


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def embeds():
    labels = torch.tensor([0, 1, 0, 2])
    return Embeddings(
        logit_scale=SCALE,
        image_embeds=unit(4, 8, seed=1),
        text_embeds=unit(4, 8, seed=2),
        adv_image_embeds=unit(4, 8, seed=3),
        adv_text_embeds=unit(4, 8, seed=4),
        targets=class_targets(labels),
        prompt_embeds=unit(3, 8, seed=5),
        labels=labels,
        iterate_embeds=unit(2, 4, 8, seed=6),
        image_features=3 * unit(4, 8, seed=1),
        pool_embeds=unit(6, 8, seed=7),
        pool_classes=torch.tensor([0, 1, 2, 1, 0, 0]),
    )


def test_mmcoa_is_adversarial_images_with_clean_texts_and_clean_images_with_adversarial_texts(embeds):
    loss, terms = MMCoA(lambda_image=0.3, lambda_text=0.9, lambda_clean=0.2)(embeds)
    image = contrastive_loss(embeds.adv_image_embeds, embeds.text_embeds, SCALE, embeds.targets)
    text = contrastive_loss(embeds.image_embeds, embeds.adv_text_embeds, SCALE, embeds.targets)
    clean = contrastive_loss(embeds.image_embeds, embeds.text_embeds, SCALE, embeds.targets)
    assert terms == {"loss_image": image, "loss_text": text, "loss_clean": clean}
    assert loss.item() == pytest.approx((0.3 * image + 0.9 * text + 0.2 * clean).item())


def test_the_text_term_may_be_the_worst_case_over_all_legal_texts(embeds):
    """The classes are those of the batch's four images; each is scored by hand against the pools of the fixture."""
    pools = [[0, 4, 5], [1, 3], [2]]
    cosines = (embeds.image_embeds @ embeds.pool_embeds.T).tolist()
    for adversary in ("own", "all"):
        losses = []
        for row, label in zip(cosines, embeds.labels.tolist(), strict=True):
            worst = [max(row[text] for text in pool) if adversary == "all" else row[pool[0]] for pool in pools]
            worst[label] = min(row[text] for text in pools[label])
            losses.append(math.log(sum(math.exp(SCALE * each) for each in worst)) - SCALE * worst[label])
        loss, terms = MMCoA(lambda_image=0, lambda_text=0.3, text_adversary=adversary)(embeds)
        assert terms["loss_text"].item() == pytest.approx(2 * float(sum(losses)) / 4, rel=1e-5)
        assert loss.item() == pytest.approx(0.3 * terms["loss_text"].item(), rel=1e-6)


def test_accumulated_attack_gradients_add_the_class_loss_of_every_iterate(embeds):
    plain, _ = MMCoA()(embeds)
    loss, terms = MMCoA(accumulate_attack_gradients=True)(embeds)
    expected = sum(
        F.cross_entropy(SCALE * iterate @ embeds.prompt_embeds.T, embeds.labels) for iterate in embeds.iterate_embeds
    )
    assert terms["loss_attack_iterates"].item() == pytest.approx(expected.item())
    assert (loss - plain).item() == pytest.approx(expected.item(), rel=1e-5)


def test_clean_is_the_contrastive_loss(embeds):
    loss, _ = Clean()(embeds)
    assert loss == contrastive_loss(embeds.image_embeds, embeds.text_embeds, SCALE, embeds.targets)


@pytest.mark.parametrize(
    ("objective", "views"),
    [
        (Clean(), {"images", "texts"}),
        (MMCoA(), {"adv_images", "texts", "images", "adv_texts"}),
        (MMCoA(lambda_text=0), {"adv_images", "texts"}),
        (MMCoA(lambda_image=0), {"images", "adv_texts"}),
        (MMCoA(text_adversary="all"), {"adv_images", "texts", "images", "text_pools"}),
        (MMCoA(lambda_text=0, accumulate_attack_gradients=True), {"adv_images", "texts", "prompts", "attack_iterates"}),
    ],
    ids=lambda value: repr(value) if not isinstance(value, set) else "",
)
def test_only_what_is_read_is_asked_for(objective, views, embeds):
    assert objective.views == views
    kept = {
        "images": "image_embeds",
        "adv_images": "adv_image_embeds",
        "texts": "text_embeds",
        "adv_texts": "adv_text_embeds",
        "prompts": "prompt_embeds",
        "attack_iterates": "iterate_embeds",
    }
    given = {name: getattr(embeds, name) for view, name in kept.items() if view in views}
    if "text_pools" in views:
        given |= {name: getattr(embeds, name) for name in ("image_features", "pool_embeds", "pool_classes")}
    alone = Embeddings(logit_scale=SCALE, targets=embeds.targets, labels=embeds.labels, **given)
    assert objective(alone)[0] == objective(embeds)[0]


@pytest.mark.parametrize("weights", [{"lambda_image": -1}, {"lambda_image": 0, "lambda_text": 0}])
def test_weights_that_make_no_loss_are_refused(weights):
    with pytest.raises(ValueError, match="lambda_image"):
        MMCoA(**weights)
