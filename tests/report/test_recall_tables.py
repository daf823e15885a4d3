"""Retrieval results in the report: their own numbers, escaped, and damaged ones named."""

from __future__ import annotations

import json

from result_dicts import make_result
from test_retrieval import SPEC, captioned

from hf_mmcoa.evaluation import evaluate_retrieval, save_result
from hf_mmcoa.report.page import write_report


def test_a_retrieval_result_is_a_table_of_the_page(model, processor, tmp_path):
    path = tmp_path / "retrieval.json"
    options = {"attacks": ("image",), "progress": False, "output": path, "model_name": "<b>mine</b>"}
    found = evaluate_retrieval(model, processor, captioned(6), SPEC, **options)
    save_result(make_result(), tmp_path / "classes.json")
    report = write_report([tmp_path], tmp_path / "out")
    page, text = report.page.read_text(encoding="utf-8"), report.markdown.read_text(encoding="utf-8")
    assert not report.left_out and "<b>mine</b>" not in page and "&lt;b&gt;mine&lt;/b&gt;" in page
    value = f"{100 * found['image_image_to_text_recall_at_1']:.1f} ["
    assert "6 images, 3 captions" in page
    assert value in page
    assert value in text  # an interval, as in the other tables
    alone = write_report([path], tmp_path / "alone")  # without any result of classification
    assert "image to text R@1" in alone.page.read_text(encoding="utf-8")


def test_a_retrieval_result_whose_numbers_are_not_its_ranks_is_left_out(model, processor, tmp_path):
    path = tmp_path / "retrieval.json"
    evaluate_retrieval(model, processor, captioned(6), SPEC, attacks=("clean",), progress=False, output=path)
    changed = json.loads(path.read_text()) | {"clean_image_to_text_recall_at_1": 0.123}
    path.write_text(json.dumps(changed))
    save_result(make_result(), tmp_path / "classes.json")
    (left_out,) = write_report([tmp_path], tmp_path / "out").left_out
    assert "clean_image_to_text_recall_at_1 is 0.123, its ranks say" in left_out
