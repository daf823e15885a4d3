"""The page shows the result of the attacks: on each model separately, within the budget, the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from squares import CLASS_NAMES, KNOWN, UNSEEN, _trained, dataset, model, processor

from hf_mmcoa.demo import ATTACKS, attack_and_compare
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.zero_shot import ZeroShotClassifier

FIXTURES = (_trained, dataset, model, processor)  # the CLIP of coloured squares; pytest finds them in this module
BUDGET = ThreatModel(epsilon=0.2, num_steps=5, image_attacks=("pgd-ce",))


@pytest.fixture
def one(model, processor, dataset):
    """One model attacked on the first row, a cat."""

    def attack(name, budget=BUDGET, label=0, row=0, **options):
        models = {"m": (model, processor)}
        return attack_and_compare(
            models, dataset[row]["image"], CLASS_NAMES, name, budget, label, **{"candidates": UNSEEN, **options}
        )

    return attack


def probabilities(model, processor, image, prompts):
    """Computed by the public classifier from complete prompts."""
    classifier = ZeroShotClassifier(model, processor, prompts, template="{}")
    with torch.no_grad():
        return classifier(torch.from_numpy(image)[None]).softmax(-1)[0].numpy()


def test_without_attack_before_and_after_are_the_classifiers_own(one, model, processor, dataset):
    reading = one("none").readings["m"]
    pixels = np.asarray(dataset[0]["image"], dtype=np.float32).transpose(2, 0, 1) / 255
    assert np.allclose(reading.image, pixels) and not reading.perturbation.any()
    expected = probabilities(model, processor, pixels, reading.prompts)
    assert np.allclose(reading.clean, expected, atol=1e-5) and np.array_equal(reading.clean, reading.attacked)
    assert reading.right_before and reading.stands and reading.prompts[0] == "This is a photo of a cat"


def test_an_attacked_image_is_in_the_ball_and_fools(one, model, processor):
    comparison = one("image")
    reading = comparison.readings["m"]
    assert reading.right_before and not reading.stands
    assert 0.1 < np.abs(reading.perturbation).max() <= 0.2 + 1e-6
    assert comparison.amplification == pytest.approx(0.5 / np.abs(reading.perturbation).max())
    expected = probabilities(model, processor, (reading.image + reading.perturbation).clip(0, 1), reading.prompts)
    assert np.allclose(reading.attacked, expected, atol=1e-4) and reading.adv_prompts == reading.prompts


def test_attacked_words_are_substitutes_and_the_image_stays(one, model, processor):
    reading = one("words").readings["m"]
    assert not reading.perturbation.any()
    assert reading.adv_prompts == [f"This is a photo of a {word}" for word in ("kitty", "dog", "car")]  # its own alone
    assert np.allclose(reading.attacked, probabilities(model, processor, reading.image, reading.adv_prompts), atol=1e-5)


def test_the_embedding_attack_moves_no_word_and_no_pixel(one):
    reading = one("text embedding").readings["m"]
    assert reading.adv_prompts == reading.prompts and not reading.perturbation.any()
    assert reading.attacked[0] < reading.clean[0] - 0.01


def test_the_multimodal_attack_knows_the_words_that_it_has_changed(one, model, processor):
    both, image, words = (one(name, row=3).readings["m"] for name in ("multimodal", "image", "words"))
    assert both.adv_prompts == words.adv_prompts
    assert np.abs(both.perturbation - image.perturbation).max() > 0.01  # attacked on other prompts
    independent = probabilities(model, processor, (image.image + image.perturbation).clip(0, 1), words.adv_prompts)
    assert both.attacked[0] < min(words.attacked[0], independent[0])


@pytest.mark.few(2)
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_model_is_attacked_by_itself_and_the_same_seed_gives_the_same(
    attack, model, processor, tiny_clip, tiny_processor, dataset
):
    other, processor_of_other = tiny_clip, tiny_processor

    def attacked(models, seed=0):
        budget = ThreatModel(epsilon=0.2, num_steps=2, step_size=0.05, seed=seed)  # too short to end in a corner
        return attack_and_compare(models, dataset[0]["image"], CLASS_NAMES, attack, budget, 0, KNOWN).readings

    alone = attacked({"b": (other, processor_of_other)})["b"]
    together = attacked({"a": (model, processor), "b": (other, processor_of_other)})
    assert list(together) == ["a", "b"]
    assert np.array_equal(alone.attacked, together["b"].attacked)
    assert np.array_equal(alone.perturbation, together["b"].perturbation)
    if attack in ("image", "multimodal"):
        assert np.abs(together["a"].perturbation - together["b"].perturbation).max() > 0.01
        reseeded = attacked({"b": (other, processor_of_other)}, seed=1)["b"]
        assert np.abs(reseeded.perturbation - alone.perturbation).max() > 0.01


def test_without_a_label_each_models_own_answer_is_attacked(one):
    comparison = one("image", label=None, row=1)
    reading = comparison.readings["m"]
    assert not comparison.has_label and reading.label == int(reading.clean.argmax()) == 1 and not reading.stands
    wrong = one("image", label=2).readings["m"]
    assert wrong.label == 2 and not wrong.right_before


def test_the_budgets_template_is_that_of_every_prompt(one):
    comparison = one("words", ThreatModel(template="a drawing of a {}", epsilon=0.1))
    reading = comparison.readings["m"]
    assert reading.prompts[0] == "a drawing of a cat" and reading.adv_prompts[0] == "a drawing of a kitty"
    assert comparison.budget.template == "a drawing of a {}"


@pytest.mark.parametrize(("size", "shape"), [((8, 8), (3, 8, 8)), ((40, 24), (3, 16, 16)), ((3000, 2), (3, 16, 16))])
def test_small_squares_are_attacked_as_they_are_and_others_as_the_model_sees_them(one, size, shape, model, processor):
    models = {"m": (model, processor)}
    for mode in ("L", "RGBA", "P"):
        picture = Image.new(mode, size)
        reading = attack_and_compare(models, picture, CLASS_NAMES, "image", BUDGET).readings["m"]
        assert reading.image.shape == reading.perturbation.shape == shape


def test_models_are_left_as_they_were(one, model):
    model.train()
    one("multimodal")
    assert model.training and all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"models": {}}, "`models`"),
        ({"attack": "both"}, "`attack` must be one of none, image"),
        ({"label": 3}, "`label`"),
        ({"class_names": ["cat"]}, "at least two classes"),
        ({"class_names": ["cat", "dog " * 30]}, "tokens"),
    ],
)
def test_bad_input(changes, text, model, processor):
    given = {"models": {"m": (model, processor)}, "picture": Image.new("RGB", (8, 8)), "class_names": CLASS_NAMES}
    given |= {"attack": "image", "budget": BUDGET} | changes
    with pytest.raises(ValueError, match=text):
        attack_and_compare(**given)
