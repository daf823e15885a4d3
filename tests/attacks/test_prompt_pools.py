from __future__ import annotations

import itertools

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import AdversarialPairs, BertAttack, SynonymTable
from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.models.encoder import DualEncoder

PROMPTS = ["a photo of a cat", "a dog", "a red car"]
WORDS = BertAttack(candidates=SynonymTable({"cat": ("feline", "small"), "dog": ("hound",)}))
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("others", [True, False])
def test_worst_prompts_are_those_of_the_largest_margin_among_all_combinations(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, others: bool
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    pools = PromptPools(WORDS.variants(PROMPTS), encoder.encode_texts)
    embeds = torch.nn.functional.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), dim=1)

    with torch.no_grad():
        logits, prompts = (
            pools.worst_logits(embeds, LABELS, others, encoder.logit_scale),
            pools.worst_prompts(embeds, LABELS, others),
        )

        for row, label in enumerate(LABELS.tolist()):
            choices = [pool if others or index == label else pool[:1] for index, pool in enumerate(pools.texts)]
            assert list(map(len, choices))[label] == (3, 2, 1)[label]
            found = {
                combination: (encoder.logit_scale * encoder.encode_texts(list(combination)) @ embeds[row]).tolist()
                for combination in itertools.product(*choices)
            }
            margins = {texts: max(z[:label] + z[label + 1 :]) - z[label] for texts, z in found.items()}
            assert margins[tuple(prompts[row])] == pytest.approx(max(margins.values()), abs=1e-4)
            assert logits[row].tolist() == pytest.approx(found[tuple(prompts[row])], abs=1e-4)


def test_pairs_are_judged_each_with_its_own_prompts(
    tiny_clip: CLIPModel, tiny_processor: CLIPProcessor, images: torch.Tensor
) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    prompts = [["a cat", "a dog"], ["a feline", "a dog"], ["a cat", "a hound"], ["a dog", "a cat"]]

    logits = AdversarialPairs(images, prompts).logits(encoder)

    with torch.no_grad():
        for row, own in enumerate(prompts):
            expected = encoder.logit_scale * encoder.encode_images(images[row : row + 1]) @ encoder.encode_texts(own).T
            torch.testing.assert_close(logits[row : row + 1], expected)
