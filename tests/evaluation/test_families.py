"""Mean and worst case of families against a brute force of a few lines, and against the exhaustive adversary."""

from __future__ import annotations

import json

import pytest
import torch

from hf_mmcoa.attacks import LevenshteinAttack
from hf_mmcoa.attacks.exhaustive import EncodedTexts, attack_prompts
from hf_mmcoa.evaluation import measure_families, measure_family
from hf_mmcoa.families import Affixes, Family, text_families

NAMES = ["cat", "dog", "red car"]
PROMPTS = [f"This is a photo of a {name}" for name in NAMES]


def vector(text: str) -> torch.Tensor:
    """A unit vector near that of the letters at the text's end, whatever its case and white space."""
    text = " ".join(text.lower().split())
    base = torch.randn(5, generator=torch.Generator().manual_seed(("d" in text[-8:]) + 2 * ("r" in text[-8:])))
    noise = torch.randn(5, generator=torch.Generator().manual_seed(sum(i * ord(c) for i, c in enumerate(text))))
    return torch.nn.functional.normalize(base + 0.15 * noise, dim=0)


def encode(texts: list[str]) -> torch.Tensor:
    return torch.stack([vector(text) for text in texts])


@pytest.fixture
def problem():
    labels = torch.arange(40) % 3
    noise = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(encode(PROMPTS)[labels] + 0.4 * noise, dim=1), labels


def families(part=None):
    return text_families(class_names=NAMES, characters=LevenshteinAttack(alphabet="ab "), part=part)


@pytest.mark.slow
def test_mean_and_worst_case_are_those_of_a_brute_force(problem):
    images, labels = problem
    found = measure_families(families(), PROMPTS, encode, images, labels)
    robust_to_all = torch.ones(40, dtype=torch.bool)
    for family in families():
        pools, mean, robust = family.variants(PROMPTS), [], []
        for image, label in zip(images, labels.tolist(), strict=True):
            rival = max(float(image @ vector(PROMPTS[other])) for other in range(3) if other != label)
            right = [float(image @ vector(text)) > rival for text in pools[label]]
            mean.append(sum(right[1:]) / len(right[1:]))
            robust.append(all(right))
        robust_to_all &= torch.tensor(robust)
        assert found[f"families/{family.name}/mean"] == pytest.approx(sum(mean) / 40, abs=1e-9)
        assert found[f"families/{family.name}/worst"] == pytest.approx(sum(robust) / 40, abs=1e-9)
        assert found[f"families/{family.name}/num_texts"] == sum(map(len, pools)) - 3
    assert found["families/worst"] == pytest.approx(robust_to_all.double().mean().item())
    assert 0 < found["families/worst"] < found["families/case-and-space/mean"] < 1
    assert found["families/num_texts"] == sum(len(p) - 1 for each in families() for p in each.variants(PROMPTS))
    assert json.loads(json.dumps(found)) == found


def test_the_worst_case_is_the_exhaustive_adversary_of_the_own_prompt(problem):
    images, labels = problem
    for family in families("test"):
        own = attack_prompts(family, PROMPTS, encode, images, labels).own
        outcome = measure_family(family, PROMPTS, EncodedTexts(encode), images, labels)
        assert torch.equal(outcome.robust, own.robust)
        assert (outcome.right[outcome.robust] == 1).all()


def test_what_the_encoder_reads_as_the_clean_prompt_is_counted(problem):
    found = measure_families(families(), PROMPTS, encode, *problem)
    assert found["families/affixes/num_read_as_clean"] == 0
    assert 0 < found["families/case-and-space/num_read_as_clean"] < found["families/case-and-space/num_texts"]


def test_each_text_is_encoded_once_however_many_families_hold_it(problem):
    asked = []

    def watched(texts):
        asked.extend(texts)
        return encode(texts)

    twice = [Family(name=name, changes=Affixes()) for name in ("a", "b")]
    measure_families(twice, PROMPTS, watched, *problem)
    assert len(asked) == len(set(asked)) == 3 + 3 * 40


def test_a_class_without_texts_counts_as_clean_and_ties_are_lost():
    only = Family(name="only", changes=Affixes(prefixes=("one ",), suffixes=()), class_names=["one", "two"])
    prompts = ["one", "two"]

    def flat(texts):
        return torch.tensor([[1.0, 0.0] if "two" not in text else [0.0, 1.0] for text in texts])

    outcome = measure_family(only, prompts, EncodedTexts(flat), torch.eye(2), torch.tensor([0, 1]))
    assert outcome.num_bare_classes == 1 and outcome.num_dropped == 1 and outcome.right.tolist() == [1, 1]
    tied = measure_family(
        only, prompts, EncodedTexts(lambda texts: torch.ones(len(texts), 2)), torch.eye(2), torch.tensor([0, 1])
    )
    assert tied.right.tolist() == [0, 0] and not tied.robust.any()


def test_wrong_arguments_are_named(problem):
    images, labels = problem
    with pytest.raises(ValueError, match="at least one, with different names"):
        measure_families([], PROMPTS, encode, images, labels)
    with pytest.raises(ValueError, match="different names, got"):
        measure_families(families()[:1] * 2, PROMPTS, encode, images, labels)
    with pytest.raises(ValueError, match="`labels`"):
        measure_families(families(), PROMPTS, encode, images, labels[1:])
    with pytest.raises(ValueError, match=r"lie in \[0, 3\)"):
        measure_families(families(), PROMPTS, encode, images, labels + 1)
