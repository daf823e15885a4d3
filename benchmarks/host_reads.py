"""Count where a computation makes the host wait for the device: values read, sizes that depend on values, copies.

On a CPU nothing waits, so there the operators that would wait on a GPU are counted as they are called. On a GPU torch
itself reports each wait (`torch.cuda.set_sync_debug_mode`).
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim")
COPIES = ("aten::lift_fresh",)  # `torch.tensor(values)`: to a GPU, from memory that is not pinned
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
METHODS = (torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy)


class _Operators(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name in READS + COPIES:
            self.found[f"{name.removeprefix('aten::')} at {_place()}"] += 1
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.found[f"{func.__name__} at {_place()}"] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """Return the innermost line of our package, or of whoever called torch."""
    frames = [frame for frame in traceback.extract_stack() if "host_reads" not in frame.filename]
    ours = [frame for frame in frames if "/hf_mmcoa/" in frame.filename] or [
        frame for frame in frames if "/torch/" not in frame.filename
    ]
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}"


@contextmanager
def host_reads(device: torch.device) -> Iterator[Counter[str]]:
    """Count the places at which the block makes the host wait, by operator and line."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        with _Methods(found), _Operators(found):
            yield found
        return
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning

        def count(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
            if "synchroniz" in str(message):
                found[f"wait at {_place()}"] += 1
            else:
                shown(message, category, filename, lineno, *rest)

        warnings.showwarning = count
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
