"""Nothing is lost: real processes, two that train together and one that is killed again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mmcoa.training.checkpoints import UNFINISHED

HERE = Path(__file__).parent


def run_script(*command):
    paths = os.pathsep.join(map(str, (HERE, *HERE.parents[:2])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=1500
    )


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit_and_one_alone_completes_no_checkpoint(tmp_path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run_script(*launch, HERE / "resume_two_processes.py", tmp_path)
    expected = (tmp_path / "whole" / "final" / "model.safetensors").read_bytes()
    assert (tmp_path / "whole" / "checkpoint-3" / "rng_state_1.pth").is_file()
    for name in ("resumed", "stopped"):
        assert (tmp_path / name / "final" / "model.safetensors").is_file(), done.stderr[-3000:]
        assert (tmp_path / name / "final" / "model.safetensors").read_bytes() == expected, name
    for process in (0, 1):  # one of them was told
        assert f"process {process} stopped after step 3" in done.stdout
    assert done.returncode != 0
    assert {each.name for each in (tmp_path / "lost").iterdir()} <= {UNFINISHED}


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    done = run_script(HERE / "train_and_kill.py", tmp_path, 20)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "20 of 20" in done.stdout
