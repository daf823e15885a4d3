"""Every check of the battery, seen to pass on a sound evaluation and to fail on a case built to fail it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from squares import KNOWN, UNSEEN, squares
from test_evaluator import evaluate

from hf_mmcoa.attacks import co_attack, joint, sga
from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.attacks.image_losses import class_loss
from hf_mmcoa.attacks.image_text_embedding import ImageTextPGD
from hf_mmcoa.attacks.pgd import PGD
from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.attacks.shared_choice import SharedChoice
from hf_mmcoa.attacks.text_embedding import TextEmbeddingPGD
from hf_mmcoa.evaluation import ThreatModel, attacked_texts, batch
from hf_mmcoa.evaluation.sanity import inside_ball
from hf_mmcoa.evaluation.sanity_texts import beats_controls, covers, falls_with_radius, keeps_class, within_budget
from hf_mmcoa.evaluation.text_changes import TextChanges, levenshtein
from hf_mmcoa.gradients import gradient
from hf_mmcoa.substitutes.synonyms import SynonymTable


def every(model, processor, data=None, attack=None, threat_model=None, attacks=("image",), candidates=KNOWN):
    """Check, with the attack's name -> passed."""
    image_attacks = attack if attack is None or isinstance(attack, dict) else {"one": attack}
    given = {"image_attacks": image_attacks, "threat_model": threat_model or {}, "sanity": True}
    result = evaluate(model, processor, data or squares(12), attacks, candidates=candidates, **given)
    return {finding["check"]: finding["passed"] for finding in result["sanity"]}


def findings(*args, **kwargs):
    """Check, without the attack's name -> passed."""
    return {check.split(": ")[-1]: passed for check, passed in every(*args, **kwargs).items()}


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
    found = every(model, processor, attacks=("image", "text"), threat_model={"num_steps": 10}, candidates=UNSEEN)
    assert len(found) == 20 and set(found.values()) == {True}


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("preset", ["quick", "standard", "strong"])
def test_sound_presets_fail_no_check(model, processor, preset, seed):
    spec = ThreatModel.preset(preset, epsilon=0.05, seed=seed, num_steps=10, restarts=1, num_text_steps=5)
    found = every(model, processor, threat_model=spec, attacks=("multimodal",), candidates=UNSEEN)
    assert False not in found.values() and len(found) >= 20
    assert preset != "strong" or {f"multimodal/{name}: within its budget" for name in WRITING} <= set(found)


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
    with pytest.warns(UserWarning, match="sanity check failed: .*(raises the loss|comes near)"):
        result = evaluate(
            model, processor, squares(6), ["image"], image_attacks={"idle": lambda images, *_: images}, sanity=True
        )
    assert result["image_accuracy"] == result["clean_accuracy"] == 1


# Every image attack, and the reference


@dataclasses.dataclass(frozen=True)
class Noise:
    """Random points of the ball."""

    epsilon: float
    num_steps: int = 5

    def __call__(self, images, loss_fn, generator=None):
        noise = torch.randn(images.shape, generator=generator)
        return (images + self.epsilon * noise.sign()).clamp(0, 1)


