"""Share tasks among processes, each with a GPU or a part of the CPU cores of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

Work = Callable[[Any], Iterable[Any]]
Environment = Mapping[str, str]

GRACE = 60.0  # seconds in which a stopped process may finish its training step and write a checkpoint


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, named as in `CUDA_VISIBLE_DEVICES`."""
    import torch  # not needed by the processes that only serve

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [each.strip() for each in given.split(",")] if given else [str(number) for number in range(count)]
    return named[:count]


def environments(jobs: int, gpus: Sequence[str]) -> list[Environment]:
    """Return the environment of each job: one GPU of its own, or in turn if there are fewer, and its share of cores.

    One GPU alone also for a single job: transformers' Trainer would else spread a batch over all of them, and the batch
    would be larger by their number.

    Args:
        jobs: number of processes at the same time, at least 1.
        gpus: names of the GPUs, as in `CUDA_VISIBLE_DEVICES`; without one the processes share the CPU alone.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(cores // jobs, 1)
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        threads = min(threads, max(int(given), 1))
    own = [{"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]} if gpus else {} for job in range(jobs)]
    return [{"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **each} for each in own]


def in_processes(
    work: Work, tasks: Sequence[Any], jobs: Sequence[Environment]
) -> Generator[tuple[int, Any], None, None]:
    """Do each task in one of several processes, and yield what `work` yields as soon as it does.

    However the iteration ends, by an error or by Ctrl-C too, no process is left behind: each gets SIGTERM, on which a
    training writes a checkpoint, and is killed after a minute or on a second Ctrl-C.

    Args:
        work: called with a task, in another process: it must be importable there.
        tasks: the tasks.
        jobs: the environment of each process.

    Yields:
        The number of a task and what its work has yielded; None in place of that if its process died over the task.
    """
    waiting = deque(enumerate(tasks))
    workers = []
    try:
        for environment in jobs[: len(tasks)]:
            workers.append(_Worker(work, environment))
            workers[-1].begin(*waiting.popleft())
        while busy := {worker.connection: worker for worker in workers if worker.task is not None}:
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                number = worker.task
                assert number is not None
                try:
                    finished, outcome = worker.connection.recv()
                except (EOFError, OSError):
                    finished, outcome = True, None
                    worker.restart()
                    yield number, None
                else:
                    if not finished:
                        yield number, outcome
                if finished:
                    worker.task = None
                    if waiting:
                        worker.begin(*waiting.popleft())
    finally:
        _stop(workers)


class _Worker:
    """A process that does one task after the other."""

    def __init__(self, work: Work, environment: Environment) -> None:
        self.work, self.environment = work, environment
        self.task: int | None = None
        self.restart()

    def restart(self) -> None:
        """Start a process in the environment; what it sends arrives at `connection`."""
        context = multiprocessing.get_context("spawn")  # torch's threads hang after a fork
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.work, other))
        with _changed(self.environment):  # before it imports torch, which reads these once
            self.process.start()
        other.close()  # so that the end of the process is the end of the connection

    def begin(self, number: int, task: Any) -> None:
        """Hand over a task."""
        self.task = number
        try:
            self.connection.send(task)
        except OSError:  # it has died already; reading says so
            return


@contextmanager
def _changed(environment: Environment) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(work: Work, connection: Connection) -> None:
    """Do tasks until None comes. Ctrl-C reaches every process of a terminal: the parent alone decides what follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while (task := connection.recv()) is not None:
            for outcome in work(task):
                connection.send((False, outcome))
            connection.send((True, None))
    except (KeyboardInterrupt, EOFError, OSError):  # a training was stopped, or the parent has gone
        return


def _end_with_parent() -> None:
    """End with the parent: a process left alone would write into folders of the next command."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _stop(workers: Sequence[_Worker]) -> None:
    """End all processes: idle ones at once, the others by SIGTERM, and after a while by force."""
    try:
        for worker in workers:
            if worker.task is not None:
                worker.process.terminate()
            else:
                worker.begin(0, None)
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0.0))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
