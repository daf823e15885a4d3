"""Training against families of perturbation: which texts are drawn, and that every option has its effect."""

from __future__ import annotations

import pytest
import torch
from test_trainer import NAMES, SUBSTITUTES, batch_of, changed_parameters, make, snapshot  # noqa: F401

from hf_mmcoa.attacks import FamilyAttack, LevenshteinAttack
from hf_mmcoa.families import text_families
from hf_mmcoa.substitutes.synonyms import SynonymTable

TABLE = SynonymTable({"cat": ("feline", "tabby", "mouser"), "dog": ("hound", "pup", "cur"), "red": ("scarlet", "ruby")})


@pytest.fixture
def of_families(make):  # noqa: F811
    """A trainer of families; what is given goes to the configuration."""

    def build(**config):
        return make(trainer={"text_attack": None, "candidates": TABLE}, text_attack="families", **config)

    return build


def attacked(trainer):
    batch = trainer._read(batch_of(trainer))
    found = trainer.attacker.attack_texts("families", batch.texts, batch.anchors, batch.text_anchor_ids)
    assert found.kind == "families" and found.sources == batch.texts and found.shift is None
    return found


@pytest.mark.slow
def test_training_draws_from_the_training_parts_alone(of_families):
    trainer = of_families(per_device_train_batch_size=12)
    trainer.model.train()
    trained, held_out = (
        text_families(
            class_names=["cat", "dog", "red car"],
            words=trainer.attacker.family_attack.families[-2].attack,
            characters=LevenshteinAttack(),
            part=part,
        )
        for part in ("train", "test")
    )
    assert [family.name for family in trainer.attacker.family_attack.families] == [each.name for each in trained]
    seen = set()
    for step in range(20):
        trainer.state.global_step = step
        found = attacked(trainer)
        legal = FamilyAttack(families=trained).variants(found.sources)
        never = FamilyAttack(families=held_out).variants(found.sources)
        for text, source, pool, other in zip(found.texts, found.sources, legal, never, strict=True):
            assert text in pool and (text == source or text not in other)
        seen |= set(found.texts)
    assert len(seen) > 20  # drawn anew in each step


def test_the_worst_of_what_was_drawn_is_trained_on(of_families):
    trainer = of_families(families="keyboard|affixes", num_variants=3)
    found, attack = attacked(trainer), trainer.attacker.family_attack
    generator = torch.Generator().manual_seed(trainer.attacker.generator("families").initial_seed())
    encode = trainer.attacker.encoder.text_features
    for text, worst, drawn in zip(found.sources, found.texts, attack.draw(found.sources, generator), strict=True):
        distance = (encode([text, *drawn]) - encode([text])).square().sum(1)
        assert worst == [text, *drawn][int(distance.argmax())] != text
    before = snapshot(trainer.model)
    trainer.train()
    assert "text_projection.weight" in changed_parameters(before, trainer.model)
    assert "text_perturbation" in trainer.state.log_history[0]


def test_one_family_can_be_left_out(of_families):
    names = [family.name for family in of_families().attacker.family_attack.families]
    without = [family.name for family in of_families(leave_out_family="homoglyphs").attacker.family_attack.families]
    assert "homoglyphs" in names and "synonyms" in names and "words" not in names
    assert without == [name for name in names if name != "homoglyphs"]
    assert all(family.part == "train" for family in of_families().attacker.family_attack.families)
    with pytest.raises(ValueError, match="the family 'words' needs `candidates` that are no synonyms"):
        of_families(leave_out_family="words")  # it would not have been there


def test_families_and_their_number_change_the_texts(of_families):
    found = attacked(of_families(families="homoglyphs")).texts
    assert all(not text.isascii() for text in found)
    assert all(text.isascii() for text in attacked(of_families(families="affixes")).texts)
    trainer = of_families(families="affixes")
    trainer.args.num_variants = 2
    trainer.attacker.start()
    assert trainer.attacker.family_attack.num_variants == 2


def test_class_names_are_guarded_unless_told_otherwise(of_families):
    assert of_families().attacker.family_attack.families[0].class_names == ("cat", "dog", "red car")
    assert of_families(forbid_class_names=False).attacker.family_attack.families[0].class_names == ()


def test_other_candidates_make_the_family_of_words(make):  # noqa: F811
    trainer = make(trainer={"text_attack": None}, text_attack="families", candidates="neighbours")
    names = [family.name for family in trainer.attacker.family_attack.families]
    assert "words" in names and "synonyms" not in names
    assert all(isinstance(text, str) for text in attacked(trainer).texts)


def test_families_beside_other_attacks_and_an_attack_of_ones_own(make):  # noqa: F811
    own = FamilyAttack(families=text_families("affixes", part="train"))
    trainer = make(trainer={"text_attack": own}, text_attack="families|characters", per_device_train_batch_size=12)
    assert trainer.attacker.family_attack is own and set(trainer.attacker.text_attacks) == {"families", "characters"}
    alone = make(trainer={"text_attack": own})
    assert list(alone.attacker.text_attacks) == ["families"]
    characters = make(trainer={"text_attack": LevenshteinAttack(alphabet="x")})
    assert list(characters.attacker.text_attacks) == ["characters"]  # and not words: the one given would be unused
    trainer.train()
    assert all(name in trainer.evaluate() for name in ("eval_text_accuracy", "eval_multimodal_accuracy"))
