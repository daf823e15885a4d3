"""Every check of the battery, seen to pass on a sound evaluation and to fail on a case built to fail it."""

from __future__ import annotations

import dataclasses

import pytest
from squares import KNOWN, squares
from test_evaluator import evaluate

from hf_mmcoa.attacks.pgd import PGD
from hf_mmcoa.evaluation.sanity import inside_ball, keeps_class, levenshtein, within_edit_budget, within_word_budget
from hf_mmcoa.gradients import gradient


def findings(model, processor, data=None, attack=None, threat_model=None, attacks=("image",)):
    """Check, without the attack's name -> passed."""
    given = {"image_attacks": {"one": attack}} if attack is not None else {}
    given |= {"threat_model": threat_model or {}, "candidates": KNOWN, "sanity": True}
    result = evaluate(model, processor, data or squares(12), attacks, **given)
    return {finding["check"].split(": ")[-1]: finding["passed"] for finding in result["sanity"]}


@dataclasses.dataclass(frozen=True)
class Custom:
    """PGD changed by the test: `change(self, images, adv_images, generator)`."""

    change: object
    epsilon: float = 0.05
    num_steps: int = 5
    step_size: float = 0.025

    def __call__(self, images, loss_fn, generator=None):
        pgd = PGD(epsilon=self.epsilon, num_steps=self.num_steps, step_size=self.step_size)
        return self.change(self, images, pgd(images, loss_fn, generator), generator)


def test_a_sound_evaluation_passes_every_check(model, processor):
    found = findings(model, processor, attacks=("image", "text"), threat_model={"num_steps": 10})
    assert len(found) == 12 and set(found.values()) == {True}


