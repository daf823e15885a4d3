from __future__ import annotations

import dataclasses
import json

import pytest

from hf_mmcoa.attacks.factory import image_attack
from hf_mmcoa.evaluation.threat_model import IMAGE_ATTACKS, PRESETS, ThreatModel, preset_of


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    spec = ThreatModel.preset(name, epsilon="4/255", perturb_at="native")
    again = ThreatModel.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and again.fingerprint() == spec.fingerprint()
    assert spec.epsilon == 4 / 255


@pytest.mark.parametrize("name", PRESETS)
def test_a_specification_knows_its_preset_whatever_its_radius(name):
    spec = ThreatModel.preset(name, epsilon=0.2, seed=3).to_dict()
    assert preset_of(spec) == name
    assert preset_of(spec | {"restarts": 9}) is None


def test_standard_costs_at_most_300_image_gradients():
    spec = ThreatModel.preset("standard")
    runs = [getattr(image_attack(name, spec), "num_targets", 1) for name in spec.image_attacks]
    assert spec.restarts * sum(runs) * (spec.num_steps + 1) <= 300  # APGD also looks at its start


def test_paper_is_the_releases_evaluation():
    spec = ThreatModel.preset("paper")
    assert (spec.norm, spec.epsilon, spec.step_size, spec.num_steps, spec.restarts) == (
        "linf",
        1 / 255,
        1 / 255,
        100,
        1,
    )
    assert (
        spec.image_attacks == ("pgd-ce",)
        and spec.text_attacks == ("words",)
        and spec.multimodal_attacks == ("independent",)
    )
    assert (spec.candidates, spec.num_candidates, spec.max_changes) == ("masked-lm", 10, 1)
    assert not spec.protect_template and not spec.skip_fallen


def test_the_step_follows_radius_and_steps_unless_given():
    assert ThreatModel(epsilon=0.1, num_steps=10).step_size == pytest.approx(0.025)
    assert ThreatModel(epsilon=0.1, num_steps=10, step_size="1/255").step_size == 1 / 255


CHANGED = {
    "norm": "l2",
    "epsilon": 0.5,
    "step_size": 0.5,
    "num_steps": 7,
    "restarts": 3,
    "random_start": False,
    "image_attacks": ("pgd-margin",),
    "temperature": 1.0,
    "perturb_at": "model",
    "template": "a {}",
    "templates": ("a {}", "the {}"),
    "attacker_template": "the {}",
    "text_attacks": ("embedding",),
    "candidates": {"known": "a", "unseen": "b"},
    "num_candidates": 3,
    "max_changes": 2,
    "protect_template": False,
    "forbid_class_names": False,
    "max_edits": 2,
    "rho": 0.5,
    "num_text_steps": 3,
    "text_adversaries": ("own",),
    "max_texts": 10,
    "families": "keyboard",
    "beyond": ("corruptions",),
    "multimodal_attacks": ("joint",),
    "skip_fallen": False,
    "seed": 1,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ThreatModel)])
def test_every_field_changes_the_fingerprint(field):
    assert dataclasses.replace(ThreatModel(), **{field: CHANGED[field]}).fingerprint() != ThreatModel().fingerprint()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epsilon": 8}, "Did you mean 8/255"),
        ({"epsilon": float("inf"), "norm": "l2"}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"norm": "l1"}, "norm"),
        ({"num_steps": -1}, "num_steps"),
        ({"restarts": 0}, "restarts"),
        ({"restarts": 2, "random_start": False}, "random_start"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"text_attacks": ("sentences",)}, "choose from words"),
        ({"multimodal_attacks": ("both",)}, "choose from independent"),
        ({"image_attacks": ("pgd-ce", "pgd-ce")}, "twice"),
        ({"template": "a photo"}, "template"),
        ({"attacker_template": "{} {}"}, "template"),
        ({"rho": -1}, "rho"),
    ],
)
def test_what_cannot_be_is_refused(values, text):
    with pytest.raises(ValueError, match=text):
        ThreatModel(**values)


def test_a_specification_is_complete_or_none():
    values = ThreatModel().to_dict()
    with pytest.raises(ValueError, match="lacks epsilon"):
        ThreatModel.from_dict({key: value for key, value in values.items() if key != "epsilon"})
    with pytest.raises(ValueError, match="no field tea"):
        ThreatModel.from_dict({**values, "tea": 1})


def test_zero_budgets_are_named_with_their_reason():
    everything = {"text_attacks": ("words", "characters", "embedding")}
    assert ThreatModel(**everything).zero_budgets() == {}
    none = ThreatModel(epsilon=0, max_changes=0, max_edits=0, rho=0, **everything).zero_budgets()
    assert set(none) == {"image", "text/words", "text/characters", "text/embedding"} and none["image"] == "epsilon=0"
    assert "image" in ThreatModel(num_steps=0, random_start=False).zero_budgets()
    assert "image" not in ThreatModel(num_steps=0).zero_budgets()  # a random start is an attack


@pytest.mark.parametrize("name", IMAGE_ATTACKS)
def test_every_name_is_an_attack_with_the_specifications_budget(name):
    attack = image_attack(name, ThreatModel(norm="l2", epsilon=0.25))
    while hasattr(attack, "attack"):
        attack = attack.attack
    assert attack.epsilon == 0.25 and attack.norm == "l2"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="choose from pgd-ce"):
        image_attack("fgms", ThreatModel())
    with pytest.raises(ValueError, match="choose from paper"):
        ThreatModel.preset("weak")


def test_it_may_be_given_as_in_a_yaml_file():
    given = ThreatModel.read({"preset": "quick", "epsilon": "4/255", "text_adversaries": ["own"]})
    assert given == ThreatModel.preset("quick", epsilon=4 / 255, text_adversaries=("own",))
    assert ThreatModel.read({}) == ThreatModel.read("standard") == ThreatModel.preset("standard")
    assert ThreatModel.read(given) is given and ThreatModel.read(given.to_dict()) == given
    with pytest.raises(ValueError, match="there is no field eps"):
        ThreatModel.read({"eps": 0.1})
    with pytest.raises(TypeError, match="must be a ThreatModel, a preset"):
        ThreatModel.read(0.1)
