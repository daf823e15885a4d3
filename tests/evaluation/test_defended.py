"""The evaluation of test-time defences: an adaptive attack looks through what a static one runs into."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch
from squares import CLASS_NAMES

from hf_mmcoa.attacks import PGD
from hf_mmcoa.data.rows import ImageRows, collate
from hf_mmcoa.defences import RTPT, TTC, GaussianNoise, Quantise
from hf_mmcoa.defences.defence import classify
from hf_mmcoa.evaluation import ThreatModel, adaptive, evaluate_defence, evaluate_robustness, load_defended
from hf_mmcoa.evaluation.defended_results import COLUMNS, LABELS, accuracies_of, defended_table, save_defended
from hf_mmcoa.models.encoder import DualEncoder

SPEC = ThreatModel.preset("quick", epsilon=0.12, num_steps=8, image_attacks=("apgd-ce",))
COARSE = Quantise(levels=5)


def measure(model, processor, dataset, defence, **options):
    given = {"threat_model": SPEC, "eot_draws": 4, "draws": 5, "progress": False, "batch_size": 12} | options
    return evaluate_defence(model, processor, dataset, defence, **given)


def passed(result, check):
    return next(one["passed"] for one in result["sanity"] if check in one["check"])


@dataclass(frozen=True)
class Rounding:
    """`Quantise` without `purify`: no attack can tell that its gradient is to be taken for the identity."""

    def __call__(self, images, texts, model, generator=None):
        return COARSE(images, texts, model, generator)


@dataclass(frozen=True)
class Nothing:
    """A defence that does not change anything."""

    def __call__(self, images, texts, model, generator=None):
        return classify(images, texts, model)


def test_no_defence_gives_the_undefended_numbers(model, processor, dataset):
    result = measure(model, processor, dataset, Nothing())
    assert result["random"] is False and result["draws"] == result["eot_draws"] == 1
    answers = result["answers"]
    assert answers["clean"] == answers["undefended/clean"] and answers["static"] == answers["undefended/static"]
    assert result["clean_accuracy"] > 0.8 and result["robust_accuracy"] < 0.3
    assert all(
        worst == min(pair) for worst, *pair in zip(*map(answers.get, ("robust", "static", "adaptive")), strict=True)
    )
    assert result["attack_spec"]["text_attacks"] == [] and result["attack_spec"]["multimodal_attacks"] == []


@pytest.mark.few(1)
@pytest.mark.parametrize("control", [GaussianNoise(sigma=0.4), COARSE], ids=repr)
def test_controls_fall_to_the_undefended_baseline_under_adaptive_attacks(model, processor, dataset, control):
    """tests/test_test_time_results.py says the same of digits, where the controls look robust to static attacks."""
    result = measure(model, processor, dataset, control)
    assert result["random"] is isinstance(control, GaussianNoise)
    assert result["clean_accuracy"] > 0.7
    assert result["robust_accuracy"] <= result["undefended_static_accuracy"] + 0.1
    assert result["adaptive_accuracy"] <= result["static_accuracy"]
    assert all(one["passed"] for one in result["sanity"])


def test_a_defence_that_hides_its_gradient_is_found(model, processor, dataset):
    with pytest.warns(UserWarning, match="sees a gradient"):
        result = measure(model, processor, dataset, Rounding())
    assert passed(result, "sees a gradient") is False
    shown = measure(model, processor, dataset, COARSE)
    assert shown["adaptive_accuracy"] < result["adaptive_accuracy"]
    # The static attack is not hidden by the adaptive one that failed.
    assert result["robust_accuracy"] <= result["static_accuracy"]


def test_a_defence_without_any_gradient_is_refused(model, processor, dataset):
    @dataclass(frozen=True)
    class Detached:
        def __call__(self, images, texts, model, generator=None):
            return classify(images.detach(), texts, model)

    with pytest.raises(ValueError, match="without a gradient"):
        measure(model, processor, dataset, Detached())


def test_draws_and_steps_have_an_effect_and_are_recorded(model, processor, dataset, monkeypatch):
    asked = []
    logits_of = adaptive.DefendedModel.attacked_logits
    monkeypatch.setattr(adaptive.DefendedModel, "attacked_logits", lambda *given: asked.append(1) or logits_of(*given))

    def queries(**options):
        asked.clear()
        result = measure(model, processor, dataset, GaussianNoise(sigma=0.1), max_samples=6, **options)
        return len(asked), result

    few, result = queries(eot_draws=1, adaptive_steps=2)
    assert (result["eot_draws"], result["adaptive_steps"], result["draws"]) == (1, 2, 5)
    more, _ = queries(eot_draws=3, adaptive_steps=2)
    most, _ = queries(eot_draws=3, adaptive_steps=4)
    assert few < more < most
    assert max(result["answers"]["clean"]) <= 5
    with pytest.raises(ValueError, match="`eot_draws`"):
        queries(eot_draws=0)


@pytest.mark.slow
def test_the_same_evaluation_is_read_and_goes_on(model, processor, dataset, tmp_path):
    path = tmp_path / "defended.json"
    options = {"output": path, "eot_draws": 2, "draws": 3}
    first = measure(model, processor, dataset, TTC(epsilon=0.05, step_size=0.02, threshold=1.0), **options)
    assert load_defended(path) == json.loads(path.read_text()) == json.loads(json.dumps(first))
    assert measure(model, processor, dataset, TTC(epsilon=0.05, step_size=0.02, threshold=1.0), **options) == first
    with pytest.raises(ValueError, match="another evaluation"):
        measure(model, processor, dataset, TTC(epsilon=0.05, step_size=0.02, threshold=0.5), **options)
    table = defended_table(first)
    assert all(label in table for label in LABELS.values())

    for column in COLUMNS:
        kept = {name: right for name, right in first["answers"].items() if name != column}
        with pytest.raises(ValueError, match="lacks the answers"):
            save_defended({**first, "answers": kept}, path)
    with pytest.raises(ValueError, match="its answers say"):
        save_defended({**first, "adaptive_accuracy": 0.123}, path)


@pytest.mark.slow
def test_prompts_are_tuned_under_adaptive_attack(model, processor, dataset):
    defence = RTPT(num_views=4, selected=0.5, neighbours=2, smallest=0.5)
    result = measure(model, processor, dataset, defence, eot_draws=2, draws=3, max_samples=8)
    assert result["random"] and passed(result, "sees a gradient")
    assert result["adaptive_accuracy"] < result["clean_accuracy"]


def test_the_gradient_of_a_purified_image_is_the_models_own(model, processor, dataset):
    encoder = DualEncoder(model.requires_grad_(False), processor)
    images = collate(ImageRows(dataset).__getitems__(list(range(4))))["images"]
    texts = [f"This is a photo of a {name}" for name in CLASS_NAMES]
    defended = adaptive.DefendedModel(defence=COARSE, texts=texts, model=encoder, factor=torch.tensor(1.0))
    draws = torch.Generator().manual_seed(0)

    def gradient(points, logits):
        points = points.clone().requires_grad_()
        return torch.autograd.grad(logits(points)[:, 0].sum(), points)[0]

    through = gradient(images, lambda points: defended.attacked_logits(points, draws))
    at = COARSE.purify(images, encoder)
    assert torch.equal(through, gradient(at, lambda points: classify(points, texts, encoder)))
    assert torch.equal(defended.attacked_logits(images, draws), defended.logits(images, draws))


def test_attacks_of_your_own_are_run_both_ways(model, processor, dataset):
    own = {"mine": PGD(epsilon=0.05, step_size=0.02, num_steps=4)}
    result = measure(model, processor, dataset, COARSE, image_attacks=own)
    assert result["adaptive_attacks"] == ["mine"] and result["static_accuracy"] < result["clean_accuracy"]


def test_attacks_that_judge_single_answers_are_static_only(model, processor, dataset):
    spec = ThreatModel.preset("quick", epsilon=0.05, num_steps=2, image_attacks=("strong",))
    with pytest.raises(ValueError, match="judge single answers"):
        measure(model, processor, dataset, COARSE, threat_model=spec)


def test_accuracy_is_the_share_of_right_answers():
    numbers = accuracies_of({"undefended/clean": [1, 0], "adaptive": [4, 1]}, draws=5)
    assert numbers["undefended_clean_accuracy"] == 0.5 and numbers["adaptive_accuracy"] == 0.5
    low, high = numbers["adaptive_accuracy_interval"]
    assert low < 0.5 < high


@dataclass(frozen=True)
class Untouched:
    """An `ImageDefence` that changes nothing."""

    def purify(self, images, model, generator=None):
        return images

    def __call__(self, images, texts, model, generator=None):
        return classify(images, texts, model)


def test_a_prompt_ensemble_stands_behind_a_defence_of_images(model, processor, dataset):
    templates = ("a photo of a {}", *(f"{{}} {name}" for name in CLASS_NAMES[:2]))
    weak = replace(SPEC, epsilon=0.035)
    spec = replace(weak, template=None, templates=templates)
    plain = evaluate_robustness(
        model, processor, dataset, ["clean", "image"], threat_model=spec, batch_size=12, sanity=False, progress=False
    )
    one = measure(model, processor, dataset, Untouched(), threat_model=replace(weak, template=templates[0]))
    assert 0 < plain["image_accuracy"] != one["static_accuracy"], "an ensemble that decides nothing tests nothing"
    result = measure(model, processor, dataset, Untouched(), threat_model=spec)
    assert result["clean_accuracy"] == result["undefended_clean_accuracy"] == plain["clean_accuracy"]
    assert result["static_accuracy"] == result["undefended_static_accuracy"] == plain["image_accuracy"]
    assert result["attack_spec"]["templates"] == list(templates)
    with pytest.raises(ValueError, match="`templates` is an ensemble"):
        measure(model, processor, dataset, Nothing(), threat_model=spec)
