from __future__ import annotations

import json

import pytest
from result_dicts import OUTCOMES, make_result

from hf_mmcoa.evaluation.by_class import class_accuracies, confusion
from hf_mmcoa.evaluation.calibration import calibration
from hf_mmcoa.evaluation.results import save_result
from hf_mmcoa.report.charts import Series
from hf_mmcoa.report.class_tables import class_lines, class_tables, family_table, most_confused, worst_classes
from hf_mmcoa.report.page import write_report

SURE = calibration([0.95] * 10, [True] * 9 + [False], [0.1] * 10)


def result(**changes):
    """Ten samples of two classes in turn; what is misclassified is taken for the other class."""
    labels = [row % 2 for row in range(10)]
    image = [label if sign == "1" else 1 - label for label, sign in zip(labels, OUTCOMES["image/pgd-ce"], strict=True)]
    fields = {
        "class_accuracies": class_accuracies(OUTCOMES, labels, 2),
        "confusion": {"image": confusion(labels, image)},
        "calibration": {"clean": SURE},
    }
    return make_result(**fields | changes)


def report(tmp_path, *results):
    files = []
    for number, one in enumerate(results):
        save_result(one, tmp_path / f"{number}.json")
        files.append(tmp_path / f"{number}.json")
    written = write_report(files, tmp_path / "report")
    assert not written.left_out
    return written.page.read_text(encoding="utf-8"), written.markdown.read_text(encoding="utf-8")


def test_the_page_shows_classes_confusions_and_calibration(tmp_path):
    page, markdown = report(tmp_path, result())
    assert "| cat | 100.0 | 40.0 | 60.0 | 20.0 |" in markdown and "| dog | 80.0 | 40.0 | 60.0 | 20.0 |" in markdown
    assert "- image: cat as dog (3 of 5); dog as cat (3 of 5)" in markdown
    assert "| before | clean | 5.0 | 0.1 | 95.0 | 90.0 |" in markdown
    assert "<td>cat</td><td>100.0</td><td>40.0</td>" in page and "Calibration" in page


def test_an_older_result_has_no_such_tables(tmp_path):
    page, markdown = report(tmp_path, make_result())
    assert all("Calibration" not in text and "confusions" not in text for text in (page, markdown))


def test_of_a_thousand_classes_the_worst_are_shown(tmp_path):
    labels, names = list(range(1000)), [f"class {number}" for number in range(1000)]
    outcomes = {"clean": "1" * 990 + "0" * 10, "image/pgd-ce": "1" * 500 + "0" * 500}
    taken_for = [label if label < 500 else (label + 1) % 1000 for label in labels]
    many = make_result(
        outcomes,
        labels=labels,
        class_names=names,
        prompts=names,
        adv_prompts={},
        class_accuracies=class_accuracies(outcomes, labels, 1000),
        confusion={"image": confusion(labels, taken_for)},
    )
    assert worst_classes(many)[:10] == list(range(990, 1000))
    assert len(most_confused(many, "image")) == 8
    page, markdown = report(tmp_path, many)
    assert "and 980 more" in page and "and 980 more" in markdown
    assert markdown.count("| class ") == 21 and (tmp_path / "0.json").stat().st_size < 200_000


def test_foreign_class_names_stay_text(tmp_path):
    page, markdown = report(tmp_path, result(class_names=["<b>cat", "a|b"]))
    assert "<b>cat" not in page and "&lt;b&gt;cat" in page and "a\\|b" in markdown


def test_a_terminal_gets_a_few_lines():
    assert class_lines(result()) == [
        "calibration, clean: ECE 5.0, NLL 0.1, confidence 95.0",
        "worst classes, multimodal: cat 20.0, dog 20.0",
        "most confused, image: cat as dog 3/5, dog as cat 3/5",
    ]
    assert class_lines(make_result()) == []


FAMILIES = {
    "families/keyboard/mean": 0.7,
    "families/keyboard/worst": 0.2,
    "families/keyboard/num_texts": 40,
    "families/synonyms/mean": 0.9,
    "families/synonyms/worst": 0.9,
    "families/synonyms/num_texts": 0,
    "families/affixes/mean": 0.9,
    "families/affixes/worst": 0.5,
    "families/affixes/num_texts": 12,
    "families/worst": 0.1,
}


def test_families_of_texts_have_a_table_with_the_worst_named(tmp_path):
    page, markdown = report(tmp_path, make_result(**FAMILIES))
    assert "| keyboard | 40 | 70.0 | 20.0 |" in markdown and "| synonyms | 0 | \\- | \\- |" in markdown
    said = "before: worst is keyboard, 20.0; under the worst text of any family 10.0."
    assert said in page and f"- {said}" in markdown
    assert "<td>affixes</td><td>12</td><td>90.0</td><td>50.0</td>" in page


def test_without_families_there_is_no_table(tmp_path):
    assert family_table([Series(name="m", place=0, results=[make_result()])])["rows"] == []
    assert "Families of text" not in report(tmp_path, make_result())[0]


@pytest.mark.parametrize("value", ["many", None, [0.5]])
def test_a_family_that_is_no_number_is_left_out(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(make_result(**FAMILIES | {"families/keyboard/mean": value})))
    with pytest.raises(ValueError, match="families/keyboard/mean"):
        write_report([tmp_path / "a.json"], tmp_path / "report")


def test_models_without_the_fields_are_left_out_of_the_table():
    series = [Series(name="new", place=0, results=[result()]), Series(name="old", place=1, results=[make_result()])]
    assert [block["model"] for block in class_tables(series)] == ["new"]
