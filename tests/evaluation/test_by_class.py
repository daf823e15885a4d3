from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from sklearn.metrics import confusion_matrix, log_loss
from squares import CLASS_NAMES, KNOWN
from test_evaluator import Fells, evaluate, pictures

from hf_mmcoa.evaluation.attack_names import worst_cases, worst_outcome
from hf_mmcoa.evaluation.by_class import class_accuracies, confusion
from hf_mmcoa.evaluation.calibration import calibration
from hf_mmcoa.evaluation.results import load_result, save_result, validate
from hf_mmcoa.zero_shot import ZeroShotClassifier


def matrix(entries, classes=3):
    return coo_matrix((entries["count"], (entries["label"], entries["predicted"])), (classes, classes)).toarray()


def test_a_confusion_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, 200).tolist(), rng.integers(0, 5, 200).tolist()
    assert (matrix(confusion(labels, predicted), 5) == confusion_matrix(labels, predicted, labels=range(5))).all()


def test_a_class_without_samples_has_no_accuracy():
    found = class_accuracies({"clean": "1101", "image/pgd": "1001"}, [0, 0, 2, 2], 3)
    assert found == {"clean": [1.0, None, 0.5], "image": [0.5, None, 0.5]}


def test_calibration_is_that_of_the_definition():
    rng = np.random.default_rng(1)
    confidence, correct = rng.uniform(0.1, 1, 300), rng.random(300) < 0.6
    found = calibration(confidence.tolist(), correct.tolist(), [0.5] * 300)
    edges, expected = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert found["ece"] == pytest.approx(expected) and found["nll"] == 0.5
    assert sum(found["bins"]["count"]) == 300 and found["bins"]["accuracy"][0] is None


def test_a_sure_and_right_model_has_no_error():
    assert calibration([1.0, 1.0], [True, True], [0.0, 0.0])["ece"] == 0
    assert calibration([1.0, 1.0], [False, False], [9.0, 9.0])["ece"] == 1


def test_values_differ_in_length():
    with pytest.raises(ValueError, match="one value a sample, got 1, 2 and 1"):
        calibration([0.5], [True, False], [0.1])


@pytest.fixture(scope="module")
def standard(_trained, dataset):
    """A result under all kinds of attacks; the weights are not changed."""
    spec = {"text_attacks": ("words", "embedding"), "multimodal_attacks": ("independent", "adaptive", "sga")}
    return evaluate(*_trained, dataset, threat_model=spec)


def test_clean_numbers_are_those_of_the_model(standard, model, processor, dataset):
    batch = pictures(dataset)
    with torch.no_grad():
        logits = ZeroShotClassifier(model, processor, CLASS_NAMES)(batch["images"])
    labels, predicted = batch["labels"].numpy(), logits.argmax(1).numpy()
    expected = confusion_matrix(labels, predicted)
    assert (matrix(standard["confusion"]["clean"]) == expected).all()
    assert standard["class_accuracies"]["clean"] == (expected.diagonal() / expected.sum(1)).tolist()
    probabilities = logits.double().softmax(1).numpy()
    assert standard["calibration"]["clean"]["nll"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert standard["calibration"]["clean"]["confidence"] == pytest.approx(probabilities.max(1).mean(), rel=1e-5)


def test_attacked_numbers_are_those_of_the_worst_cases(standard):
    for kind in ("clean", "image", "text", "multimodal"):
        outcome = worst_outcome(standard, worst_cases(standard)[f"{kind}_accuracy"])
        found = matrix(standard["confusion"][kind])
        assert found.sum() == standard["num_samples"] and found.trace() == outcome.count("1")
        assert found.sum(1).tolist() == np.bincount(standard["labels"]).tolist()
        assert found.diagonal().sum() / found.sum() == standard[f"{kind}_accuracy"]
    assert standard["image_accuracy"] < standard["clean_accuracy"]
    assert set(standard["calibration"]) == {"clean", "image"}
    assert standard["calibration"]["image"]["nll"] > standard["calibration"]["clean"]["nll"]


def test_an_attack_that_rolls_the_channels_has_the_confusion_of_the_next_class(model, processor, dataset):
    """By hand: of all rows the channels are shifted by one, so what is right becomes the next class."""
    result = evaluate(model, processor, dataset, ["image"], image_attacks={"rolls": Fells(dataset, set(range(24)))})
    found = matrix(result["confusion"]["image"])
    batch = pictures(dataset)
    with torch.no_grad():
        classifier = ZeroShotClassifier(model, processor, CLASS_NAMES)
        clean, rolled = classifier(batch["images"]), classifier(batch["images"].roll(1, 1))
    right = clean.argmax(1) == batch["labels"]
    images = torch.where(right[:, None, None, None], batch["images"].roll(1, 1), batch["images"])
    expected = torch.where(right, rolled.argmax(1), clean.argmax(1))
    assert (found == confusion_matrix(batch["labels"], expected)).all()
    with torch.no_grad():
        probabilities = classifier(images).double().softmax(1)
    nll = -probabilities[torch.arange(24), batch["labels"]].log().mean()
    assert result["calibration"]["image"]["nll"] == pytest.approx(float(nll), rel=1e-5)


def test_batches_and_restarts_change_nothing_of_the_form(model, processor, dataset):
    spec = {"restarts": 2, "skip_fallen": False}
    result = evaluate(model, processor, dataset, ["image"], threat_model=spec, batch_size=7)
    assert matrix(result["confusion"]["image"]).trace() / 24 == result["image_accuracy"]


def test_without_image_attacks_there_is_no_attacked_calibration(model, processor, dataset):
    result = evaluate(model, processor, dataset, ["text"], candidates=KNOWN)
    assert set(result["calibration"]) == {"clean"} and set(result["confusion"]) == {"clean", "text"}


def test_an_older_file_without_the_fields_is_read(standard, tmp_path):
    old = {key: each for key, each in standard.items() if key not in ("confusion", "class_accuracies", "calibration")}
    save_result(old, tmp_path / "old.json")
    assert load_result(tmp_path / "old.json")["clean_accuracy"] == standard["clean_accuracy"]


@pytest.mark.parametrize(
    ("field", "change", "said"),
    [
        ("class_accuracies", lambda found: found["clean"].reverse() or found["image"].append(0.5), "class_accuracies"),
        ("confusion", lambda found: found["image"]["count"].append(3), "as many labels"),
        ("confusion", lambda found: found["image"]["count"].__setitem__(0, 99), "not that of the outcomes"),
        ("confusion", lambda found: found["image"]["predicted"].__setitem__(0, 7), "not named"),
        ("calibration", lambda found: found["clean"].update(ece=2.0), "outside its range"),
        ("calibration", lambda found: found["clean"]["bins"]["count"].append(1), "15 bins"),
        ("calibration", lambda found: found["clean"].update(bins=3), "must be"),
        ("calibration", lambda found: found["clean"].update(nll="1"), "must be a number"),
    ],
)
def test_numbers_that_contradict_the_outcomes_are_refused(standard, field, change, said):
    damaged = copy.deepcopy(standard)
    change(damaged[field])
    with pytest.raises(ValueError, match=said):
        validate(damaged)


def test_a_thousand_classes_stay_small():
    """Of 5,000 samples of 1,000 classes the matrix has a million entries; the file holds those that are not zero."""
    labels = [row % 1000 for row in range(5000)]
    found = confusion(labels, [(label + row % 7) % 1000 for row, label in enumerate(labels)])
    assert len(found["count"]) <= 5000 and math.fsum(found["count"]) == 5000
