from __future__ import annotations

import re
from pathlib import Path

import evaluate
import pytest
from squares import CLASS_NAMES
from transformers import pipeline

from hf_mmcoa.evaluation import ThreatModel, evaluate_robustness
from hf_mmcoa.evaluation.metrics import METRICS, metric_path


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)


def load(name):
    return evaluate.load(metric_path(name))


def test_clean_accuracy():
    assert load("clean_accuracy").compute(predictions=[0, 1, 2], references=[0, 1, 1]) == {"clean_accuracy": 2 / 3}


def test_robust_accuracy_is_the_worst_case_of_each_sample():
    # Each of the two attacks leaves 2 of 3; together they leave 1.
    metric = load("robust_accuracy")
    assert metric.compute(predictions=[[0, 0], [1, 0], [0, 2]], references=[0, 1, 2]) == {"robust_accuracy": 1 / 3}
    assert metric.compute(predictions=[[0], [1, 0]], references=[0, 1]) == {"robust_accuracy": 1 / 2}
    with pytest.raises(ValueError, match="sample 1 are empty"):
        metric.compute(predictions=[[0], []], references=[0, 1])


def test_attack_success_rate_counts_the_correct_ones_only():
    metric = load("attack_success_rate")
    rate = metric.compute(predictions=[0, 1, 2, 0], adv_predictions=[0, 0, 1, 0], references=[0, 1, 2, 1])
    assert rate == {"attack_success_rate": 2 / 3}
    assert metric.compute(predictions=[1], adv_predictions=[0], references=[0]) == {"attack_success_rate": None}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", METRICS)
def test_the_cards_example_gives_what_the_card_says(name):
    card = (Path(metric_path(name)) / "README.md").read_text()
    call, expected = re.search(r"metric\.compute\((.*)\)  # (.*)", card).groups()
    assert load(name).compute(**eval(f"dict({call})")) == eval(expected)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="choose from clean_accuracy"):
        metric_path("accuracy")


def test_predictions_of_a_pipeline_give_the_numbers_of_the_evaluation(model, processor, dataset):
    """The module's example: a pipeline and an attack of the user's own, here images of one grey each."""
    classify = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )

    def predict(images):
        found = classify(images, candidate_labels=CLASS_NAMES, hypothesis_template="This is a photo of a {}")
        return [CLASS_NAMES.index(scores[0]["label"]) for scores in found]

    images, labels = list(dataset["image"]), list(dataset["label"])
    clean = predict(images)
    attacked = predict([image.resize((1, 1)).resize(image.size).convert("L").convert("RGB") for image in images])
    result = evaluate_robustness(
        model, processor, dataset, ("image",), threat_model=ThreatModel(num_steps=1), progress=False
    )
    accuracy = load("clean_accuracy").compute(predictions=clean, references=labels)["clean_accuracy"]
    assert accuracy == result["clean_accuracy"] and result["predictions"] == clean
    robust = load("robust_accuracy").compute(predictions=list(zip(clean, attacked, strict=True)), references=labels)
    rate = load("attack_success_rate").compute(predictions=clean, adv_predictions=attacked, references=labels)
    assert 0 < robust["robust_accuracy"] < accuracy
    assert robust["robust_accuracy"] == pytest.approx(accuracy * (1 - rate["attack_success_rate"]))
