"""A pretended second device: tensors that say they are on "cuda" and compute on the CPU.

On a machine without a GPU it finds what a GPU would refuse: an operation on tensors of two devices. Only Python sees
the pretended device; `put_there` moves a model, and what a call makes with `device="cuda"` follows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
MAY_MIX = {
    "aten::copy_",
    "aten::_to_copy",
    "aten::index",
    "aten::index_put_",
    "aten::index_put",
    "aten::_index_put_impl_",
}


class OnPretendedGPU(Tensor):
    """A tensor whose values are those of `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnPretendedGPU:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device="cpu"
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, **kwargs: Any) -> str:
        return f"on a pretended GPU: {self.held!r}"

    def tolist(self) -> Any:
        return self.detach().held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU, and put its results where a GPU would have them."""
    name, kwargs = func._schema.name, dict(kwargs)
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, OnPretendedGPU)]
    either = [each for each in tensors if hasattr(each, "of_the_engine")]
    here = [each for each in tensors if each.ndim > 0 and not any(each is one for one in there + either)]
    if there and here and name not in MAY_MIX:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    device = kwargs.get("device")
    to_gpu = torch.device(device).type == "cuda" if device is not None else bool(there)
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    if name == "aten::copy_":
        to_gpu = isinstance(args[0], OnPretendedGPU)
    values = tree_map(lambda each: each.held if isinstance(each, OnPretendedGPU) else each, (args, kwargs))
    result = func(*values[0], **values[1])
    if func._schema.is_mutable and args and isinstance(args[0], Tensor) and name.endswith("_"):
        return args[0]
    if either and len(either) == len(tensors) and isinstance(result, Tensor):
        result.of_the_engine = True  # type: ignore[attr-defined]
    return tree_map(lambda each: OnPretendedGPU(each) if isinstance(each, Tensor) and to_gpu else each, result)


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = run(func, args, kwargs or {})
        if "device" in (kwargs or {}) and _of_the_engine():  # zeros of a gradient that is missing: of either device
            result.of_the_engine = True
        return result


def _of_the_engine() -> bool:
    """Return whether the innermost Python code is the call of autograd's engine: torch's own, in C++, asks."""
    frame = sys._getframe(2)
    while "_dynamo" in frame.f_code.co_filename or "_compile" in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_code.co_name == "_engine_run_backward"


def _is_gpu(given: Any) -> bool:
    return isinstance(given, (str, torch.device)) and torch.device(given).type == "cuda"


class _Functions(TorchFunctionMode):
    """What torch does below its dispatcher: tensors of Python values, and a device without a number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = kwargs.pop("device", args[0].device if func is Tensor.new_tensor else None)
            made = func(*args, **kwargs)
            return made.to(CUDA) if _is_gpu(device) else made
        if func is torch.unravel_index:  # makes tensors of Python values, where this mode does not see it
            there = isinstance(args[0], OnPretendedGPU)
            found = func(args[0].held if there else args[0], *args[1:], **kwargs)
            return tuple(OnPretendedGPU(each) for each in found) if there else found
        if func is Tensor.cpu or (func is Tensor.to and len(args) > 1 and args[1] in ("cpu", torch.device("cpu"))):
            there = isinstance(args[0], OnPretendedGPU)
            return torch.ops.aten._to_copy(args[0], device=torch.device("cpu")) if there else func(*args, **kwargs)
        if func is Tensor.to:
            args = (args[0], *(CUDA if _is_gpu(each) else each for each in args[1:]))
        return func(*args, **kwargs)


class _Generator:
    """Stands for `torch.Generator`: one of a pretended GPU draws on the CPU."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return REAL_GENERATOR("cpu")


REAL_GENERATOR, REAL_MOVE = torch.Generator, nn.Module.to


def put_there(module: nn.Module) -> nn.Module:
    """Move a module's weights and buffers to the pretended GPU, in place."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and not isinstance(weight, OnPretendedGPU):
                part._parameters[name] = nn.Parameter(OnPretendedGPU(weight.detach()), weight.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and not isinstance(buffer, OnPretendedGPU):
                part._buffers[name] = OnPretendedGPU(buffer)
    return module


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Stand for `nn.Module.to`, which sets the data of weights: the data of a pretended tensor cannot be set."""
    given = (*args, kwargs.get("device"))
    return put_there(module) if any(map(_is_gpu, given)) else REAL_MOVE(module, *args, **kwargs)


@contextmanager
def pretended() -> Iterator[None]:
    """Let `device="cuda"` mean the pretended GPU while the block runs."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(nn.Module, "to", _moved))
        stack.enter_context(_Functions())
        stack.enter_context(_Factories())
        yield
