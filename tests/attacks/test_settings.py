"""One specification: whatever `AttackSettings` holds reaches training and evaluation, and the attack objects."""

from __future__ import annotations

import dataclasses

import pytest

from hf_mmcoa.attacks import factory
from hf_mmcoa.attacks.settings import IMAGE_ATTACKS, AttackSettings
from hf_mmcoa.config import MMCoAConfig
from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.substitutes import SynonymTable

# Another value than the default of every field. A new field must be entered here, and reach both.
OTHER = {
    "norm": "l2",
    "epsilon": 0.25,
    "step_size": 0.125,
    "num_steps": 3,
    "restarts": 4,
    "random_start": False,
    "temperature": 10.0,
    "perturb_at": "model",
    "template": "a sketch of a {}",
    "candidates": "hotflip",
    "num_candidates": 7,
    "max_changes": 2,
    "protect_template": False,
    "forbid_class_names": False,
    "max_edits": 3,
    "rho": 0.75,
    "num_text_steps": 6,
    "seed": 5,
}
# What the engine or the data read, and not an attack object.
OF_THE_ENGINE = {"temperature", "perturb_at", "candidates", "seed"}


def changed(name: str) -> dict:
    return {name: OTHER[name]}


def test_every_field_has_another_value_here():
    assert set(OTHER) == {each.name for each in dataclasses.fields(AttackSettings)}


@pytest.mark.parametrize("name", OTHER)
def test_training_and_evaluation_pass_every_field_on(name, tmp_path):
    config = MMCoAConfig(output_dir=str(tmp_path), text_attack="words|characters|embedding", **changed(name))
    assert getattr(config.attack_settings, name) == OTHER[name]
    assert getattr(ThreatModel(**changed(name)), name) == OTHER[name]
    assert getattr(ThreatModel.of(config.attack_settings), name) == OTHER[name]


def objects(settings: AttackSettings) -> str:
    """Every attack object that the factory makes, as text."""
    words = factory.word_attack(settings, SynonymTable({"cat": ("feline",)}), ["cat", "dog"])
    made = [
        factory.training_image_attack(settings),
        *(factory.image_attack(name, settings) for name in IMAGE_ATTACKS),
        words,
        factory.character_attack(settings, ["cat"]).dictionary,
        factory.character_attack(settings, ["cat"], exhaustive=False),
        factory.embedding_attack(settings),
        *(factory.multimodal_attack(name, settings, words) for name in ("co-attack", "sga", "joint")),
    ]
    return repr(made)


@pytest.mark.parametrize("name", sorted(set(OTHER) - OF_THE_ENGINE))
def test_every_budget_reaches_an_attack_object(name):
    assert objects(AttackSettings(**changed(name))) != objects(AttackSettings())


def test_training_guards_class_names_as_evaluation_does():
    """The default form must not train "cat" towards "car" when "car" is a class."""
    for exhaustive in (True, False):
        attack = factory.character_attack(AttackSettings(), ["cat", "red_car"], exhaustive=exhaustive)
        assert attack.dictionary == {"cat", "red", "car"}
        assert "car" not in {text for texts in attack.variants(["cat"]) for text in texts}


@pytest.mark.parametrize("value", ["0.5", 0.5, "logit_scale"])
def test_a_temperature_may_be_text(value):
    assert AttackSettings(temperature=value).temperature == (value if value == "logit_scale" else 0.5)


@pytest.mark.parametrize("value", ["warm", -1, 0, float("nan")])
def test_a_wrong_temperature_is_refused(value):
    with pytest.raises(ValueError, match="`temperature` must be"):
        AttackSettings(temperature=value)