@pytest.mark.filterwarnings("ignore:sanity check failed")
@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("raises the loss", lambda self, images, adv, generator: images),
        ("an unbounded attack misclassifies all", lambda self, images, adv, generator: images),
        ("inside the ball", lambda self, images, adv, generator: adv + 0.01),
        ("epsilon 0 equals clean", lambda self, images, adv, generator: (adv + 0.01).clamp(0, 1)),
    ],
)
def test_a_broken_attack_fails_its_check(model, processor, check, change):
    class Last(Custom):
        """Only the final images count: the loss is not looked at on the way."""

        def __call__(self, images, loss_fn, generator=None):
            adv_images = PGD(epsilon=self.epsilon, num_steps=0, step_size=0.0)(images, loss_fn, generator)
            return self.change(self, images, adv_images, generator)

    assert findings(model, processor, attack=Last(change))[check] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_an_attack_that_gives_up_at_a_large_budget_fails(model, processor):
    @dataclasses.dataclass(frozen=True)
    class Timid(PGD):
        def __call__(self, images, loss_fn, generator=None):
            return images if self.epsilon > 0.08 else super().__call__(images, loss_fn, generator)

    found = findings(
        model, processor, attack=Timid(epsilon=0.08, step_size=0.02, num_steps=10), threat_model={"epsilon": 0.08}
    )
    assert found["accuracy does not rise with epsilon"] is False and found["accuracy does not rise with steps"] is True


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_an_attack_that_loses_by_going_on_fails(model, processor):
    @dataclasses.dataclass(frozen=True)
    class Forgetful(PGD):
        def __call__(self, images, loss_fn, generator=None):
            return images if self.num_steps > 1 else super().__call__(images, loss_fn, generator)

    found = findings(
        model, processor, attack=Forgetful(epsilon=0.2, step_size=0.2, num_steps=5), threat_model={"epsilon": 0.2}
    )
    assert found["accuracy does not rise with steps"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_an_attack_with_hidden_randomness_does_not_repeat_itself(model, processor):
    calls = []

    def only_at_first(self, images, adv_images, generator):
        calls.append(1)
        return adv_images if len(calls) <= 3 else images  # two batches, then the battery's first run

    class Last(Custom):
        def __call__(self, images, loss_fn, generator=None):
            return self.change(self, images, images.roll(1, 1), generator)

    assert findings(model, processor, attack=Last(only_at_first))["repeats itself"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_perturbations_on_the_wrong_samples_are_found_out(model, processor):
    @dataclasses.dataclass(frozen=True)
    class Misplaced(PGD):
        def __call__(self, images, loss_fn, generator=None):
            own = (images + self.epsilon * gradient(loss_fn, images).sign()).clamp(0, 1) - images
            return (images + own.roll(-1, 0)).clamp(0, 1)

    attack = Misplaced(epsilon=0.2, step_size=0.2, num_steps=1)
    found = findings(model, processor, attack=attack, threat_model={"epsilon": 0.2})
    assert found["a transferred attack is not stronger"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_a_gradient_masked_model_is_found_out(model, processor):
    """Rounding its input makes the gradient zero: PGD sees a robust model, and noise breaks it."""
    inner = model.get_image_features
    model.get_image_features = lambda pixel_values: inner(pixel_values=(pixel_values * 4).round() / 4)
    found = findings(model, processor, threat_model={"epsilon": 0.3, "random_start": False})
    assert found["has gradients"] is False
    assert found["an unbounded attack misclassifies all"] is False
    assert found["raises the loss"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_noise_that_beats_the_attack_is_found_out(model, processor):
    """An attack that goes downhill leaves more standing than noise."""

    @dataclasses.dataclass(frozen=True)
    class Downhill(PGD):
        def __call__(self, images, loss_fn, generator=None):
            return PGD(epsilon=self.epsilon, step_size=self.step_size, num_steps=self.num_steps, random_start=False)(
                images, lambda adv_images: -loss_fn(adv_images), generator
            )

    data = squares(48, seed=3)
    attack = Downhill(epsilon=0.5, step_size=0.05, num_steps=10)
    found = findings(model, processor, data, attack=attack, threat_model={"epsilon": 0.5})
    assert found["random noise is not stronger"] is False


def test_an_attack_whose_budget_cannot_be_changed_is_said_to_be_unchecked(model, processor):
    pgd = PGD(epsilon=0.05, step_size=0.02, num_steps=5)
    found = findings(model, processor, attack=lambda images, loss_fn, generator=None: pgd(images, loss_fn, generator))
    assert found["epsilon 0 equals clean"] is None and found["an unbounded attack misclassifies all"] is None
    assert found["raises the loss"] is True and found["repeats itself"] is True


def test_a_failed_check_is_warned_of_and_nothing_is_lost(model, processor):
    with pytest.warns(UserWarning, match="sanity check failed: .*raises the loss"):
        result = evaluate(
            model, processor, squares(6), ["image"], image_attacks={"idle": lambda images, *_: images}, sanity=True
        )
    assert result["image_accuracy"] == result["clean_accuracy"] == 1


# Checks on what was recorded


@pytest.mark.parametrize(
    ("lengths", "ranges", "passed"),
    [
        ([0.1, 0.05], [[0, 1]], True),
        ([0.1000001], [[0, 1]], True),
        ([0.05, 0.101], [[0, 1]], False),
        ([0.1], [[0, 1], [-0.01, 1]], False),
        ([0.1], [[0, 1.01]], False),
    ],
)
def test_ball_and_pixels(lengths, ranges, passed):
    assert inside_ball(lengths, ranges, 0.1)["passed"] is passed


@pytest.mark.parametrize(
    ("adv", "changed"),
    [
        ("a photo of a dog", 0),
        ("a photo of a hound", 1),
        ("a picture of a hound", 2),
        ("a photo of a hot dog", 1),  # a word put in
        ("photo of a dog", 1),  # a word left out
    ],
)
def test_words_are_counted(adv, changed):
    for budget in range(3):
        finding = within_word_budget("text/words/all", ["a photo of a dog"], [adv], budget)
        assert finding["passed"] is (changed <= budget)


def test_characters_are_counted():
    assert levenshtein("kitten", "sitting") == 3 and levenshtein("", "ab") == 2 and levenshtein("ab", "ab") == 0
    assert within_edit_budget("text/characters/all", ["dog", "cat"], ["dog", "cut"], 1)["passed"] is True
    assert within_edit_budget("text/characters/all", ["dog", "cat"], ["dog", "cuts"], 1)["passed"] is False


def test_another_classes_prompt_is_found_out():
    prompts = ["a cat", "a dog"]
    assert keeps_class("text/words/all", prompts, ["a cat", "a hound"])["passed"] is True
    assert keeps_class("text/words/all", prompts, ["a Dog", "a hound"])["passed"] is False
