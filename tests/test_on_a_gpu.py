"""A GPU computes what a CPU does. Skipped without one; `pytest -m gpu tests/test_on_a_gpu.py` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import gpu_correctness
import gpu_speed
from gpu_bench import Bench

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("check", gpu_correctness.CHECKS, ids=lambda check: check.__name__)
def test_a_gpu_computes_what_a_cpu_does(check, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    findings = list(check(Bench("cuda", quick=True)))
    assert findings
    assert [each for each in findings if not each.get("passed", True)] == []


def test_the_host_never_waits_in_a_step_of_the_image_attack():
    per_step, _ = gpu_speed.reads(Bench("cuda", quick=True))
    assert per_step["passed"], per_step


def test_a_captured_step_is_the_step():
    findings = list(gpu_speed._graph(Bench("cuda", quick=True), "vit-b-32", 4))
    assert findings[-1]["passed"], findings
