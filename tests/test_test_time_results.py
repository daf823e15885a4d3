"""What docs/test-time.md says of its committed results: the controls look robust until they are attacked adaptively."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mmcoa.evaluation import load_defended

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "test-time"
CONTROLS = ("noise", "quantise")


def result(model: str, defence: str):
    return load_defended(RESULTS / f"{model}-{defence}.json")


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_falls_to_the_undefended_baseline(control):
    found = result("pretrained", control)
    _, noise = found["undefended_static_accuracy_interval"]  # what 60 samples cannot tell from the baseline
    assert found["undefended_clean_accuracy"] > 0.9 and found["clean_accuracy"] > 0.85
    assert found["adaptive_accuracy"] <= found["undefended_static_accuracy"] + noise
    assert found["robust_accuracy"] <= found["undefended_static_accuracy"] + noise


def test_rounding_looks_robust_to_static_attacks_alone():
    found = result("pretrained", "quantise")
    assert found["static_accuracy"] > found["undefended_static_accuracy_interval"][1]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_every_adaptive_attack_saw_a_gradient(file):
    checks = {one["check"]: one["passed"] for one in load_defended(file)["sanity"]}
    assert checks["inside the ball"] and checks["adaptive: sees a gradient through the defence"]
