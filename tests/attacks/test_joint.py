from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import APGD, PGD, BertAttack, Joint, SynonymTable
from hf_mmcoa.attacks.image_losses import margin_loss
from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["a photo of a cat", "a dog", "a red car"]
WORDS = BertAttack(candidates=SynonymTable({"cat": ("feline", "small"), "dog": ("hound", "large")}))
LABELS = torch.tensor([0, 1, 2, 0])
STEPS = PGD(epsilon=0.2, step_size=0.05, num_steps=5)


def margins(pairs: object, encoder: DualEncoder) -> Tensor:
    return margin_loss(pairs.logits(encoder), LABELS)  # type: ignore[attr-defined]


def test_beats_each_side_alone_and_both_apart(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    with torch.no_grad():
        pools = PromptPools(WORDS.variants(PROMPTS), encoder.encode_texts)
        clean_prompts = encoder.encode_texts(PROMPTS)
        adv_prompts = encoder.encode_texts(WORDS(PROMPTS, encoder.encode_texts))

    def loss_against(prompt_embeds: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda images: margin_loss(encoder.logit_scale * encoder.encode_images(images) @ prompt_embeds.T, LABELS)

    clean_loss, adaptive_loss = loss_against(clean_prompts), loss_against(adv_prompts)
    found = margins(
        Joint(text_attack=WORDS, image_attack=APGD(epsilon=0.2, num_steps=20))(images, LABELS, PROMPTS, encoder),
        encoder,
    )

    with torch.no_grad():
        text_alone = margin_loss(
            pools.worst_logits(encoder.encode_images(images), LABELS, True, encoder.logit_scale), LABELS
        )
        image_alone = clean_loss(STEPS(images, clean_loss))
        independent = adaptive_loss(STEPS(images, clean_loss))
        adaptive = adaptive_loss(STEPS(images, adaptive_loss))
    assert (found > text_alone).all()
    for weaker in (image_alone, independent, adaptive):  # another search through the same images: no sample is promised
        assert found.mean() > weaker.mean()


def test_keeps_the_clean_image_where_the_image_attack_made_it_worse(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)

    def backwards(images: Tensor, loss_fn: object, generator: torch.Generator | None = None) -> Tensor:
        down = STEPS(images, lambda images: -loss_fn(images), generator)  # type: ignore[operator]
        return torch.cat([down[:2], STEPS(images, loss_fn, generator)[2:]])  # type: ignore[arg-type]

    pairs = Joint(text_attack=WORDS, image_attack=backwards)(images, LABELS, PROMPTS, encoder)

    assert torch.equal(pairs.images[:2], images[:2])
    assert ((pairs.images[2:] - images[2:]).abs().flatten(1).amax(1) > 0).all()


def test_true_changes_the_own_prompt_only_and_all_is_stronger(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    own = Joint(text_attack=WORDS, image_attack=STEPS, attacked_prompts="true")(images, LABELS, PROMPTS, encoder)
    both = Joint(text_attack=WORDS, image_attack=STEPS)(images, LABELS, PROMPTS, encoder)

    for label, prompts in zip(LABELS.tolist(), own.prompts, strict=True):
        assert all(prompt == PROMPTS[index] for index, prompt in enumerate(prompts) if index != label)
    assert any(
        prompt != PROMPTS[index]
        for label, prompts in zip(LABELS.tolist(), both.prompts, strict=True)
        for index, prompt in enumerate(prompts)
        if index != label
    )
    assert (margins(both, encoder) >= margins(own, encoder)).all()


def test_attacked_prompts_is_one_of_two() -> None:
    with pytest.raises(ValueError, match='`attacked_prompts` must be "all" or "true"'):
        Joint(text_attack=WORDS, image_attack=STEPS, attacked_prompts="none")  # type: ignore[arg-type]
