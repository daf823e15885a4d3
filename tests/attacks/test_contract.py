"""The contract of `hf_mmcoa.attacks.contracts`, for every attack: a new attack is a new row here."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import (
    APGD,
    PGD,
    SGA,
    AutoAttack,
    BertAttack,
    CoAttack,
    Diversity,
    Expectation,
    FamilyAttack,
    Joint,
    LevenshteinAttack,
    Momentum,
    Restarts,
    StrongAttack,
    SynonymTable,
    TextEmbeddingPGD,
)
from hf_mmcoa.families import text_families
from hf_mmcoa.losses import zero_shot_logits
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.models.encoding import text_embeds

EPSILON = 0.1
LINF = PGD(epsilon=EPSILON, step_size=0.04, num_steps=4)
L2 = PGD(epsilon=EPSILON, step_size=0.04, num_steps=4, norm="l2")
WORDS = BertAttack(candidates=SynonymTable({"cat": ("feline", "small"), "dog": ("hound", "large")}), max_changes=1)
CHARACTERS = LevenshteinAttack(max_edits=1, num_samples=5)
PROMPTS = ["This is a photo of a cat", "This is a photo of a dog", "a red car", "a large automobile"]

IMAGE_ATTACKS = [
    LINF,
    L2,
    PGD(epsilon=EPSILON, step_size=0.04, num_steps=4, random_start=False),
    Restarts(LINF, times=2),
    Restarts(L2, times=2),
    Momentum(LINF, decay=0.9),
    Momentum(L2, decay=0.9),
    Diversity(LINF, probability=0.7, smallest=0.8),
    Diversity(Momentum(L2)),
    Expectation(LINF, times=2),
    APGD(epsilon=EPSILON, num_steps=6),
    APGD(epsilon=EPSILON, num_steps=6, norm="l2"),
]
CLASSIFIER_ATTACKS = [
    StrongAttack(epsilon=EPSILON, num_steps=3, num_targets=2),
    StrongAttack(epsilon=EPSILON, num_steps=3, norm="l2"),
    AutoAttack(epsilon=0.5, version="apgd-ce"),
    AutoAttack(epsilon=0.5, version="apgd-t"),
    AutoAttack(epsilon=0.5, version="fab"),
]
MULTIMODAL_ATTACKS = [
    CoAttack(text_attack=WORDS, epsilon=EPSILON, num_steps=3),
    CoAttack(text_attack=CHARACTERS, epsilon=EPSILON, num_steps=3, norm="l2"),
    SGA(text_attack=WORDS, image_attack=LINF),
    Joint(text_attack=WORDS, image_attack=L2),
    Joint(text_attack=WORDS, image_attack=LINF, attacked_prompts="true"),
]
STRING_ATTACKS = [
    WORDS,
    BertAttack(candidates=WORDS.candidates, max_changes=2),
    CHARACTERS,
    LevenshteinAttack(max_edits=2, num_samples=None, num_slots=2, alphabet="xy "),
    FamilyAttack(families=text_families("affixes|plural-and-article"), num_variants=5),
]
Call = Callable[..., Tensor]


@pytest.fixture
def model(tiny_clip: CLIPModel) -> CLIPModel:
    """In training mode, with one frozen weight and gradients on another: all of it must stay."""
    tiny_clip.train()
    tiny_clip.text_projection.weight.requires_grad_(False)
    tiny_clip.logit_scale.grad = torch.tensor(3.0)
    tiny_clip.visual_projection.eval()
    return tiny_clip


def setup(attack: Any, model: CLIPModel, processor: CLIPProcessor) -> tuple[Call, Callable[[Tensor], Tensor]]:
    """`run(attack, images, generator, fail=...)` for any attack on images, and the loss that it should have raised."""
    encoder = DualEncoder(model, processor)
    labels = torch.arange(2)
    with torch.no_grad():
        prompt_embeds, grey = encoder.encode_texts(PROMPTS), encoder.encode_images(torch.full((1, 3, 32, 32), 0.5))

    def logits_fn(images: Tensor) -> Tensor:
        # An untrained tower gives all images nearly one embedding: what is left of it tells them apart.
        return zero_shot_logits(encoder.encode_images(images.float()) - grey, prompt_embeds, encoder.logit_scale)

    def loss_fn(images: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits_fn(images), labels, reduction="none")

    def run(attack: Any, images: Tensor, generator: torch.Generator | None = None, fail: bool = False) -> Tensor:
        if isinstance(attack, tuple(map(type, MULTIMODAL_ATTACKS))):
            with failing(encoder.encode_images if fail else None) as encode_images:
                if encode_images:
                    encoder.encode_images = encode_images  # type: ignore[method-assign]
                return attack(images, labels, PROMPTS, encoder, generator).images
        if isinstance(attack, tuple(map(type, CLASSIFIER_ATTACKS))):
            with torch.no_grad():
                right = logits_fn(images).argmax(1)
            with failing(logits_fn if fail else None) as fn:
                return attack(images, fn or logits_fn, right, generator)
        with failing(loss_fn if fail else None) as fn:
            return attack(images, fn or loss_fn, generator)

    return run, loss_fn


@contextlib.contextmanager
def failing(function: Callable[..., Tensor] | None) -> Iterator[Callable[..., Tensor] | None]:
    """`function` that computes twice and raises on its third call, in the middle of an attack."""
    calls = []

    def fails_later(*args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of patience")
        return function(*args)  # type: ignore[misc]

    yield fails_later if function else None


def outside_state(model: CLIPModel) -> list[Any]:
    """Everything that an attack must leave as it found it, in a form that compares."""
    return [
        {name: weight.clone().tolist() for name, weight in model.state_dict().items() if weight.numel() < 100},
        {name: None if weight.grad is None else weight.grad.tolist() for name, weight in model.named_parameters()},
        {name: weight.requires_grad for name, weight in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        random.getstate(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        [len(module._forward_hooks) for module in model.modules()],
    ]


def without_budget(attack: Any) -> Any:
    """The same attack, with nothing allowed."""
    fields = {field.name for field in dataclasses.fields(attack)}
    zero = {name: 0 for name in ("epsilon", "max_changes", "max_edits", "num_variants", "rho") if name in fields}
    inner = {
        name: without_budget(getattr(attack, name))
        for name in ("attack", "image_attack", "text_attack")
        if name in fields
    }
    return dataclasses.replace(attack, **zero, **inner)


def excess(attack: Any, delta: Tensor) -> float:
    """By how much the largest perturbation leaves the attack's ball."""
    for name in ("attack", "image_attack"):
        if hasattr(attack, name):
            return excess(getattr(attack, name), delta)
    sizes = delta.flatten(1).abs().amax(1) if attack.norm == "linf" else delta.flatten(1).norm(dim=1)
    return sizes.max().item() - attack.epsilon


