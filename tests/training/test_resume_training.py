"""Nothing is lost: real processes, two that train together and one that is killed again and again."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run_script

from hf_mmcoa.training.checkpoints import UNFINISHED

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit_and_one_alone_completes_no_checkpoint(tmp_path):
    status, out, error = run_script(HERE / "resume_two_processes.py", tmp_path, processes=2)
    expected = (tmp_path / "whole" / "final" / "model.safetensors").read_bytes()
    assert (tmp_path / "whole" / "checkpoint-3" / "rng_state_1.pth").is_file()
    for name in ("resumed", "stopped"):
        assert (tmp_path / name / "final" / "model.safetensors").is_file(), error[-3000:]
        assert (tmp_path / name / "final" / "model.safetensors").read_bytes() == expected, name
    for process in (0, 1):  # one of them was told
        assert f"process {process} stopped after step 3" in out
    assert status != 0
    assert {each.name for each in (tmp_path / "lost").iterdir()} <= {UNFINISHED}


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    status, out, error = run_script(HERE / "train_and_kill.py", tmp_path, 20)
    assert status == 0, out[-2000:] + error[-3000:]
    assert "20 of 20" in out
