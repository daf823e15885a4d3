"""The multiplications that benchmarks count are those that torch counts while the same step runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOT_ENCODERS = 0.01  # of all multiplications: logits and cosines


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's modules by name; they import each other from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def multiplications(call: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


@pytest.mark.few(1)
@pytest.mark.parametrize("pieces", [0, 3])
def test_our_step_and_its_bare_loop_do_what_is_counted(modules: Any, pieces: int) -> None:
    subject, step, arithmetic = map(modules, ("subject", "training_step", "arithmetic"))
    sides = step.Sides(subject.subject(quick=True), 6, 3, pieces)
    distinct = [*sides.distinct, *dict.fromkeys(sides.adv_texts)]
    given = (sides.encoder, sides.prompts, sides.encoded, distinct, 6, 3)
    expected = sum(arithmetic.of_ours(*given, recomputed=pieces > 0).values())
    assert multiplications(sides.ours) == pytest.approx(expected, rel=NOT_ENCODERS)
    assert multiplications(sides.own_arithmetic) == pytest.approx(expected, rel=NOT_ENCODERS)
    assert multiplications(lambda: sides.our_attack(3)) < 0.9 * expected  # the counter does see the difference


def test_the_published_step_does_what_is_counted(modules: Any) -> None:
    subject, step = map(modules, ("subject", "training_step"))
    sides = step.Sides(subject.subject(quick=True), 6, 1)
    options = SimpleNamespace(batch_size=6, steps=1, pieces=0, published_steps=1, published_texts=6)
    count = step.counted(sides, options)
    found = multiplications(lambda: sides.published_parts(1, 1, texts=6, seed=0, part=1))
    assert set(count["published"]) == {"image_attack", "text_attack", "loss"}
    assert found == pytest.approx(count["published_total"], rel=NOT_ENCODERS)
    assert count["published_over_ours"] == count["published_total"] / count["ours_total"] > 5


def test_without_runs_a_step_is_counted_alone(modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    step = modules("training_step")
    argv = [
        "training_step.py",
        "--quick",
        "--batch-size",
        "4",
        "--runs",
        "0",
        "--output",
        str(tmp_path / "result.json"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(step.Sides, "ours", None)  # nothing is run
    step.main()
    (case,) = json.loads((tmp_path / "result.json").read_text())["classes"]
    assert case["counted"]["published_over_ours"] > 1 and not case["runs"]


def test_a_forward_of_vit_b32_by_hand(modules: Any) -> None:
    from transformers import CLIPConfig

    config, arithmetic = CLIPConfig(), modules("arithmetic")
    # 49 patches and a class token, 12 layers of width 768: 4 projections and an MLP of 4 times the width, two products
    # of 50 x 50; the convolution of 32 x 32 x 3 pixels; the projection of one token.
    layers = 12 * (50 * 12 * 768**2 + 2 * 50**2 * 768)
    assert arithmetic.image(config).forward == layers + 49 * 3 * 32**2 * 768 + 768 * 512
    text = 12 * (77 * 12 * 512**2 + 2 * 77**2 * 512) + 512 * 512
    assert arithmetic.row_of_tokens(config, 77).forward == text


def test_a_part_of_the_published_step_is_scaled_to_the_whole(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, step, measure = map(modules, ("subject", "training_step", "measure"))
    sides, sizes = step.Sides(subject.subject(quick=True), 8, 1), []  # of our side one step is timed

    def timed(call: Any) -> tuple[Any, dict[str, float]]:
        return call(), {"wall": 1.0, "cpu": 2.0}

    attack_step = step.PublishedStep.attack_step

    def watched(self: Any, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append((len(images), len(self.prompts)))
        return attack_step(self, images, *rest)

    monkeypatch.setattr(measure, "timed", timed)
    monkeypatch.setattr(step.PublishedStep, "attack_step", watched)
    seconds, *_ = sides.published_parts(2, 1, texts=2, seed=0, part=4)
    assert sizes == [(2, 3)]  # of 8 images and 12 prompts
    assert seconds == {"wall": 4 * (2 + 1) + 8 / 2, "cpu": 2 * (4 * (2 + 1) + 8 / 2)}


def test_the_counted_table_is_that_of_the_files(modules: Any) -> None:
    files = [BENCHMARKS / "results" / f"training_step_counted_{batch_size}.json" for batch_size in (16, 256)]
    table = modules("training_step").markdown([json.loads(file.read_text(encoding="utf-8")) for file in files])
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert page.split("<!-- counted -->")[1].strip().split("\n\n")[0] == table
