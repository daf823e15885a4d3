"""Start the CPU processes that `accelerate launch --num_processes N` was asked for and did not start.

accelerate's launcher leaves several CPU processes to `mpirun`. Without MPI it runs the script once: the environment
holds the master's address and not the number of processes, and the other cores idle without a warning.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

STARTED_BY_OTHERS = ("WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # by torchrun or MPI


def start_missing_processes() -> int | None:
    """Run this process's command line in as many CPU processes as `accelerate launch` was asked for, if it started one.

    Returns:
        The exit status of the processes, or None if there are none to start and the caller should continue.
    """
    # accelerate sets the port for more than one process only.
    launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ
    if not launched or any(name in os.environ for name in STARTED_BY_OTHERS) or not _runs_on_cpu():
        return None
    import psutil

    count = _num_processes(psutil.Process().parent())
    if count < 2:
        return None
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), *sys.argv]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "True", "OMP_NUM_THREADS": _threads(count)}
    with subprocess.Popen([sys.executable, *command], env=environment) as started:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to them too; wait until they end
        signal.signal(signal.SIGTERM, lambda number, frame: started.send_signal(number))
        return started.wait()


def refuse_several_processes(command: str) -> None:
    """Raise ValueError if a launcher started several processes of a command that shares nothing among them."""
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(
            f"`hf-mmcoa {command}` runs its cells in processes of its own, and {count} of it were launched: start it "
            f"without a launcher, and give `--processes {count}` to run several cells at a time."
        )


def _runs_on_cpu() -> bool:
    """Return whether the launcher was given `--cpu`, or the machine has no accelerator."""
    if os.environ["ACCELERATE_USE_CPU"] == "True":
        return True
    import torch

    return not torch.accelerator.is_available()


def _num_processes(launcher: psutil.Process | None) -> int:
    """Return `--num_processes` of the launcher that started us, or of its `--config_file`; 1 if it cannot be read."""
    line = launcher.cmdline() if launcher is not None else []
    given = _option(line, "num_processes")
    if given is None and (file := _option(line, "config_file")) and Path(file).is_file():
        from accelerate.commands.config.config_args import load_config_from_file

        given = str(load_config_from_file(file).num_processes)
    return int(given) if given and given.isdigit() else 1


def _option(line: Sequence[str], option: str) -> str | None:
    """Return the value of an option in a command line, given after a blank or an equals sign."""
    for position, word in enumerate(line):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == option:
            return value if equals else line[position + 1] if position + 1 < len(line) else None
    return None


def _threads(processes: int) -> str:
    return str(max((os.cpu_count() or 1) // processes, 1))
