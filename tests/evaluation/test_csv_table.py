from __future__ import annotations

import csv

import pytest
from result_dicts import make_result

from hf_mmcoa.evaluation.csv_table import COLUMNS, write_csv


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_model_data_set_and_metric(tmp_path):
    results = [make_result(model="a, b"), make_result(model="other", dataset="stl10/test", epsilon=4 / 255)]
    write_csv(results, tmp_path / "numbers.csv")
    found = rows(tmp_path / "numbers.csv")
    assert tuple(found[0]) == COLUMNS
    keys = [(row["model"], row["dataset"], row["metric"]) for row in found]
    assert len(set(keys)) == len(keys)
    for result in results:
        own = {row["metric"]: row for row in found if row["model"] == result["model"]}
        assert float(own["image_accuracy"]["value"]) == result["image_accuracy"]
        assert float(own["image_accuracy"]["low"]) == result["image_accuracy_interval"][0]
        assert float(own["attacks/image/pgd-ce"]["value"]) == result["attacks/image/pgd-ce"]
        assert float(own["clean_accuracy"]["epsilon"]) == result["attack_spec"]["epsilon"]
        assert own["text_accuracy"]["interval_over"] == "classes" and not {"seed", "format"} & set(own)


def test_calibration_is_in_it(tmp_path):
    sure = {"ece": 0.25, "nll": 1.5, "confidence": 0.7, "bins": {}}
    write_csv([make_result(calibration={"image": sure})], tmp_path / "numbers.csv")
    found = {row["metric"]: row["value"] for row in rows(tmp_path / "numbers.csv")}
    assert found["calibration/image/ece"] == "0.25" and found["calibration/image/nll"] == "1.5"


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "-2", "+3"])
def test_a_name_is_no_formula(tmp_path, name):
    write_csv([make_result(model=name)], tmp_path / "numbers.csv")
    assert rows(tmp_path / "numbers.csv")[0]["model"] == f"'{name}"
