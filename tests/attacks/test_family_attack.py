"""The worst of a few texts drawn from families: against a brute force, and what is drawn."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hf_mmcoa.attacks import FamilyAttack, LevenshteinAttack
from hf_mmcoa.families import Affixes, Family, text_families

TEXTS = ["This is a photo of a cat", "This is a photo of a dog"]


def encode(texts):
    """Embeddings that depend on every letter of a text and its place."""
    return (
        torch.tensor([[sum(ord(c) for c in t) % 97, sum(i * ord(c) for i, c in enumerate(t)) % 89] for t in texts]) / 9
    )


def test_it_keeps_the_worst_of_what_it_draws():
    attack = FamilyAttack(families=text_families("keyboard|affixes", part="train"), num_variants=7)
    drawn = attack.draw(TEXTS, torch.Generator().manual_seed(3))
    found = attack(TEXTS, encode, torch.Generator().manual_seed(3))
    for text, own, worst in zip(TEXTS, drawn, found, strict=True):
        assert 0 < len(own) <= 7
        distance = {each: (encode([each]) - encode([text])).square().sum().item() for each in [text, *own]}
        assert distance[worst] == max(distance.values()) > 0
    away = attack(TEXTS, encode, torch.Generator().manual_seed(3), lambda texts: encode(texts) + 100)
    assert away != found  # from a teacher, as in LEAF
    assert attack([TEXTS[0]] * 2, encode) == [attack(TEXTS[:1], encode)[0]] * 2
    assert FamilyAttack(families=attack.families, num_variants=0)(TEXTS, encode) == TEXTS


def test_more_draws_do_more_harm():
    def reached(count):
        attack = FamilyAttack(families=text_families("keyboard|homoglyphs"), num_variants=count)
        found = [attack(TEXTS, encode, torch.Generator().manual_seed(seed)) for seed in range(20)]
        return sum((encode(each) - encode(TEXTS)).square().sum().item() for each in found)

    assert reached(1) < reached(4) < reached(32)


def test_a_large_family_does_not_crowd_out_a_small_one():
    families = text_families("affixes|characters", characters=LevenshteinAttack())
    small, large = (set(family.variants(TEXTS[:1])[0]) for family in families)
    assert len(large) > 50 * len(small)
    drawn = FamilyAttack(families=families, num_variants=20).draw(TEXTS[:1] * 20, torch.Generator().manual_seed(0))
    count = Counter("small" if each in small else "large" for own in drawn for each in own)
    assert count["small"] > 0.3 * sum(count.values())


def test_only_the_part_is_drawn_and_all_families_are_listed():
    families = text_families(part="train", class_names=["cat", "dog"])
    attack = FamilyAttack(families=families, num_variants=50)
    listed = attack.variants(TEXTS)
    held_out = [FamilyAttack(families=text_families(part=part)).variants(TEXTS) for part in ("validation", "test")]
    for number, own in enumerate(attack.draw(TEXTS, torch.Generator().manual_seed(0))):
        assert set(own) <= set(listed[number]) == {text for each in families for text in each.variants(TEXTS)[number]}
        assert not any(set(own) & set(pools[number]) for pools in held_out)


def test_a_text_stays_where_nothing_harms_it():
    useless = Family(name="useless", changes=Affixes(prefixes=(" ",), suffixes=()))
    assert FamilyAttack(families=[useless])(TEXTS, lambda texts: torch.ones(len(texts), 2)) == TEXTS
    captions = text_families("templates")  # a caption matches no template
    assert FamilyAttack(families=captions)(["two dogs"], encode) == ["two dogs"]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`families` is empty"):
        FamilyAttack(families=[])
    with pytest.raises(ValueError, match="`num_variants` must not be negative"):
        FamilyAttack(families=text_families("affixes"), num_variants=-1)
    with pytest.raises(ValueError, match="`texts` must be a sequence"):
        FamilyAttack(families=text_families("affixes"))("a cat", encode)