@pytest.mark.filterwarnings("ignore:sanity check failed")
@pytest.mark.parametrize("changeable", [True, False])
@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_noise_as_the_only_attack_is_found_out(model, processor, epsilon, changeable):
    """Also at a radius at which the reference misleads no sample either: it raises the margin far more."""
    noise = Noise(epsilon)
    attack = noise if changeable else lambda images, loss_fn, generator=None: noise(images, loss_fn, generator)
    found = findings(model, processor, attack=attack, threat_model={"epsilon": epsilon})
    assert found["random noise is not stronger"] is True and found["comes near a reference attack"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_a_second_attack_that_does_nothing_is_found_out(model, processor):
    """Although the first one misleads all samples, so that the run never asks the second one."""
    pgd = PGD(epsilon=0.3, step_size=0.1, num_steps=5)
    attacks = {"pgd": pgd, "idle": lambda images, *_: images}
    found = every(model, processor, attack=attacks, threat_model={"epsilon": 0.3})
    assert found["image/pgd: raises the loss"] is True and found["image/pgd: comes near a reference attack"] is True
    assert found["image/idle: raises the loss"] is False and found["image/idle: comes near a reference attack"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_a_broken_pgd_does_not_break_the_reference(model, processor, monkeypatch):
    monkeypatch.setattr(PGD, "step", lambda self, grad: torch.zeros_like(grad))
    assert findings(model, processor)["comes near a reference attack"] is False


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:sanity check failed")
@pytest.mark.parametrize("temperature", ["logit_scale", 1e4])
def test_a_saturated_model_is_found_out(model, processor, monkeypatch, temperature):
    """With a logit scale of 1e4 a cross-entropy of float32 has no gradient; log-odds and margin have."""
    if temperature == "logit_scale":
        monkeypatch.setattr("hf_mmcoa.models.encoder.logit_scale", lambda towers: torch.tensor(1e4))
    effort = {"epsilon": 0.05, "num_steps": 5, "num_text_steps": 2, "restarts": 1}
    spec = ThreatModel.preset("standard", temperature=temperature, **effort)
    mine = PGD(epsilon=0.05, step_size=0.025, num_steps=5, random_start=False)
    found = every(model, processor, attack={"mine": mine}, threat_model=spec, attacks=("image", "text"))
    assert found["image/mine: has gradients"] is False
    assert found["image/mine: comes near a reference attack"] is False
    found = every(model, processor, threat_model=spec, attacks=("image", "text"))
    for name in ("image/apgd-ce", "image/apgd-margin", "text/embedding/blind", "text/embedding/own"):
        assert found[f"{name}: has gradients"] is True


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_a_saturated_embedding_loss_is_found_out(model, processor, monkeypatch):
    monkeypatch.setattr("hf_mmcoa.models.encoder.logit_scale", lambda towers: torch.tensor(1e4))
    monkeypatch.setattr("hf_mmcoa.evaluation.attacked_texts.log_odds_loss", class_loss)
    spec = {"text_attacks": ("embedding",), "num_text_steps": 2}
    found = every(model, processor, threat_model=spec, attacks=("text",))
    assert found["text/embedding/blind: has gradients"] is False and found["text/embedding/own: has gradients"] is True


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_a_gradient_masked_text_encoder_is_found_out(model, processor):
    model.text_projection.register_forward_pre_hook(lambda layer, given: ((given[0] * 4).round() / 4,))
    spec = {"text_attacks": ("embedding",), "num_text_steps": 2}
    found = every(model, processor, threat_model=spec, attacks=("text",))
    assert found["text/embedding/blind: has gradients"] is False and found["text/embedding/own: has gradients"] is False


@pytest.mark.slow
def test_an_attack_that_only_returns_what_misleads_may_raise_no_loss(model, processor):
    pytest.importorskip("pyautoattack")
    spec = ThreatModel.preset("quick", epsilon=0.0001, num_steps=5, image_attacks=("autoattack-apgd-ce",))
    found = findings(model, processor, threat_model=spec)
    assert found["raises the loss"] is None and found["repeats itself"] is None and False not in found.values()


# Every attack on texts


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_three_words_in_the_place_of_one_are_found_out_everywhere(model, processor, monkeypatch):
    monkeypatch.setattr("hf_mmcoa.attacks.bert_attack.change_cost", lambda place, substitute: 1)
    table = SynonymTable({"cat": ("small red wagon",), "dog": ("big old puppy",), "car": ("wagon",)})
    spec = {"text_adversaries": ("blind", "shared", "own", "all")}
    found = every(model, processor, threat_model=spec, attacks=("text",), candidates=table)
    names = ("text/words", *(f"text/words/{adversary}" for adversary in spec["text_adversaries"]))
    assert [found[f"{name}: within its budget"] for name in names] == [False] * 5


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:sanity check failed")
@pytest.mark.parametrize("adversary", ["blind", "shared", "own"])
def test_an_attack_on_words_that_does_nothing_is_found_out(model, processor, monkeypatch, adversary):
    """On words that the model does not know a random one does harm."""
    if adversary == "blind":
        monkeypatch.setattr(BertAttack, "__call__", lambda self, texts, encode: list(texts))
    elif adversary == "shared":
        clean = SharedChoice(torch.zeros(3, dtype=torch.long), "none")
        monkeypatch.setattr(attacked_texts, "choose_shared_texts", lambda scores, seed: clean)
    else:
        monkeypatch.setattr(PromptPools, "correct", lambda self, embeds, labels, others: torch.ones_like(labels).bool())
    spec = {"text_adversaries": ("blind", "shared", "own"), "text_attacks": ("words", "characters")}
    found = every(model, processor, threat_model=spec, attacks=("text",), candidates=UNSEEN)
    failed = {check for check, passed in found.items() if passed is False}
    assert failed >= {f"text/words/{adversary}: a random substitute is not stronger"}
    assert all(f"/{adversary}: " in check for check in failed)


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_an_all_that_misses_what_own_finds_is_found_out(model, processor, monkeypatch):
    correct = PromptPools.correct

    def lenient(self, embeds, labels, others):
        return torch.ones_like(labels).bool() if others else correct(self, embeds, labels, others)

    monkeypatch.setattr(PromptPools, "correct", lenient)
    found = every(model, processor, attacks=("text",), candidates=UNSEEN)
    assert found["text/words/all: misses nothing that a weaker adversary finds"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_embedding_attacks_that_do_nothing_or_leave_their_ball_are_found_out(model, processor, monkeypatch):
    spec = {"text_attacks": ("embedding",), "text_adversaries": ("blind", "own"), "num_text_steps": 5, "rho": 4.0}
    names = ("text/embedding/blind", "text/embedding/own")
    with monkeypatch.context() as patched:
        for module in ("text_embedding", "image_text_embedding"):
            patched.setattr(f"hf_mmcoa.attacks.{module}.shorten", lambda vectors, radius, dim: vectors)
        found = every(model, processor, threat_model=spec | {"rho": 0.1}, attacks=("text",))
        assert [found[f"{name}: within its budget"] for name in names] == [False] * 2
    monkeypatch.setattr(ImageTextPGD, "_attack", lambda self, batch, radius, restarts, generator: None)
    monkeypatch.setattr(
        TextEmbeddingPGD,
        "__call__",
        lambda self, model, input_ids, attention_mask, loss_fn, generator: model.text_model.embeddings.token_embedding(
            input_ids
        ),
    )
    found = every(model, processor, threat_model=spec, attacks=("text",))
    for check in ("raises the loss", "random noise is not stronger"):
        assert [found[f"{name}: {check}"] for name in names] == [False] * 2


def test_a_curve_that_rises_is_found_out():
    assert falls_with_radius("text/embedding/own", [5, 4, 4], [0.5, 1, 2])["passed"] is True
    assert falls_with_radius("text/embedding/own", [5, 3, 4], [0.5, 1, 2])["passed"] is False


# Attacks on both

WRITING = {"co-attack/blind": co_attack.CoAttack, "sga/own": sga.SGA, "joint/all": joint.Joint}


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:sanity check failed")
@pytest.mark.parametrize("name", WRITING)
def test_what_an_attack_on_both_writes_and_paints_is_measured(model, processor, monkeypatch, name):
    honest = WRITING[name].__call__

    def outside(self, images, labels, prompts, encoder, generator=None):
        found = honest(self, images, labels, prompts, encoder, generator)
        written = [[f"{prompt} or a hound" for prompt in row] for row in found.prompts]
        return dataclasses.replace(found, images=(images + 0.1).clamp(0, 1), prompts=written)

    spec = {"multimodal_attacks": (name.partition("/")[0],), "text_adversaries": ("blind", "shared", "own", "all")}
    assert every(model, processor, threat_model=spec, attacks=("multimodal",))["inside the ball"] is True
    monkeypatch.setattr(WRITING[name], "__call__", outside)
    found = every(model, processor, threat_model=spec, attacks=("multimodal",))
    assert found[f"multimodal/{name}: within its budget"] is False and found["inside the ball"] is False


@pytest.mark.filterwarnings("ignore:sanity check failed")
def test_attacks_on_both_that_do_nothing_are_found_out(model, processor, monkeypatch):
    """Although a run with `skip_fallen` counts what the attacks before them misled."""
    monkeypatch.setattr(batch._Batch, "_adaptive", lambda self, key, robust, prompts: robust)
    monkeypatch.setattr(batch._Batch, "_searching", lambda self, name, key, robust, source: robust)
    spec = {"multimodal_attacks": ("independent", "adaptive", "joint"), "epsilon": 0.2}
    found = every(model, processor, threat_model=spec, attacks=("multimodal",), candidates=UNSEEN)
    for adversary in ("shared", "own", "all"):
        assert found[f"multimodal/adaptive/{adversary}: is not weaker than independent"] is False
    assert found["multimodal/joint/all: noise with a random substitute is not stronger"] is False


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


def changes(attack=None, **budget):
    return TextChanges({"text/words": attack}, ThreatModel.preset("quick", **budget))


@pytest.mark.parametrize(
    ("adv", "changed"),
    [
        ("a photo of a dog", 0),
        ("a photo of a hound", 1),
        ("a picture of a hound", 2),
        ("a photo of a hot dog", 1),  # a word put in
        ("photo of a dog", 1),  # a word left out
        ("a photo of a large old hound", 3),
    ],
)
def test_words_are_counted(adv, changed):
    for budget in range(4):
        pairs = [("a photo of a cat", "a photo of a cat"), ("a photo of a dog", adv)]
        finding = within_budget(changes(max_changes=budget), "text/words/all", pairs)
        assert finding["passed"] is (changed <= budget)


def test_a_phrase_of_the_source_is_one_change():
    table = SynonymTable({"cafe au lait": ("latte",)})
    pairs = [("a cafe au lait", "a latte")]
    assert within_budget(changes(), "text/words/own", pairs)["passed"] is False
    assert within_budget(changes(BertAttack(candidates=table)), "text/words/own", pairs)["passed"] is True


def test_characters_are_counted():
    assert levenshtein("kitten", "sitting") == 3 and levenshtein("", "ab") == 2 and levenshtein("ab", "ab") == 0
    assert levenshtein("abab", "ab") == 2 and levenshtein("aba", "aa") == 1
    for adv, passed in (("cut", True), ("cuts", False)):
        assert within_budget(changes(), "text/characters/all", [("dog", "dog"), ("cat", adv)])["passed"] is passed
    assert within_budget(changes(), "text/characters/own", [("cafe\u0301", "caf")])["passed"] is True  # one letter


def test_another_classes_prompt_is_found_out():
    prompts = ["a cat", "a dog"]
    assert keeps_class("text/words", prompts, [["a cat", "A  Cat"], ["a dog", "a hound"]])["passed"] is True
    assert keeps_class("text/words", prompts, [["a cat", "a feline", "a Dog"], ["a dog"]])["passed"] is False


@pytest.mark.parametrize(
    ("adversary", "left", "passed"),
    [
        ("blind", 5, True),
        ("blind", 6, False),
        ("shared", 3, True),
        ("shared", 4, False),
        ("own", 4, True),
        ("own", 5, False),
    ],
)
def test_random_draws_are_compared_with_what_the_adversary_knows(adversary, left, passed):
    """The mean of the lists, the worst list, and every draw of the own prompt; one sample is tolerated."""
    outcomes = {f"text/words/{adversary}": "1" * left + "0" * (10 - left)}
    drawn = {"lists": [2, 6], "own": 3}
    assert beats_controls(f"text/words/{adversary}", outcomes, drawn)["passed"] is passed


def test_an_adversary_that_may_do_more_leaves_no_sample_more():
    outcomes = {"all": "0011", "own": "0111", "shared": "1011"}
    assert covers("all", outcomes, ["own", "shared"])["passed"] is True
    assert covers("own", outcomes, ["shared"])["passed"] is False
