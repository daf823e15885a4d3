"""What the sections of `gpu` share: the device, models on it, clocks that wait for it, and findings."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from subject import Subject, subject

Finding = dict[str, Any]
"""`what` was found, its `value` and `unit`; `passed` where it is a check; anything else that explains it."""


@dataclass(frozen=True)
class Bench:
    """Where and on what a section runs.

    Args:
        device: "cuda" or "cpu".
        quick: tiny models and few repetitions: shows that all runs.
    """

    device: str
    quick: bool

    @property
    def cuda(self) -> bool:
        """Return whether there is a GPU to measure."""
        return self.device == "cuda"

    def subject(self, shape: str, classes: int = 100) -> Subject:
        """Return a model with random weights, on the device."""
        measured = subject(self.quick, classes, "" if self.quick else shape, self.device)
        measured.model.to(self.device)
        return measured

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any], repeats: int = 3, warm_ups: int = 1) -> float:
        """Return the median wall seconds of a call, the device waited for at both ends."""
        for _ in range(warm_ups):
            call()
        found = []
        for _ in range(1 if self.quick else repeats):
            self.synchronize()
            start = time.perf_counter()
            call()
            self.synchronize()
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    def peak(self, call: Callable[[], Any]) -> float | str:
        """Return the GiB that a call holds at most beside what is there before it."""
        if not self.cuda:
            call()
            return NEEDS_CUDA
        self.free()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


NEEDS_CUDA = "needs CUDA"


def found(what: str, value: Any, unit: str = "", **more: Any) -> Finding:
    """Return a finding."""
    return {"what": what, "value": value, "unit": unit, **more}


def check(what: str, value: Any, passed: bool, unit: str = "", **more: Any) -> Finding:
    """Return a finding that is right or wrong."""
    return {"what": what, "value": value, "unit": unit, "passed": bool(passed), **more}


def attempt(what: str, call: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Give the findings of a call; an error is one too, so that what comes after it is still found."""
    try:
        yield from call()
    except Exception as error:
        yield check(what, f"{type(error).__name__}: {str(error)[:300]}", False)
