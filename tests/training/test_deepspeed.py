"""DeepSpeed on two CPU processes, with the files of `examples/accelerate`, gives the result of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deepspeed_steps import NAMES, RESTARTED, WHOLE
from test_distributed import distance, start_of, weights
from transformers import CLIPModel
from transformers.integrations import is_deepspeed_available

SCRIPT = Path(__file__).with_name("deepspeed_steps.py")
ROOT = SCRIPT.parents[2]
STAGES = ("zero2", "zero3")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_deepspeed_available(), reason="needs deepspeed"),
]


def start(folder, names, *launcher):
    """Run the script on its own, or under `accelerate launch OPTIONS`."""
    command = ["-m", "accelerate.commands.launch", *launcher] if launcher else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, SCRIPT.parents[1], SCRIPT.parent)))
    done = subprocess.run(
        list(map(str, [sys.executable, *command, SCRIPT, folder, *names])),
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "ran.json").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process saves, and what two do with each stage."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("one", *STAGES)}
    start(found["one"], NAMES)
    for stage in STAGES:
        launcher = ["--config_file", ROOT / "examples" / "accelerate" / f"{stage}.yaml", "--num_processes", 2]
        names = [*NAMES, WHOLE, RESTARTED]
        for few in [names] if stage == "zero2" else [[name] for name in names]:
            ran = start(found[stage], few, *launcher)
            assert ran == {"type": "DistributedType.DEEPSPEED", "processes": 2}
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", NAMES)
def test_two_processes_take_the_steps_of_one(folders, case, stage):
    one, two = (folders[name] / case / "model" for name in ("one", stage))
    losses = [
        [entry["loss"] for entry in json.loads((folder / "log.json").read_text()) if "loss" in entry]
        for folder in (one, two)
    ]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    # As for DDP and FSDP: AdamW divides by tiny gradients' noise.
    assert distance(weights(one), weights(two), start_of(one)) < (1e-3 if case == "adamw" else 1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_ends_in_the_same_weights(folders, stage):
    whole, resumed = (weights(folders[stage] / name / "model") for name in (WHOLE, RESTARTED))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    assert distance(weights(folders[stage] / WHOLE / "checkpoint-3"), whole) > 1e-5  # there was something to resume


@pytest.mark.parametrize("stage", STAGES)
def test_the_saved_folder_is_a_plain_model(folders, stage):
    loaded, told = CLIPModel.from_pretrained(folders[stage] / "adamw" / "model", output_loading_info=True)
    assert not any(told.values()) and loaded.logit_scale.shape == ()
