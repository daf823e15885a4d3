"""Commands and scripts in processes of their own, forked from one that has imported what they need.

A fresh Python takes six CPU seconds to import torch, transformers and the package, and the tests want a hundred
processes. Tests of the start itself, of launchers and of lazy imports, start Python.
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

IMPORTED = ["hf_mmcoa.cli.train", "hf_mmcoa.cli.protocol", "hf_mmcoa.training.trainer", "hf_mmcoa.evaluation.evaluator"]


@functools.cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Started:
    """A process at work, with what `subprocess.Popen` offers.

    Args:
        work: runs in the process.
        *arguments: of `work`.
        environment: all of its variables; None: this process's.
        folder: where it works.
    """

    def __init__(
        self,
        work: Callable[..., None],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._said = tempfile.TemporaryDirectory()
        files = [Path(self._said.name, name) for name in ("stdout", "stderr")]
        variables = dict(os.environ if environment is None else environment) | {"OMP_NUM_THREADS": "1"}
        given = (files, variables, folder or Path.cwd(), work, arguments)
        self._process = _fork_server().Process(target=_enter, args=given)
        self._process.start()
        self._files = files

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still at work after {timeout} s: {self.said()[1][-3000:]}"

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> tuple[str, str]:
        """Return what it wrote to stdout and stderr so far."""
        out, error = (file.read_text() if file.exists() else "" for file in self._files)
        return out, error

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.said()


def _enter(
    files: list[Path],
    variables: dict[str, str],
    folder: Path,
    work: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # each `Trainer.train` asks for a collection, of 0.3 s over all that is imported
    work(*arguments)


def _command(*arguments: str) -> None:
    from hf_mmcoa.cli import main

    sys.argv = ["hf-mmcoa", *arguments]
    sys.exit(main(list(arguments)))


def _script(file: Path, *arguments: str) -> None:
    sys.argv = [str(file), *arguments]
    sys.path[:0] = [str(file.parent)]
    runpy.run_path(str(file), run_name="__main__")


def start(*arguments: object) -> Started:
    """`hf-mmcoa ARGUMENTS`, at work."""
    return Started(_command, *map(str, arguments))


def finish(process: Started) -> str:
    """What it wrote to stderr once it has ended well."""
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error[-3000:]
    return error


def run_script(file: Path, *arguments: object, processes: int = 1) -> tuple[int, str, str]:
    """Run a script as `torchrun --nproc_per_node PROCESSES FILE ARGUMENTS` does.

    Returns:
        The first exit status that is not 0, or 0; stdout and stderr of all processes.
    """
    return _together(processes, None, _script, file, *map(str, arguments))


def run_command(*arguments: object, processes: int, folder: Path) -> str:
    """Run `hf-mmcoa ARGUMENTS` in a folder, in several processes that know of each other.

    Returns:
        What they wrote to stdout.
    """
    status, out, error = _together(processes, folder, _command, *map(str, arguments))
    assert status == 0, error[-3000:]
    return out


def _together(
    processes: int, folder: Path | None, work: Callable[..., None], *arguments: object
) -> tuple[int, str, str]:
    ranks = _ranks(processes) if processes > 1 else [{}]
    started = [Started(work, *arguments, environment={**os.environ, **rank}, folder=folder) for rank in ranks]
    ends = time.monotonic() + 1500
    while not any(one.poll() for one in started) and any(one.poll() is None for one in started):
        assert time.monotonic() < ends, "".join(one.said()[1][-3000:] for one in started)
        time.sleep(0.01)
    status = next((one.returncode for one in started if one.returncode), 0)
    for one in started:
        if one.poll() is None:  # it waits for one that failed
            one.send_signal(signal.SIGTERM)
    out, error = ("".join(texts) for texts in zip(*(one.communicate(60) for one in started), strict=True))
    return status, out, error


def _ranks(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    numbers = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
    return [{name: str(value) for name, value in each.items()} for each in numbers]


def kill_when(process: Started, condition: Callable[[], bool]) -> None:
    """SIGKILL as soon as the condition holds; the process must still be at work then."""
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
