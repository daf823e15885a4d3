"""Results of test-time defences in a report: both columns in HTML and Markdown, or a reason why not."""

from __future__ import annotations

import json

from hf_mmcoa.defences import Quantise
from hf_mmcoa.evaluation import ThreatModel, evaluate_defence
from hf_mmcoa.report.page import write_report


def test_static_and_adaptive_stand_side_by_side_and_a_damaged_file_is_left_out(model, processor, dataset, tmp_path):
    spec = ThreatModel.preset("quick", epsilon=0.1, num_steps=3)
    path = tmp_path / "defended.json"
    result = evaluate_defence(
        model, processor, dataset, Quantise(levels=4), threat_model=spec, output=path, progress=False, model_name="tiny"
    )
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({**result, "static_accuracy": 0.987}))
    report = write_report([path, broken], tmp_path / "report")
    assert len(report.left_out) == 1 and "static_accuracy is 0.987" in report.left_out[0]
    for page in (report.page, report.markdown):
        text = page.read_text()
        assert "Test-time defence: tiny on" in text and "Quantise(levels=4)" in text
        assert text.index("static") < text.index("adaptive")
        for name in ("static_accuracy", "adaptive_accuracy", "robust_accuracy"):
            assert f"{100 * result[name]:.1f} [" in text
    assert "one answer to each sample" in report.page.read_text()
