"""Test-time defences keep the contract of `Defence`, and do what their papers say."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mmcoa.defences import RTPT, TTC, GaussianNoise, ImageDefence, Quantise, prompt_tuning
from hf_mmcoa.defences.defence import classify
from hf_mmcoa.defences.views import random_views
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["This is a photo of a cat", "This is a photo of a dog", "This is a photo of a red car"]
DEFENCES = [
    TTC(epsilon=0.1, step_size=0.05),
    RTPT(num_views=6, selected=0.4, neighbours=2),
    GaussianNoise(sigma=0.1),
    Quantise(levels=4),
]
OF_IMAGES = [defence for defence in DEFENCES if isinstance(defence, ImageDefence)]


@pytest.fixture
def encoder(tiny_clip, tiny_processor) -> DualEncoder:
    return DualEncoder(tiny_clip.eval(), tiny_processor)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("defence", DEFENCES, ids=repr)
def test_same_seed_same_answer_and_the_model_stays_as_it_was(defence, encoder, images):
    before = {name: weight.clone() for name, weight in encoder.model.state_dict().items()}
    state = torch.random.get_rng_state()
    with torch.no_grad():
        logits = defence(images, PROMPTS, encoder, seeded(1))
        assert torch.equal(logits, defence(images, PROMPTS, encoder, seeded(1)))
    assert logits.shape == (4, 3) and logits.isfinite().all()
    different = not torch.equal(logits, defence(images, PROMPTS, encoder, seeded(2)).detach())
    assert different is not isinstance(defence, Quantise)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in encoder.model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("defence", DEFENCES, ids=repr)
def test_images_are_answered_one_by_one(defence, encoder, images):
    """No image's answer depends on the others of its batch, except for what is drawn."""
    images = images[:1].repeat(3, 1, 1, 1)
    changed = torch.cat([images[:1], 1 - images[1:]])
    first = [defence(batch, PROMPTS, encoder, seeded(0))[0] for batch in (images, changed)]
    assert torch.allclose(*first, atol=1e-4)


@pytest.mark.parametrize("defence", OF_IMAGES, ids=repr)
def test_purified_images_are_images(defence, encoder, images):
    purified = defence.purify(images, encoder, seeded(0))
    assert purified.shape == images.shape and purified.min() >= 0 and purified.max() <= 1
    assert not torch.equal(purified, images)
    assert torch.equal(defence(images, PROMPTS, encoder, seeded(0)), classify(purified, PROMPTS, encoder))


def test_quantised_pixels_take_few_values(encoder, images):
    assert len(Quantise(levels=3).purify(images, encoder).unique()) == 3


def test_a_counterattack_moves_the_embedding_farther_than_noise(encoder, images):
    features = encoder.image_features(images)[0]

    def shift(**settings: float) -> torch.Tensor:
        purified = TTC(epsilon=0.05, step_size=0.02, **settings).purify(images, encoder, seeded(3))
        assert (purified - images).abs().max() <= 0.05 + 1e-6
        return (encoder.image_features(purified)[0] - features).norm(dim=1)

    noise, attacked = shift(num_steps=0), shift(num_steps=3, threshold=math.inf)
    assert (attacked > 1.2 * noise).all()
    assert torch.equal(shift(num_steps=3, threshold=0), noise)  # all count as unstable: noise alone
    assert (shift(num_steps=3, threshold=math.inf, beta=0) < attacked).all()  # early steps weigh as much as late ones


def test_the_threshold_tells_stable_images_from_others(encoder, images):
    features = encoder.image_features(images)[0]
    noisy = TTC(num_steps=0, epsilon=0.1).purify(images, encoder, seeded(0))
    drift = (encoder.image_features(noisy)[0] - features).norm(dim=1) / features.norm(dim=1)
    threshold = drift.detach().sort().values[1:3].mean().item()
    purified = TTC(epsilon=0.1, step_size=0.05, threshold=threshold).purify(images, encoder, seeded(0))
    attacked = (purified != noisy).flatten(1).any(1)
    assert torch.equal(attacked, drift < threshold) and attacked.sum() == 2


