"""What the processes of test_jobs.py do; they import this module, which is light."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

SEEN = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def tell_environment(task):
    yield os.getpid(), {name: os.environ.get(name) for name in SEEN}
    time.sleep(0.3)  # so that no process does the other's task


def die_of_bad(task):
    yield f"{task} begins"
    if task == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    yield f"{task} ends"


def wait_long(folder: Path, task):
    (folder / f"{task}-{os.getpid()}").touch()
    yield task
    time.sleep(600)
