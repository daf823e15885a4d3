"""The other defences on fixed embeddings, each compared with its equation written again in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hf_mmcoa.objectives import FARE, LEAF, PMGAFT, TGAZSR, Embeddings, FAREAndLEAF, MMCoA, TeCoA
from hf_mmcoa.objectives.tga_zsr import attention_map

SCALE = 7.0
LABELS = [0, 1, 0, 2]


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def embeds():
    """Un-normalised features of lengths well away from 1, so that a forgotten or superfluous normalisation shows."""
    return Embeddings(
        logit_scale=torch.tensor(SCALE),
        prompt_embeds=F.normalize(random(3, 8, seed=5), dim=-1),
        labels=torch.tensor(LABELS),
        image_features=3 * random(4, 8, seed=1),
        adv_image_features=3 * random(4, 8, seed=3),
        adv_text_features=2 * random(4, 8, seed=4),
        teacher_image_features=3 * random(4, 8, seed=6),
        teacher_adv_image_features=3 * random(4, 8, seed=7),
        teacher_text_features=2 * random(4, 8, seed=8),
        patches=random(4, 4, 8, seed=9),
        adv_patches=random(4, 4, 8, seed=10),
        teacher_patches=random(4, 4, 8, seed=11),
    )


def unit(rows):
    rows = rows.numpy().astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def probabilities(features, embeds, scale=SCALE):
    return softmax(scale * unit(features) @ embeds.prompt_embeds.numpy().astype(np.float64).T)


def cross_entropy(probs):
    return -np.log(probs[range(4), LABELS]).mean()


def kl(teacher, student):
    return (teacher * np.log(teacher / student)).sum(1)


def squared(one, other):
    return ((one - other).numpy().astype(np.float64) ** 2).sum(1).mean()


def test_tecoa_is_the_class_loss_of_attacked_images(embeds):
    loss, terms = TeCoA()(embeds)
    assert loss.item() == pytest.approx(cross_entropy(probabilities(embeds.adv_image_features, embeds)), rel=1e-5)
    assert terms["loss_image"] == loss


def test_fare_is_the_squared_distance_of_unnormalised_features(embeds):
    loss, _ = FARE()(embeds)
    adversarial = squared(embeds.adv_image_features, embeds.teacher_image_features)
    assert loss.item() == pytest.approx(adversarial, rel=1e-5)
    loss, terms = FARE(clean_weight=0.3)(embeds)
    clean = squared(embeds.image_features, embeds.teacher_image_features)
    assert loss.item() == pytest.approx(0.7 * adversarial + 0.3 * clean, rel=1e-5)
    assert terms["loss_clean"].item() == pytest.approx(clean, rel=1e-5)


def test_fare_trades_follows_its_own_clean_features_without_gradient_through_them(embeds):
    own = embeds.image_features.requires_grad_()
    loss, terms = FARE(clean_weight=0.3, trades=True)(embeds)
    expected = squared(embeds.adv_image_features, own.detach())
    assert terms["loss_image"].item() == pytest.approx(expected, rel=1e-5)
    (grad,) = torch.autograd.grad(loss, own)
    by_hand = 0.3 * 2 * (own - embeds.teacher_image_features) / 4  # of the clean term alone
    assert torch.allclose(grad, by_hand, rtol=1e-5)


def test_fare_of_an_unattacked_batch_is_0(embeds):
    same = Embeddings(
        logit_scale=embeds.logit_scale,
        adv_image_features=embeds.teacher_image_features,
        teacher_image_features=embeds.teacher_image_features,
    )
    assert FARE()(same)[0] == 0


def test_pmg_aft_adds_the_divergences_from_the_teacher_and_from_clean_images(embeds):
    p0, p, adversarial = (
        probabilities(features, embeds)
        for features in (embeds.teacher_adv_image_features, embeds.image_features, embeds.adv_image_features)
    )
    teacher, clean = kl(p0, adversarial).mean(), kl(p, adversarial).mean()
    loss, terms = PMGAFT(alpha=0.5, beta=2.0)(embeds)
    assert terms["loss_teacher"].item() == pytest.approx(teacher, rel=1e-5)
    assert terms["loss_clean"].item() == pytest.approx(clean, rel=1e-5)
    assert loss.item() == pytest.approx(cross_entropy(adversarial) + 0.5 * teacher + 2 * clean, rel=1e-5)


def test_pmg_aft_as_released_sums_plain_cosines(embeds):
    p0, p, adversarial = (
        probabilities(features, embeds, scale=1.0)
        for features in (embeds.teacher_adv_image_features, embeds.image_features, embeds.adv_image_features)
    )
    loss, _ = PMGAFT(release_scaling=True)(embeds)
    expected = cross_entropy(adversarial) + kl(p0, adversarial).sum() + kl(p, adversarial).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert PMGAFT().attack_with_logit_scale and not PMGAFT(release_scaling=True).attack_with_logit_scale


@pytest.mark.parametrize("release_scaling", [False, True])
def test_pmg_aft_holds_its_clean_teacher_fixed_except_as_released(embeds, release_scaling):
    embeds.image_features.requires_grad_()
    embeds.adv_image_features.requires_grad_()
    PMGAFT(release_scaling=release_scaling)(embeds)[0].backward()
    assert (embeds.image_features.grad is not None) == release_scaling
    assert embeds.adv_image_features.grad.abs().sum() > 0


def plain_attention_map(patches, text, size):
    """The map of docs/methods.md, section 6, computed for one picture at a time and resized by Pillow."""
    maps = []
    for tokens, own in zip(patches, text, strict=True):
        cosines = unit(tokens) @ own.numpy().astype(np.float64)
        spread = cosines.max() - cosines.min()
        flat = (cosines - cosines.min()) / spread if spread > 0 else np.zeros_like(cosines)
        side = math.isqrt(len(flat))
        picture = Image.fromarray(flat.reshape(side, side).astype(np.float32))
        maps.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).ravel())
    return np.stack(maps)


@pytest.mark.parametrize(("patches", "size"), [(4, 4), (4, 6), (9, 12), (16, 4)])
def test_the_attention_map_equals_a_plain_recomputation(patches, size):
    tokens, text = random(3, patches, 8, seed=1), F.normalize(random(3, 8, seed=2), dim=-1)
    found = attention_map(tokens, text, size)
    assert found.shape == (3, size * size)
    assert np.allclose(found.numpy(), plain_attention_map(tokens, text, size), atol=1e-5)
    assert torch.allclose(found, attention_map(5 * tokens, text, size), atol=1e-5)  # normalised over channels


def test_a_flat_attention_map_is_zero_and_has_finite_gradients():
    tokens = torch.ones(1, 4, 8, requires_grad=True)
    found = attention_map(tokens, F.normalize(torch.ones(1, 8), dim=-1), 4)
    assert torch.equal(found, torch.zeros(1, 16))
    found.sum().backward()
    assert torch.isfinite(tokens.grad).all()


def test_patches_of_no_square_are_refused():
    with pytest.raises(ValueError, match="square grid, got 6"):
        attention_map(torch.ones(1, 6, 8), torch.ones(1, 8), 4)


def test_tga_zsr_ties_both_attention_maps_to_the_clean_one_of_the_teacher(embeds):
    loss, terms = TGAZSR(image_size=6, adv_weight=0.5, clean_weight=0.25)(embeds)
    own = embeds.prompt_embeds[LABELS]
    teacher = plain_attention_map(embeds.teacher_patches, own, 6)
    adversarial, clean = (
        np.linalg.norm(plain_attention_map(patches, own, 6) - teacher, axis=1).mean()
        for patches in (embeds.adv_patches, embeds.patches)
    )
    assert terms["loss_attention"].item() == pytest.approx(adversarial, rel=1e-4)
    assert terms["loss_clean_attention"].item() == pytest.approx(clean, rel=1e-4)
    class_loss = cross_entropy(probabilities(embeds.adv_image_features, embeds))
    assert loss.item() == pytest.approx(class_loss + 0.5 * adversarial + 0.25 * clean, rel=1e-5)
    assert (TGAZSR(image_size=6).adv_weight, TGAZSR(image_size=6).clean_weight) == (0.08, 0.05)  # the paper's


def test_leaf_is_the_squared_distance_of_unnormalised_text_features(embeds):
    loss, terms = LEAF()(embeds)
    expected = squared(embeds.adv_text_features, embeds.teacher_text_features)
    assert loss.item() == pytest.approx(expected, rel=1e-5) and terms["loss_text"] == loss


def test_mmcoa_may_add_a_class_term_and_the_distillation_of_leaf(embeds):
    loss, terms = MMCoA(lambda_image=0, lambda_text=0, lambda_class=0.5, lambda_distill=0.25)(embeds)
    assert terms == {"loss_class": TeCoA()(embeds)[0], "loss_distill": LEAF()(embeds)[0]}
    assert loss.item() == pytest.approx((0.5 * terms["loss_class"] + 0.25 * terms["loss_distill"]).item())


def test_fare_and_leaf_is_their_sum(embeds):
    fare = FARE(clean_weight=0.3)
    loss, terms = FAREAndLEAF(fare=fare)(embeds)
    assert loss == fare(embeds)[0] + LEAF()(embeds)[0]
    assert set(terms) == {"loss_image", "loss_clean", "loss_text"}


VIEWS = {
    "adv_images": "adv_image_features",
    "images": "image_features",
    "prompts": "prompt_embeds",
    "adv_texts": "adv_text_features",
    "patches": "patches",
    "adv_patches": "adv_patches",
    "teacher_images": "teacher_image_features",
    "teacher_adv_images": "teacher_adv_image_features",
    "teacher_texts": "teacher_text_features",
    "teacher_patches": "teacher_patches",
}


@pytest.mark.parametrize(
    ("objective", "views", "trains"),
    [
        (TeCoA(), {"adv_images", "prompts"}, {"image"}),
        (FARE(), {"adv_images", "teacher_images"}, {"image"}),
        (FARE(clean_weight=0.5), {"adv_images", "teacher_images", "images"}, {"image"}),
        (PMGAFT(), {"adv_images", "prompts", "images", "teacher_adv_images"}, {"image"}),
        (PMGAFT(alpha=0, beta=0), {"adv_images", "prompts"}, {"image"}),
        (TGAZSR(image_size=6), {"adv_images", "prompts", "patches", "adv_patches", "teacher_patches"}, {"image"}),
        (TGAZSR(image_size=6, adv_weight=0), {"adv_images", "prompts", "patches", "teacher_patches"}, {"image"}),
        (LEAF(), {"adv_texts", "teacher_texts"}, {"text"}),
        (
            MMCoA(lambda_image=0, lambda_text=0, lambda_class=1, lambda_distill=1),
            {"adv_images", "prompts", "adv_texts", "teacher_texts"},
            {"image", "text", "logit_scale"},
        ),
        (FAREAndLEAF(), {"adv_images", "teacher_images", "adv_texts", "teacher_texts"}, {"image", "text"}),
    ],
    ids=lambda value: repr(value) if not isinstance(value, set) else "",
)
def test_only_what_is_read_is_asked_for_and_only_what_the_paper_trains_is_trained(objective, views, trains, embeds):
    assert objective.views == views and objective.trains == trains
    given = {name: getattr(embeds, name) for view, name in VIEWS.items() if view in views}
    alone = Embeddings(logit_scale=embeds.logit_scale, labels=embeds.labels, **given)
    assert objective(alone)[0] == objective(embeds)[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FARE(clean_weight=1.5), r"`clean_weight` must be in \[0, 1\], got 1.5"),
        (lambda: FARE(trades=True), "`trades` with `clean_weight=0`"),
        (lambda: PMGAFT(alpha=-1), "`alpha` must not be negative, got -1"),
        (lambda: TGAZSR(image_size=8, clean_weight=-1), "`clean_weight` must not be negative, got -1"),
    ],
)
def test_weights_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