ON_IMAGES = [
    pytest.param(attack, marks=pytest.mark.slow if isinstance(attack, AutoAttack) else ())  # always 100 steps
    for attack in [*IMAGE_ATTACKS, *CLASSIFIER_ATTACKS, *MULTIMODAL_ATTACKS]
]


@pytest.fixture(autouse=True)
def needs_package(request: pytest.FixtureRequest) -> None:
    if isinstance(getattr(request.node, "callspec", None) and request.node.callspec.params.get("attack"), AutoAttack):
        pytest.importorskip("pyautoattack")


@pytest.mark.few(8)
@pytest.mark.parametrize("attack", ON_IMAGES, ids=repr)
def test_image_attack_stays_inside_and_leaves_everything_as_it_was(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    images = images[:2].double()  # a dtype that the model does not compute in
    images[0, :, 0], images[1, :, 0] = 0.0, 1.0  # edges of the range
    run, _ = setup(attack, model, tiny_processor)
    given, before = images.clone(), outside_state(model)

    adv_images = run(attack, images, torch.Generator().manual_seed(1))

    assert outside_state(model) == before
    assert torch.equal(images, given), "the images that were given are not the attack's to change"
    assert (adv_images.shape, adv_images.dtype, adv_images.device) == (images.shape, images.dtype, images.device)
    assert not adv_images.requires_grad and adv_images.grad_fn is None
    assert adv_images.min() >= 0 and adv_images.max() <= 1
    assert excess(attack, adv_images - images) <= 1e-6


@pytest.mark.parametrize("attack", ON_IMAGES, ids=repr)
def test_image_attack_leaves_everything_as_it_was_after_an_error(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    run, _ = setup(attack, model, tiny_processor)
    before = outside_state(model)

    with pytest.raises(RuntimeError, match="out of patience"):
        run(attack, images[:2], fail=True)

    assert outside_state(model) == before


@pytest.mark.few(6)
@pytest.mark.parametrize("attack", ON_IMAGES, ids=repr)
def test_image_attack_repeats_itself_and_follows_its_seed(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    run, _ = setup(attack, model.eval(), tiny_processor)

    first, again = (run(attack, images[:2], torch.Generator().manual_seed(1)) for _ in range(2))
    unseeded, unseeded_again = run(attack, images[:2]), run(attack, images[:2])
    other = run(attack, images[:2], torch.Generator().manual_seed(2))

    assert torch.equal(first, again) and torch.equal(unseeded, unseeded_again)
    fixed_start = getattr(attack, "random_start", True) is False or getattr(attack, "version", "") == "fab"
    assert torch.equal(first, other) == fixed_start  # FAB's first run starts at the image


@pytest.mark.few(6)
@pytest.mark.parametrize("attack", ON_IMAGES, ids=repr)
def test_image_attack_works_without_grad_and_under_autocast(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    run, _ = setup(attack, model.eval(), tiny_processor)
    expected = run(attack, images[:2])

    with torch.no_grad():
        assert torch.equal(run(attack, images[:2]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        before = outside_state(model)
        adv_images = run(attack, images[:2])
        assert outside_state(model) == before
    assert adv_images.dtype == images.dtype
    assert excess(attack, adv_images - images[:2]) <= 1e-6


@pytest.mark.parametrize("attack", ON_IMAGES, ids=repr)
def test_image_attack_without_budget_returns_the_input(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    run, _ = setup(attack, model, tiny_processor)

    adv_images = run(without_budget(attack), images[:2])

    assert torch.equal(adv_images, images[:2])
    assert adv_images.data_ptr() != images.data_ptr(), "a copy: changing the result must not change the input"


@pytest.mark.parametrize("attack", IMAGE_ATTACKS, ids=repr)
def test_image_attack_raises_every_loss(
    attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    run, loss_fn = setup(attack, model.eval(), tiny_processor)

    adv_images = run(attack, images[:2])

    with torch.no_grad():
        assert (loss_fn(adv_images) > loss_fn(images[:2])).all()


@pytest.mark.parametrize("attack", [TextEmbeddingPGD(rho=0.5, num_steps=3)], ids=repr)
def test_text_embedding_attack(attack: TextEmbeddingPGD, model: CLIPModel, tiny_processor: CLIPProcessor) -> None:
    encoder = DualEncoder(model, tiny_processor)
    tokens = encoder.tokenize(PROMPTS)
    with torch.no_grad():
        clean_embeds = text_embeds(model, tokens["input_ids"])
        clean = model.text_model.get_input_embeddings()(tokens["input_ids"])
    loss_fn = lambda embeds: (embeds - clean_embeds.flip(0)).square().sum(1)  # noqa: E731
    before = outside_state(model)

    perturbed = attack(model, **tokens, loss_fn=loss_fn)
    with torch.no_grad():
        again = attack(model, **tokens, loss_fn=loss_fn)
    with failing(loss_fn) as fails_later, pytest.raises(RuntimeError, match="out of patience"):
        attack(model, **tokens, loss_fn=fails_later)

    assert outside_state(model) == before
    assert perturbed.shape == clean.shape and perturbed.dtype == clean.dtype and not perturbed.requires_grad
    assert torch.equal(perturbed, again)
    radius = attack.rho * model.text_model.get_input_embeddings().weight.norm(dim=1).mean()
    assert 0 < (perturbed - clean).norm(dim=-1).max() <= radius + 1e-5
    assert torch.equal(without_budget(attack)(model, **tokens, loss_fn=loss_fn), clean)
    with torch.no_grad():
        assert (loss_fn(text_embeds(model, tokens["input_ids"], None, perturbed)) > loss_fn(clean_embeds)).all()


@pytest.mark.parametrize("attack", STRING_ATTACKS, ids=repr)
def test_string_attack(attack: Any, model: CLIPModel, tiny_processor: CLIPProcessor) -> None:
    encoder = DualEncoder(model, tiny_processor)
    texts = ["a photo of a dog", "a photo of a cat", "a photo of a dog", ""]
    before = outside_state(model)

    adv_texts = attack(texts, encoder.encode_texts)
    with torch.no_grad():
        assert attack(texts, encoder.encode_texts) == adv_texts
    with failing(encoder.encode_texts) as fails_later, pytest.raises(RuntimeError, match="out of patience"):
        for _ in range(3):
            attack(texts, fails_later)

    assert outside_state(model) == before
    assert isinstance(adv_texts, list) and len(adv_texts) == len(texts)
    assert adv_texts[0] == adv_texts[2] != texts[0] and adv_texts[1] != texts[1]
    assert attack([], encoder.encode_texts) == []
    assert without_budget(attack)(texts, encoder.encode_texts) == texts
    clean, moved = encoder.encode_texts(texts[:2]), encoder.encode_texts(adv_texts[:2])
    assert ((clean - moved).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    "attack", [attack for attack in STRING_ATTACKS if getattr(attack, "max_edits", 1) == 1], ids=repr
)
def test_variants_are_the_text_and_all_that_the_attack_may_write(
    attack: Any, tiny_clip: CLIPModel, tiny_processor: CLIPProcessor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    texts = ["a photo of a dog", "a photo of a cat"]

    variants = attack.variants(texts)

    assert [pool[0] for pool in variants] == texts
    assert all(len(set(pool)) == len(pool) > 1 for pool in variants)
    for pool, adv_text in zip(variants, attack(texts, encoder.encode_texts), strict=True):
        assert adv_text in pool
    assert without_budget(attack).variants(texts) == [[text] for text in texts]


@pytest.mark.parametrize("attack", MULTIMODAL_ATTACKS, ids=repr)
def test_multimodal_attack_writes_only_what_its_text_attack_may(
    attack: Any, tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    allowed = attack.text_attack.variants(PROMPTS)

    pairs = attack(images, torch.tensor([0, 1, 1, 3]), PROMPTS, encoder)

    assert len(pairs.prompts) == len(images)
    for prompts in pairs.prompts:
        assert all(prompt in pool for prompt, pool in zip(prompts, allowed, strict=True))
    assert pairs.logits(encoder).shape == (4, len(PROMPTS))
    with pytest.raises(ValueError, match="`labels` must lie in"):
        attack(images, torch.tensor([0, 1, 2, 4]), PROMPTS, encoder)
    with pytest.raises(ValueError, match="`labels` must be"):
        attack(images, torch.tensor([0]), PROMPTS, encoder)
