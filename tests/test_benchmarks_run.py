"""The benchmarks run: in their tiny mode both sides end alike, which they check themselves; the JSON is complete."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_mmcoa import ZeroShotClassifier
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.testbed.digits import vocabulary
from hf_mmcoa.testbed.tiny_clip import tiny_clip

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMON = {"benchmark", "command", "date", "machine", "versions", "num_runs", "runs", "settings", "target"}
OPTIONS = {
    "text_attack_speed": ["--prompts", "24", "--sample", "4", "--single", "1"],
    "evaluation_speed": ["--images", "3", "--steps", "2"],
    "training_step": ["--batch-size", "4", "--steps", "2"],
    "exhaustive_speed": ["--prompts", "2"],
}
SIDES = {
    "text_attack_speed": {"ours", "per_text", "per_variant"},
    "evaluation_speed": {"own_arithmetic", "evaluator", "early_stopping"},
    "training_step": {"ours", "own_arithmetic", "fast", "shared", "published"},
    "exhaustive_speed": {"ours", "bare"},
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a benchmark as its command would, without the seconds that a new process takes; gives its JSON."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *more: str) -> dict[str, Any]:
        output = tmp_path / "new" / "result.json"
        argv = [f"{name}.py", "--quick", "--runs", "2", "--output", str(output), *OPTIONS[name], *more]
        monkeypatch.setattr(sys, "argv", argv)
        importlib.import_module(name).main()
        return json.loads(output.read_text())

    return run


@pytest.mark.few(1)
@pytest.mark.parametrize("name", OPTIONS)
def test_quick_mode_measures_every_side_and_judges_nothing(
    name: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(name)
    assert set(result) >= COMMON
    assert result["benchmark"] == name and result["num_runs"] == len(result["runs"]) == 2
    assert result["quick"] is True and result["met"] is None
    assert "torch" in result["versions"] and result["machine"]["threads"] == 1
    for one in result["runs"]:
        assert set(one) >= SIDES[name]
        assert all(one[side][clock] > 0 for side in SIDES[name] for clock in ("wall", "cpu"))

    lines = capsys.readouterr().out.splitlines()
    assert len({len(line.rstrip()) for line in lines if line.startswith("run ")}) == 1  # aligned
    assert "not judged" in lines[-1]


@pytest.mark.slow
def test_outside_attacks_count_what_falls_beyond_each_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("pyautoattack", "foolbox", "torchattacks"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for part in tiny_clip(vocabulary(), image_size=8, patch_size=2):
        part.save_pretrained(tmp_path / "model")
    argv = ["--quick", "--radii", "0.001", "--beyond", "0", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", ["outside_attacks.py", str(tmp_path / "model"), *argv])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("outside_attacks").main()
    assert not ended.value.code
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result) >= COMMON and result["met"] is None
    (one,) = result["runs"]
    assert set(one["robust"]) == set(one["beyond"]) == set(one["seconds"]) == {"former", "standard", "strong"}
    assert one["attacked"] == max(one["robust"].values()), "0 leaves no sample out"
    assert "not judged" in capsys.readouterr().out.splitlines()[-1]


def test_text_attack_ratios_and_counts_by_hand(run: Run) -> None:
    result = run("text_attack_speed")
    first, second = (one["per_text"]["wall"] / one["ours"]["wall"] for one in result["runs"])
    assert result["speedup"]["per_text"]["wall"]["runs"] == pytest.approx([first, second])
    assert result["speedup"]["per_text"]["wall"]["median"] == pytest.approx((first + second) / 2)

    # 24 prompts of 12 classes, one of whose names ("aquarium fish") has two words. Ours: 12 + 2 + 12 * 10.
    assert result["counts"]["distinct_texts"] == 12
    assert result["counts"]["ours_encodes"] == 134
    # One at a time: each prompt itself, 7 or 8 variants of its words, and 11 candidates.
    assert 24 * 19 <= result["counts"]["per_text_encodes"] <= 24 * 20


def test_template_words_may_be_attacked_as_in_the_release(run: Run) -> None:
    result = run("text_attack_speed", "--attack-template")
    assert result["settings"]["protect_template"] is False
    # "photo" is a rival of every class name now, so importance is looked at: 12 clean, 13 words of names, 12 "photo".
    assert result["counts"]["ours_encodes"] == 12 + 13 + 12 + 120


def test_another_text_than_the_best_is_an_error_and_a_tie_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    speed, subject = (importlib.import_module(name) for name in ("text_attack_speed", "subject"))
    measured = subject.subject(quick=True)
    encoder = DualEncoder(measured.model, measured.processor)
    slow = speed.OneAtATime(encoder, measured.candidates, {"this", "is", "a", "photo", "of"}, "text")
    text = "This is a photo of a bear"
    (best,) = slow([text])
    assert best != text
    assert speed.check_same(slow, [text], [best], [best]) == []
    with pytest.raises(RuntimeError, match="of 'This is a photo of a bear' ours makes"):
        speed.check_same(slow, [text], [text], [best])
    monkeypatch.setattr(speed, "ROUNDING", 1.0)  # now everything is as good as the best
    assert speed.check_same(slow, [text], [text], [best]) == [[text, text, best]]


def test_the_table_of_attack_libraries_is_that_of_the_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    libraries = importlib.import_module("attack_libraries")
    result = json.loads((BENCHMARKS / "results" / "attack_libraries.json").read_text(encoding="utf-8"))
    page = (BENCHMARKS.parent / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert page.split("<!-- attack-libraries -->")[1].split("<!--")[0].strip() == libraries.markdown(result)
    assert result["met"] and not result["quick"]


def test_an_attack_that_steps_outside_runs_with_clamping_and_a_broken_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    libraries = importlib.import_module("attack_libraries")
    model, processor = tiny_clip(vocabulary(), image_size=8, patch_size=2)
    choices = dict(zip(libraries.WAYS, ("raise", "clamp"), strict=False))
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])

    def way(step: float) -> str:
        def build(way: str) -> Callable[..., torch.Tensor]:
            classifier = ZeroShotClassifier(model, processor, ["zero", "one"], on_out_of_range=choices[way])
            return lambda images, labels: classifier(images + step).sum() * 0 + images

        return libraries.look(build, images, labels, seconds=30)["way"]

    assert [way(0.0), way(1.0), way(float("nan"))] == list(libraries.WAYS)
