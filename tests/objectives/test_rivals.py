"""MAT, AdvFLYP, SAFT, Sim-CLIP, QT-AFT and AGFT on fixed embeddings, each against its equation in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_baselines import SCALE, kl, plain_attention_map, random, softmax, squared, unit

from hf_mmcoa.objectives import AGFT, FARE, MAT, QTAFT, SAFT, TGAZSR, AdvFLYP, Embeddings, SimCLIP, TeCoA
from hf_mmcoa.objectives.base import soft_labels

LABELS = ([0, 1, 0, 2], [2, 1, 2, 0])  # of the first and of the second caption


def caption(number):
    """The fields of one caption of each sample."""
    return {
        "logit_scale": torch.tensor(SCALE),
        "text_embeds": F.normalize(random(4, 8, seed=20 + number), dim=-1),
        "adv_text_embeds": F.normalize(random(4, 8, seed=30 + number), dim=-1),
        "prompt_embeds": F.normalize(random(3, 8, seed=40 + number), dim=-1),
        "labels": torch.tensor(LABELS[number]),
    }


@pytest.fixture
def embeds():
    """Two captions an image. Features have lengths well away from 1, so that a forgotten normalisation shows."""
    adversarial = 3 * random(4, 8, seed=1)
    return Embeddings(
        **caption(0),
        adv_image_embeds=F.normalize(adversarial, dim=-1),
        adv_image_features=adversarial,
        image_features=3 * random(4, 8, seed=2),
        teacher_image_features=3 * random(4, 8, seed=3),
        teacher_adv_image_features=3 * random(4, 8, seed=4),
        patches=random(4, 4, 8, seed=5),
        adv_patches=random(4, 4, 8, seed=6),
        teacher_patches=random(4, 4, 8, seed=7),
        more_captions=[Embeddings(**caption(1))],
    )


def alone(embeds, **fields):
    """The same embeddings with one caption an image, and other changes."""
    return Embeddings(**{**vars(embeds), "more_captions": (), **fields})


def contrastive(images, texts):
    logits = SCALE * unit(images) @ unit(texts).T
    return -np.log(np.diag(softmax(logits))).mean() - np.log(np.diag(softmax(logits.T))).mean()


def class_loss(features, embeds):
    probabilities = softmax(SCALE * unit(features) @ unit(embeds.prompt_embeds).T)
    return -np.log(probabilities[range(4), embeds.labels]).mean()


def test_mat_contrasts_attacked_images_with_attacked_texts(embeds):
    loss, terms = MAT()(alone(embeds))
    assert loss.item() == pytest.approx(contrastive(embeds.adv_image_features, embeds.adv_text_embeds), rel=1e-5)
    assert terms == {"loss_multimodal": loss} and not MAT().reads_captions


def test_mat_plus_takes_the_mean_over_the_captions_of_an_image(embeds):
    loss, _ = MAT(one_to_many=True)(embeds)
    both = [contrastive(embeds.adv_image_features, each.adv_text_embeds) for each in embeds.caption_sets]
    assert loss.item() == pytest.approx(sum(both) / 2, rel=1e-5) and both[0] != pytest.approx(both[1], rel=0.01)
    assert MAT(one_to_many=True).reads_captions
    assert MAT(one_to_many=True)(alone(embeds))[0] == MAT()(alone(embeds))[0]


def test_soft_targets_of_each_caption_are_read(embeds):
    other = Embeddings(**{**caption(1), "targets": torch.full((4, 4), 0.25)})
    changed, _ = MAT(one_to_many=True)(alone(embeds, more_captions=[other]))
    plain, _ = MAT(one_to_many=True)(embeds)
    logits = SCALE * unit(embeds.adv_image_features) @ unit(other.adv_text_embeds).T
    uniform = -np.log(softmax(logits)).mean() - np.log(softmax(logits.T)).mean()
    diagonal = contrastive(embeds.adv_image_features, other.adv_text_embeds)
    assert (changed - plain).item() == pytest.approx((uniform - diagonal) / 2, rel=1e-4)


def test_advflyp_adds_terms_of_logits_and_of_features(embeds):
    loss, terms = AdvFLYP(logit_weight=0.5, feature_weight=2.0)(embeds)
    student, teacher, clean = (
        unit(features)
        for features in (embeds.adv_image_features, embeds.teacher_adv_image_features, embeds.image_features)
    )
    texts = unit(embeds.text_embeds)
    p, p0, own = (softmax(SCALE * images @ texts.T) for images in (student, teacher, clean))
    image = contrastive(embeds.adv_image_features, embeds.text_embeds) / 2
    logits = (kl(p, p0) + kl(p, own)).mean()
    features = (np.linalg.norm(student - teacher, axis=1) + np.linalg.norm(student - clean, axis=1)).mean()
    assert terms["loss_image"].item() == pytest.approx(image, rel=1e-5)
    assert terms["loss_logits"].item() == pytest.approx(logits, rel=1e-4)
    assert terms["loss_features"].item() == pytest.approx(features, rel=1e-5)
    assert loss.item() == pytest.approx(image + 0.5 * logits + 2 * features, rel=1e-4)
    assert (AdvFLYP().logit_weight, AdvFLYP().feature_weight) == (1.0, 1.0)  # the authors' script


def test_advflyp_sends_a_gradient_through_the_clean_image(embeds):
    own = embeds.image_features.requires_grad_()
    AdvFLYP()(embeds)[0].backward()
    assert own.grad.abs().sum() > 0


def test_saft_takes_the_mean_over_captions_in_the_class_loss_and_in_the_attention(embeds):
    loss, terms = SAFT(image_size=6, adv_weight=0.5, clean_weight=0.25)(embeds)
    classes = sum(class_loss(embeds.adv_image_features, each) for each in embeds.caption_sets) / 2
    own = sum(each.prompt_embeds[each.labels] for each in embeds.caption_sets) / 2
    teacher = plain_attention_map(embeds.teacher_patches, own, 6)
    adversarial, clean = (
        np.linalg.norm(plain_attention_map(patches, own, 6) - teacher, axis=1).mean()
        for patches in (embeds.adv_patches, embeds.patches)
    )
    assert terms["loss_image"].item() == pytest.approx(classes, rel=1e-5)
    assert loss.item() == pytest.approx(classes + 0.5 * adversarial + 0.25 * clean, rel=1e-4)
    assert (SAFT(image_size=6).adv_weight, SAFT(image_size=6).clean_weight) == (0.08, 0.05)  # the authors' code


def test_saft_with_one_caption_is_tga_zsr(embeds):
    one = alone(embeds)
    assert SAFT(image_size=6)(one)[0].item() == pytest.approx(TGAZSR(image_size=6)(one)[0].item(), rel=1e-6)


def test_sim_clip_is_the_negative_cosine_and_each_branch_follows_the_other_held_fixed(embeds):
    adversarial, clean = embeds.adv_image_features.requires_grad_(), embeds.image_features.requires_grad_()
    loss, _ = SimCLIP()(embeds)
    assert loss.item() == pytest.approx(-(unit(adversarial.detach()) * unit(clean.detach())).sum(1).mean(), rel=1e-5)
    found = torch.autograd.grad(loss, (adversarial, clean))
    for own, other, grad in ((adversarial, clean, found[0]), (clean, adversarial, found[1])):
        rows, others = own.detach().numpy().astype(np.float64), unit(other.detach())
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        along = (unit(own.detach()) * others).sum(1, keepdims=True)
        by_hand = -(others - along * rows / length) / length / 2 / len(rows)  # of -cos / 2, the other side fixed
        assert np.allclose(grad.numpy(), by_hand, atol=1e-6)


def test_qt_aft_adds_the_caption_to_fare(embeds):
    loss, terms = QTAFT(caption_weight=3.0)(embeds)
    distance = squared(embeds.adv_image_features, embeds.teacher_image_features)
    expected = class_loss(embeds.adv_image_features, embeds)
    assert loss.item() == pytest.approx(distance + 3 * expected, rel=1e-5)
    assert terms == {"loss_image": FARE()(embeds)[0], "loss_caption": TeCoA()(embeds)[0]}
    assert QTAFT().caption_weight == QTAFT().attack_class_weight == 10.0  # the authors' script


def test_agft_follows_the_frozen_models_softened_distribution(embeds):
    loss, _ = AGFT(scale_ratio=0.25)(embeds)
    prompts = unit(embeds.prompt_embeds)
    labels = softmax(0.25 * SCALE * unit(embeds.teacher_image_features) @ prompts.T)
    logs = np.log(softmax(SCALE * unit(embeds.adv_image_features) @ prompts.T))
    assert loss.item() == pytest.approx(-(labels * logs).sum(1).mean(), rel=1e-5)
    assert AGFT().scale_ratio == AGFT().soft_label_scale == 0.4  # the authors' command
    found = soft_labels(embeds.teacher_image_features, embeds.prompt_embeds, torch.tensor(0.25 * SCALE))
    assert np.allclose(found.numpy(), labels, atol=1e-6)


@pytest.mark.parametrize("objective", [MAT(), AdvFLYP(), SAFT(image_size=6), SimCLIP(), QTAFT(), AGFT()], ids=repr)
def test_only_what_is_read_is_asked_for(objective, embeds):
    kept = {
        "adv_images": ("adv_image_features", "adv_image_embeds"),
        "images": ("image_features",),
        "texts": ("text_embeds",),
        "adv_texts": ("adv_text_embeds",),
        "prompts": ("prompt_embeds",),
        "patches": ("patches",),
        "adv_patches": ("adv_patches",),
        "teacher_images": ("teacher_image_features",),
        "teacher_adv_images": ("teacher_adv_image_features",),
        "teacher_patches": ("teacher_patches",),
    }
    one = alone(embeds)
    given = {name: getattr(one, name) for view in objective.views for name in kept[view]}
    assert objective(Embeddings(logit_scale=one.logit_scale, labels=one.labels, **given))[0] == objective(one)[0]


@pytest.mark.parametrize(
    ("objective", "trains", "attack"),
    [
        (MAT(), {"image", "text", "logit_scale"}, "class"),
        (AdvFLYP(), {"image"}, "class"),
        (SAFT(image_size=6), {"image"}, "class"),
        (SimCLIP(), {"image"}, "teacher"),
        (QTAFT(), {"image", "logit_scale"}, "teacher+class"),
        (AGFT(), {"image"}, "soft class"),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),  # the order of a set is random
)
def test_what_trains_and_what_images_are_moved_away_from(objective, trains, attack):
    assert objective.trains == trains and objective.image_attack_target == attack
    assert objective.attack_reads_teacher == (attack != "class") and objective.attack_reads_texts == (
        attack != "teacher"
    )
    assert not objective.needs_labels


def test_terms_of_weight_0_are_not_read(embeds):
    assert AdvFLYP(logit_weight=0, feature_weight=0).views == {"adv_images", "texts"}
    assert AdvFLYP(logit_weight=0, feature_weight=0)(embeds)[0] == AdvFLYP()(embeds)[1]["loss_image"]
    assert set(AdvFLYP(logit_weight=0)(embeds)[1]) == {"loss_image", "loss_features"}
    assert SAFT(image_size=6, adv_weight=0, clean_weight=0).views == {"adv_images", "prompts"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdvFLYP(feature_weight=-1), "`feature_weight` must not be negative, got -1"),
        (lambda: SAFT(image_size=6, adv_weight=-1), "`adv_weight` must not be negative, got -1"),
        (lambda: QTAFT(caption_weight=-1), "`caption_weight` must not be negative, got -1"),
        (lambda: AGFT(scale_ratio=0), "`scale_ratio` must be above 0, got 0"),
    ],
)
def test_weights_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
