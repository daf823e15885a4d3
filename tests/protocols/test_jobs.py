"""Jobs: what each process sees of the machine, and that one that fails, dies or is stopped harms no other."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from processes import start
from work_at_jobs import die_of_bad, tell_environment, wait_long

from hf_mmcoa.protocols.jobs import environments, in_processes, visible_gpus


def collect(work, tasks, jobs):
    with closing(in_processes(work, tasks, jobs)) as outcomes:
        return list(outcomes)


@pytest.fixture
def machine(monkeypatch):
    """A machine with eight cores and a number of GPUs."""

    def machine(gpus, visible=None, threads=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("OMP_NUM_THREADS", threads)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return machine


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [
        (0, None, []),
        (0, "", []),
        (2, None, ["0", "1"]),
        (2, "3, 5", ["3", "5"]),
        (1, "2,-1,4", ["2"]),  # CUDA reads up to the first that does not exist
        (2, "GPU-0a,MIG-1b", ["GPU-0a", "MIG-1b"]),
    ],
)
def test_gpus_are_those_that_this_process_may_use(machine, gpus, visible, expected):
    machine(gpus, visible)
    assert visible_gpus() == expected


def test_each_job_gets_a_gpu_and_cores_are_divided(machine):
    machine(2)
    four = environments(4, ["0", "1"])
    assert [each["CUDA_VISIBLE_DEVICES"] for each in four] == ["0", "1", "0", "1"]
    assert {each["OMP_NUM_THREADS"] for each in four} == {"2"}
    assert environments(1, ["0", "1"])[0]["CUDA_VISIBLE_DEVICES"] == "0"  # else the Trainer spreads its batch
    assert "CUDA_VISIBLE_DEVICES" not in environments(2, [])[0]
    assert environments(16, [])[0]["OMP_NUM_THREADS"] == "1"
    machine(0, threads="1")  # the user's own limit
    assert environments(2, [])[0]["OMP_NUM_THREADS"] == "1"


def test_a_process_finds_its_own_environment_and_ours_stays(machine):
    machine(2, "4,7")
    before = dict(os.environ)
    found = collect(tell_environment, ["a", "b"], environments(2, visible_gpus()))
    assert dict(os.environ) == before
    seen = {process: environment for _, (process, environment) in found}
    assert len(seen) == 2 and os.getpid() not in seen
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in seen.values()) == ["4", "7"]
    assert {(each["OMP_NUM_THREADS"], each["MKL_NUM_THREADS"]) for each in seen.values()} == {("4", "4")}


def test_a_process_that_dies_loses_its_own_task_alone():
    found = collect(die_of_bad, ["bad", "one", "bad", "two"], environments(2, []))
    assert sorted(found, key=str) == sorted(
        [
            *((number, "bad begins") for number in (0, 2)),
            *((number, None) for number in (0, 2)),
            *((number, f"{name} {when}") for number, name in ((1, "one"), (3, "two")) for when in ("begins", "ends")),
        ],
        key=str,
    )


def test_no_process_outlives_an_iteration_that_is_broken_off(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        closing(in_processes(partial(wait_long, tmp_path), ["a", "b"], environments(2, []))) as outcomes,
    ):
        assert {next(outcomes)[1], next(outcomes)[1]} == {"a", "b"}
        raise KeyboardInterrupt
    processes = [int(file.name.split("-")[1]) for file in tmp_path.iterdir()]
    assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


# A grid

SMALL = {
    "datasets": ["digits"],
    "objectives": ["none", "clean"],
    "tiny": {"image_size": 8, "patch_size": 2, "epochs": 1, "max_samples": 64},
    "training": {"epsilon": 0.15, "num_steps": 1, "max_steps": 2, "per_device_train_batch_size": 16, "use_cpu": True},
    "threat_model": {"preset": "quick", "num_steps": 2},
    "candidates": "digits",
    "max_test_samples": 8,
    "batch_size": 8,
}


def runs(process):
    """Whether a process is there, and more than an entry that a container without an init process keeps."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def finished(process):
    out, error = process.communicate(timeout=300)
    return process.returncode, out + error


@pytest.mark.slow
def test_a_grid_with_two_jobs_is_that_of_one_and_a_failing_cell_stops_no_other(tmp_path):
    missing = {"name": "nowhere", "data_dir": "missing", "made_by": "make it so"}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"datasets": [missing, "digits"]}))
    codes = {jobs: finished(start("protocol", file, "--output", tmp_path / jobs, "--jobs", jobs)) for jobs in "12"}
    for code, said in codes.values():
        assert code == 1 and said.count("there is no folder") >= 2
    one, two = (tmp_path / jobs for jobs in "12")
    for written in ("table.md", "protocol.json"):
        assert (one / written).read_text() == (two / written).read_text()
    cells = set(json.loads((two / "protocol.json").read_text())["cells"])
    assert cells == {"digits_none_seed0", "digits_full_clean_seed0"}


@pytest.mark.slow
def test_ctrl_c_ends_every_job_with_a_checkpoint(tmp_path):
    file = tmp_path / "grid.yaml"
    long = SMALL | {"objectives": ["clean", "tecoa"], "training": SMALL["training"] | {"max_steps": 100_000}}
    file.write_text(yaml.safe_dump(long))
    process = start("protocol", file, "--output", tmp_path / "out", "--jobs", "2")
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out/models").glob("digits_*.unfinished"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    code, said = finished(process)
    assert code == 130 and "interrupted; give the same command again" in said and "Traceback" not in said
    ended = time.monotonic() + 10  # Python's own tracker of shared memory ends a moment later
    while any(map(runs, children)) and time.monotonic() < ended:
        time.sleep(0.05)
    assert len(children) >= 2 and not any(map(runs, children))
    assert len(list((tmp_path / "out/models").glob("digits_*.unfinished/checkpoint-*"))) == 2
