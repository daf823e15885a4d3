from __future__ import annotations

import json

import pytest

from hf_mmcoa.evaluation import ThreatModel, compare, load_result, save_result
from hf_mmcoa.evaluation.attack_names import worst_case_attacks
from hf_mmcoa.evaluation.results import FORMAT, partial_folder


def hand_made(clean="1111", image="1100", **changes):
    outcomes = {"clean": clean, "image/pgd-ce": image}
    worst = "".join("1" if a == b == "1" else "0" for a, b in zip(clean, image, strict=True))
    return {
        "format": FORMAT,
        "clean_accuracy": clean.count("1") / 4,
        "image_accuracy": worst.count("1") / 4,
        "worst_case_accuracy": worst.count("1") / 4,
        **{f"attacks/{name}": outcome.count("1") / 4 for name, outcome in outcomes.items()},
        "attack_spec": ThreatModel().to_dict(),
        "outcomes": outcomes,
        "row_ids": [0, 1, 2, 3],
        "labels": [0, 1, 0, 1],
        "num_samples": 4,
        "seed": 0,
        "versions": {},
        "dataset": "squares",
        "fingerprints": {"data": "d", "model": "m", "specification": "s"},
        **changes,
    }


def test_a_result_survives_the_disk(tmp_path):
    save_result(hand_made(), tmp_path / "deep" / "result.json")
    assert load_result(tmp_path / "deep" / "result.json") == hand_made()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["result.json"]  # no scratch file is left


def test_a_file_cut_off_in_the_middle_says_so_and_where_the_rest_is(tmp_path):
    path = tmp_path / "result.json"
    save_result(hand_made(), path)
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ValueError, match="cut off"):
        load_result(path)
    partial_folder(path).mkdir()
    with pytest.raises(ValueError, match=r"finished batches in .* are intact"):
        load_result(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outcomes": {"clean": "111", "image/pgd-ce": "1100"}}, "3 outcomes of clean"),
        ({"outcomes": {"clean": "1011", "image/pgd-ce": "1100"}}, "its outcomes say 0.75"),
        ({"outcomes": {"clean": "111x", "image/pgd-ce": "1100"}}, "other signs"),
        ({"row_ids": [0]}, "1 row_ids"),
        ({"format": 0}, "format 0"),
        ({"attack_spec": {"epsilon": 1}}, "lacks"),
        ({"image_accuracy_interval_over": "samples"}, "must be one of images, classes, got 'samples'"),
        ({"image_accuracy_effective_samples": "many"}, "`image_accuracy_effective_samples` must be a number"),
    ],
)
def test_what_contradicts_itself_is_no_result(changes, text):
    with pytest.raises(ValueError, match=text):
        save_result(hand_made(**changes), "nowhere.json")


def test_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_result(hand_made(note=float("nan")), tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_another_json_file_is_no_result(tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds a list"):
        load_result(path)


def test_two_models_are_compared_sample_by_sample():
    first, second = hand_made(image="1000"), hand_made(clean="0111", image="0111")
    paired = compare(first, second)
    # image, worst case with clean: 1000 against 0111
    assert paired["image_accuracy"] == {
        "first": 0.25,
        "second": 0.75,
        "difference": 0.5,
        "only_first": 1,
        "only_second": 3,
        "p_value": pytest.approx(10 / 16),  # 2 (1 + 4) / 2^4
        "test": "McNemar",
        "over": "images",
    }
    assert paired["clean_accuracy"]["only_first"] == 1 and paired["clean_accuracy"]["p_value"] == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attack_spec": ThreatModel(epsilon=0.5, step_size=0.1).to_dict()}, "epsilon"),
        ({"row_ids": [0, 1, 2, 4]}, "row_ids differ"),
        ({"labels": [1, 1, 0, 1]}, "labels differ"),
        ({"fingerprints": {"data": "e"}}, "fingerprints d and e"),
    ],
)
def test_what_is_not_comparable_is_not_compared(changes, text):
    with pytest.raises(ValueError, match=text):
        compare(hand_made(), hand_made(**changes))


def test_a_difference_may_be_let_pass_by_name():
    other = hand_made(attack_spec=ThreatModel(seed=1).to_dict())
    with pytest.raises(ValueError, match="seed: 0 and 1"):
        compare(hand_made(), other)
    assert compare(hand_made(), other, ignore=("seed",))["clean_accuracy"]["difference"] == 0


def test_each_accuracy_is_the_worst_case_of_its_own_attacks():
    attacks = [
        "clean",
        "image/pgd-ce",
        "text/words/all",
        "text/words/all:unseen",
        "text/characters/all",
        "text/embedding/own",
        "multimodal/joint",
        "multimodal/joint:unseen",
    ]
    groups = worst_case_attacks(attacks, by_adversary=False)
    assert groups.pop("worst_case_accuracy") == attacks
    assert groups == {
        "clean_accuracy": ["clean"],
        "image_accuracy": ["clean", "image/pgd-ce"],
        "text_accuracy": ["clean", "text/words/all", "text/characters/all"],
        "text_unseen_accuracy": ["clean", "text/words/all:unseen", "text/characters/all"],
        "multimodal_accuracy": ["clean", "image/pgd-ce", "text/words/all", "text/characters/all", "multimodal/joint"],
        "multimodal_unseen_accuracy": [
            "clean",
            "image/pgd-ce",
            "text/words/all:unseen",
            "text/characters/all",
            "multimodal/joint:unseen",
        ],
        "embedding_accuracy": ["clean", "text/embedding/own"],
    }