def test_unrolling_a_counterattack_gives_the_identity(encoder, images):
    """The signs of its steps stay while the image changes little, so its change moves with the image."""
    encoder.model.double()
    images, defence = (0.3 + 0.4 * images[:1]).double(), TTC(epsilon=0.05, step_size=0.02, threshold=math.inf)
    direction = torch.randn(images.shape, generator=seeded(5), dtype=images.dtype)
    small = 1e-9
    moved = defence.purify(images + small * direction, encoder, seeded(0)) - defence.purify(images, encoder, seeded(0))
    assert torch.allclose(moved / small, direction, atol=1e-3)


def test_views_hold_the_image_and_parts_of_it(images):
    views = random_views(images, 9, seeded(0), smallest=0.25, flip=0)
    assert views.shape == (4, 9, 3, 32, 32) and torch.equal(views[:, 0], images)
    assert views.min() >= images.min() and views.max() <= images.max()
    assert not torch.allclose(views[:, 1], views[:, 2])
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    unflipped, flipped = (random_views(ramp, 5, seeded(0), flip=flip)[0, 1:, 0, 0] for flip in (0, 1))
    assert (unflipped.diff() >= 0).all() and (flipped.diff() <= 0).all()
    widths = (unflipped[:, -1] - unflipped[:, 0]).clamp(min=0)
    assert widths.min() < 0.9 and widths.max() <= 1


def test_tuning_makes_the_confident_views_surer(encoder, images):
    defence = RTPT(num_views=8, selected=1.0, neighbours=3, learning_rate=0.05, num_steps=5, smallest=0.5)
    untuned = RTPT(num_views=8, selected=1.0, neighbours=3, learning_rate=0.0, num_steps=5, smallest=0.5)

    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)

    with torch.no_grad():
        after, before = (entropy(each(images, PROMPTS, encoder, seeded(0))) for each in (defence, untuned))
    assert (after < before).all()


def test_without_tuning_the_vote_is_a_weighted_mean_of_the_views(encoder, images):
    defence = RTPT(num_views=5, num_steps=0, neighbours=2, temperature=0.1)
    with torch.no_grad():
        logits = defence(images, PROMPTS, encoder, seeded(0))
        views = random_views(images, 5, seeded(0))
        for row in range(4):
            embeds = encoder.encode_images(views[row])
            cosines = (embeds @ embeds.T).fill_diagonal_(-2)
            reliability = cosines.sort(descending=True).values[:, :2].mean(1)
            weights = (reliability / 0.1).softmax(0)
            assert torch.allclose(logits[row], weights @ classify(views[row], PROMPTS, encoder), atol=1e-4)


def test_prompts_without_a_common_beginning_are_refused(encoder, images):
    with pytest.raises(ValueError, match="share none"):
        RTPT(num_views=2)(images, ["cat photo", "dog photo"], encoder)


def test_the_gradient_goes_through_the_tuning(encoder, images, monkeypatch):
    """Against finite differences. A large epsilon of AdamW lets the step follow the size of its gradient."""
    monkeypatch.setattr(prompt_tuning, "ADAM", (0.9, 0.999, 1.0))
    encoder.model.requires_grad_(False)
    images, defence = 0.2 + 0.6 * images[:1], RTPT(num_views=4, neighbours=2, selected=1.0, learning_rate=30.0)
    direction = torch.randn(images.shape, generator=seeded(5))

    def value(points: torch.Tensor) -> torch.Tensor:
        return defence(points, PROMPTS, encoder, seeded(0))[0, 0]

    points = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(points), points)
    with torch.no_grad():
        slope = (value(images + 0.001 * direction) - value(images - 0.001 * direction)) / 0.002
    assert float((grad * direction).sum()) == pytest.approx(float(slope), rel=0.02)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TTC(epsilon=8), "epsilon"),
        (lambda: TTC(num_steps=-1), "num_steps"),
        (lambda: TTC(threshold=float("nan")), "threshold"),
        (lambda: TTC(beta=-1), "beta"),
        (lambda: RTPT(num_views=1), "num_views"),
        (lambda: RTPT(selected=0), "selected"),
        (lambda: RTPT(flip=2), "flip"),
        (lambda: RTPT(temperature=0), "temperature"),
        (lambda: GaussianNoise(sigma=-1), "sigma"),
        (lambda: Quantise(levels=1), "levels"),
    ],
)
def test_a_setting_out_of_range_is_named(make, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        make()
