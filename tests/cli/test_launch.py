"""Commands under `accelerate launch` on CPUs, where the launcher starts one process of several."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_command
from squares import squares
from transformers import CLIPModel

from hf_mmcoa.cli import launch, main
from hf_mmcoa.testbed.digits import vocabulary
from hf_mmcoa.testbed.tiny_clip import tiny_clip

ROOT = Path(__file__).parents[2]
DDP_CPU = ROOT / "examples" / "accelerate" / "ddp_cpu.yaml"
SMALL = ["--pretrain_epochs", "1", "--max_steps", "2", "--preset", "quick", "--max_test_samples", "20", "--use_cpu"]
QUICK = ["--preset", "quick", "--epsilon", "0.05", "--num_steps", "2", "--candidates", "neighbours", "--quiet"]


class Launcher:
    """In the place of the process that started this one."""

    def __init__(self, line):
        self.line = line

    def cmdline(self):
        return list(map(str, self.line))


@pytest.mark.parametrize(
    ("line", "count"),
    [
        (["python", "accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        (["accelerate", "launch", "--cpu", "--num-processes=3", "train.py"], 3),
        (["accelerate", "launch", "--cpu", "train.py"], 1),
        (["accelerate", "launch", "--num_processes"], 1),
        (["accelerate", "launch", "--config_file", DDP_CPU, "train.py"], 2),
        (["accelerate", "launch", "--config_file", DDP_CPU, "--num_processes", "3", "train.py"], 3),
        (["accelerate", "launch", "--config_file", "missing.yaml", "train.py"], 1),
    ],
)
def test_the_number_of_processes_is_the_launchers(line, count):
    assert launch._num_processes(Launcher(line)) == count


@pytest.fixture
def started(monkeypatch):
    """Command lines and environments that are started; this process seems to be one of `accelerate launch`'s."""
    calls = []

    class Started:
        def __init__(self, command, env):
            calls.append((command, env))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            return 5

    for name in launch.STARTED_BY_OTHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(launch.subprocess, "Popen", Started)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    monkeypatch.setattr("psutil.Process.parent", lambda _: Launcher(["accelerate", "launch", "--num_processes", "2"]))
    monkeypatch.setattr(sys, "argv", ["/bin/hf-mmcoa", "train", "--config", "x.yaml"])
    return calls


def test_the_whole_command_line_is_started_again(started):
    assert launch.start_missing_processes() == 5
    ((command, environment),) = started
    assert command[-6:] == ["--nproc_per_node", "2", "/bin/hf-mmcoa", "train", "--config", "x.yaml"]
    assert environment["ACCELERATE_USE_CPU"] == "True"


@pytest.mark.parametrize("available", [True, False])
def test_without_cpu_option_processes_are_started_where_there_is_no_accelerator(started, monkeypatch, available):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
    assert launch.start_missing_processes() == (None if available else 5)


@pytest.mark.parametrize("name", launch.STARTED_BY_OTHERS)
def test_a_process_of_several_starts_none(started, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    assert launch.start_missing_processes() is None and not started


def test_without_the_launcher_nothing_is_started(started, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    assert launch.start_missing_processes() is None and not started


# The real launcher


@pytest.fixture
def accelerate_launch(tmp_path):
    """Run `accelerate launch OPTIONS $(which hf-mmcoa) ARGUMENTS`; return stdout."""
    script = tmp_path / "bin" / "hf-mmcoa"
    script.parent.mkdir()
    script.write_text(
        "import os, pathlib, sys\nfrom hf_mmcoa.cli import main\n"
        "pathlib.Path(__file__).with_name('rank' + os.environ.get('RANK', '')).touch()\n"
        "sys.exit(main())\n"
    )

    def launched(options, *arguments, script=script):
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, script, *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in launch.STARTED_BY_OTHERS}
        environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=400, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    launched.ranks = lambda: sorted(one.name for one in script.parent.glob("rank*"))
    return launched


def tables(shown):
    """Return how many tables of accuracies were printed: one, not one a process."""
    return len(re.findall(r"^clean\s", shown, re.MULTILINE))


def check_trained(output, shown):
    assert tables(shown) == 1
    assert json.loads((output / "robustness.json").read_text())["after"]["num_samples"] == 20
    CLIPModel.from_pretrained(output)


@pytest.mark.slow
def test_a_grid_of_evaluations_on_two_processes(tmp_path):
    """Its numbers are those of one process, and every process resumes what the other one measured."""
    for part in tiny_clip(vocabulary(), image_size=8, patch_size=2):
        part.save_pretrained(tmp_path / "model")
    grid = ["evaluate", "--model", tmp_path / "model", "--dataset", "digits", "--epsilon", "1/255", "8/255", "--cpu"]
    grid += ["--preset", "quick", "--num_steps", 2, "--attacks", "image", "--max_samples", 32, "--batch_size", 8]
    for _ in range(2):
        shown = run_command(*grid, "--output", "two", processes=2, folder=tmp_path)
        assert shown.count("model  digits") == 2
    assert main([*map(str, grid), "--output", str(tmp_path / "one")]) == 0
    for name in ("model_digits_eps1-255.json", "model_digits_eps8-255.json"):
        one, two = (json.loads((tmp_path / folder / name).read_text()) for folder in ("one", "two"))
        assert one == two


@pytest.mark.slow
def test_train_as_a_script_on_two_processes(accelerate_launch, tmp_path):
    script = ROOT / "examples" / "train_mmcoa.py"
    shown = accelerate_launch(["--config_file", DDP_CPU], "--output_dir", tmp_path, *SMALL, script=script)
    check_trained(tmp_path, shown)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--cpu"], []], ids=["--cpu", "no option"])
def test_train_on_two_processes(accelerate_launch, tmp_path, options):
    if not options and torch.accelerator.is_available():
        pytest.skip("on a machine with an accelerator the launcher uses it")
    config = tmp_path / "x.yaml"
    config.write_text(f"output_dir: {tmp_path / 'out'}\n")
    shown = accelerate_launch([*options, "--num_processes", "2"], "train", "--config", config, *SMALL)
    check_trained(tmp_path / "out", shown)
    assert accelerate_launch.ranks() == ["rank", "rank0", "rank1"]


@pytest.fixture
def saved(model, processor, tmp_path):
    """Options of a quick evaluation on a saved data set, and the folder of the saved model."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    squares(6).save_to_disk(tmp_path / "data")
    return ["--dataset", tmp_path / "data", "--cpu", *QUICK], tmp_path / "model"


@pytest.mark.slow
def test_evaluate_on_two_processes(accelerate_launch, saved, tmp_path):
    options, model = saved
    output = tmp_path / "result.json"
    shown = accelerate_launch(
        ["--cpu", "--num_processes", "2"], "evaluate", "--model", model, *options, "--output", output
    )
    assert tables(shown) == 1 and json.loads(output.read_text())["num_samples"] == 6
    assert accelerate_launch.ranks() == ["rank", "rank0", "rank1"]


@pytest.mark.slow
def test_interpolate_on_two_processes(saved, tmp_path):
    options, model = saved
    arguments = ["--pretrained", model, "--robust", model, "--alphas", "0", "1", "--output", tmp_path / "out"]
    shown = run_command("interpolate", *arguments, *options, processes=2, folder=tmp_path)
    assert tables(shown) == 1 and len(json.loads((tmp_path / "out/interpolation.json").read_text()))
