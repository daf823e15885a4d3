"""Two real processes with half the batch each take the step of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_step_gradients import CASES, save_gradients
from safetensors.torch import load_file

from hf_mmcoa.distributed import gather_rows

SCRIPT = Path(__file__).with_name("one_step_gradients.py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Gradients of every case, from one process and from two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    save_gradients(str(one), 12)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT, two, "6"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{SCRIPT.parents[1]}{os.pathsep}{SCRIPT.parent}"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(folders, case):
    one, two = (load_file(folder / case / "gradients.safetensors") for folder in folders)
    assert one.keys() == two.keys() and len(one) > 10
    norm = torch.cat([gradient.flatten() for gradient in one.values()]).norm()
    difference = torch.cat([(one[name] - two[name]).flatten() for name in one]).norm()
    assert norm > 0 and difference / norm < 1e-4
    if "logit_scale" in one:
        assert torch.allclose(one["logit_scale"], two["logit_scale"], rtol=1e-4)


def test_one_process_gathers_nothing():
    rows = torch.rand(2, 3)
    assert gather_rows(rows) is rows
