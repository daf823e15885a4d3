"""The benchmark of a GPU, without one: its sections run on a CPU, and what goes wrong in one is kept apart."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_script

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NEED_CUDA = {"steps": "peak memory", "attack": "CUDA graph"}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's modules by name; they import each other from their own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def options(gpu: Any, **settings: Any) -> Any:
    given = {"device": "cpu", "quick": True, "threads": 1, **settings}
    return type("Options", (), given)()


@pytest.mark.slow
def test_every_section_runs_on_a_cpu_and_says_what_needs_cuda(
    modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forked(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, *run_script(Path(command[1]), *command[2:]))

    output = tmp_path / "gpu.json"
    monkeypatch.setattr(subprocess, "run", forked)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--device", "cpu", "--output", str(output)])
    modules("gpu").main()
    shown = capsys.readouterr().out
    result = json.loads(output.read_text())
    assert result["failed"] == [] and result["met"] is None and result["device"] == {"name": "cpu"}
    sections = result["sections"]
    assert list(sections) == ["correctness", "reads", "steps", "attack", "evaluation", "parts", "compiled"]
    for name, section in sections.items():
        assert section["ended"] == "whole" and section["found"], name
        waiting = [each["what"] for each in section["found"] if each["value"] == "needs CUDA"]
        assert all(NEED_CUDA[name] in what for what in waiting) and bool(waiting) == (name in NEED_CUDA), name
        assert f"{name}: whole" in shown
    assert sum(each["passed"] for each in sections["correctness"]["found"] if "passed" in each) > 15
    shares = [each["value"] for each in sections["parts"]["found"] if "share of" in each["what"]]
    assert sum(shares) == pytest.approx(1)


def test_the_limits_of_all_sections_stay_below_nine_minutes(modules: Any) -> None:
    assert sum(section.limit for section in modules("gpu").SECTIONS.values()) < 9 * 60


def test_without_a_gpu_it_says_so(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device: --quick --device cpu"):
        modules("gpu").main()


def test_a_section_that_hangs_keeps_what_it_found(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = modules("gpu")

    def hang(command: list[str], timeout: float, **settings: Any) -> None:
        rows = Path(command[command.index("--rows") + 1])
        rows.write_text('{"what": "first", "value": 1, "unit": ""}\n{"what": "sec')
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    result = gpu.in_process("reads", 7, options(gpu))
    assert result["ended"] == "stopped after 7 s"
    assert [each["what"] for each in result["found"]] == ["first"]
    assert "reads: stopped after 7 s" in gpu.show("reads", result)
    assert gpu.in_process("reads", -1, options(gpu))["ended"] == "not begun: no time was left"


@pytest.mark.slow
def test_a_section_that_fails_stops_no_other(
    modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, in_process = modules("gpu"), modules("gpu").in_process

    def broken_first(name: str, limit: float, options: Any) -> Any:
        options.threads = 0 if name == "reads" else 1  # which torch refuses
        return in_process(name, limit, options) if name == "reads" else {"found": [], "ended": "whole", "seconds": 1.0}

    monkeypatch.setattr(gpu, "in_process", broken_first)
    argv = [
        "gpu.py",
        "--quick",
        "--device",
        "cpu",
        "--sections",
        "reads",
        "parts",
        "--output",
        str(tmp_path / "r.json"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 1
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["sections"]["parts"]["ended"] == "whole"
    (failed,) = result["failed"]
    assert failed.startswith("reads: exit status 1: ") and "threads" in failed
    assert failed in capsys.readouterr().out


def test_a_failed_check_is_a_failure_and_what_follows_is_still_found(modules: Any) -> None:
    bench, gpu = modules("gpu_bench"), modules("gpu")

    def broken() -> Any:
        yield bench.found("one", 1.5, "s", images_per_second=3.0)
        raise RuntimeError("a kernel is missing")

    findings = [*bench.attempt("two", broken), bench.check("three", 0.5, passed=False)]
    assert [gpu.passed(each) for each in findings] == [True, False, False]
    assert findings[1]["value"] == "RuntimeError: a kernel is missing"
    table = gpu.show("steps", {"found": findings, "ended": "whole", "seconds": 2.0})
    assert table.count("FAILED") == 2 and "images_per_second 3" in table


def test_the_host_never_waits_in_a_step_of_the_image_attack(modules: Any) -> None:
    bench = modules("gpu_bench").Bench("cpu", quick=True)
    per_step, whole = modules("gpu_speed").reads(bench)
    assert per_step["passed"] and per_step["value"] == 0 and not per_step["places"]
    assert 0 < whole["value"] <= 30


def test_seconds_of_nested_parts_are_counted_once(modules: Any) -> None:
    now = [0.0]
    parts = modules("epoch").Parts(torch.device("cpu"), {"wall": lambda: now[0]})

    def wait(seconds: float) -> None:
        now[0] += seconds

    def outer() -> None:
        wait(1)
        parts.timed("masked LM", wait)(5)
        wait(2)

    parts.start()
    wait(10)
    parts.timed("text attack", outer)()
    parts.timed("data", wait)(0.5)
    with pytest.raises(TypeError):
        parts.timed("loss", wait)()  # an error closes its part too
    wait(3)
    parts.begin("other")
    parts.end()
    assert dict(parts.seconds["wall"]) == {"other": 13, "text attack": 3, "masked LM": 5, "data": 0.5, "loss": 0}


def test_an_epoch_has_every_part(
    modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = modules("epoch")
    argv = ["epoch.py", "--quick", "--images", "8", "--batch-size", "4", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", argv)
    epoch.main()
    result = json.loads((tmp_path / "result.json").read_text())
    for clock in ("wall", "cpu"):
        assert set(result["runs"][0][clock]) == set(result["shares"][clock]) == set(epoch.PARTS)
        assert sum(result["shares"][clock].values()) == pytest.approx(1)
    assert all(seconds > 0 for seconds in result["runs"][0]["wall"].values())
    assert "masked LM" in capsys.readouterr().out
