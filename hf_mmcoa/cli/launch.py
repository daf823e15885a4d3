"""`accelerate launch --cpu --num_processes 2` starts one process unless MPI is there; this starts the ones that were
asked for.

accelerate's CPU launcher leaves several processes to `mpirun` and otherwise runs the script once, with the master's
address in the environment and the number of processes nowhere. Half of the machine would then idle without a word.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from accelerate.commands.config.config_args import load_config_from_file


def start_missing_processes(argv: Sequence[str]) -> int | None:
    """Run this script in as many CPU processes as `accelerate launch` was asked for, if it started only one.

    Args:
        argv: the script's own arguments.

    Returns:
        The exit status of the processes, or None where there is nothing to start and the caller goes on.
    """
    launched = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    if not launched or any(
        name in os.environ for name in ("WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    ):
        return None
    count = _asked_for(psutil.Process().parent())
    if count < 2:
        return None
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), sys.argv[0], *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": _threads(count)}
    with subprocess.Popen([sys.executable, *command], env=environment) as started:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C reaches them by itself; wait for the end
        signal.signal(signal.SIGTERM, lambda number, frame: started.send_signal(number))
        return started.wait()


def _asked_for(launcher: psutil.Process | None) -> int:
    """`--num_processes` of the accelerate that started us, or that of its `--config_file`; 1 if it can't be read."""
    line = launcher.cmdline() if launcher is not None else []
    given = _option(line, "num_processes")
    if given is None and (file := _option(line, "config_file")) and Path(file).is_file():
        given = str(load_config_from_file(file).num_processes)
    return int(given) if given and given.isdigit() else 1


def _option(line: Sequence[str], option: str) -> str | None:
    """What is given for an option, after a blank or an equals sign."""
    for position, word in enumerate(line):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == option:
            return value if equals else line[position + 1] if position + 1 < len(line) else None
    return None


def _threads(processes: int) -> str:
    return str(max((os.cpu_count() or 1) // processes, 1))
