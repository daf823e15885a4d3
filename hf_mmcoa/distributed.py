"""Embeddings of all processes, with gradient: contrastive negatives come from the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate every process's rows in rank order; each process must hold the same number.

    Every process computes the same global loss, and the backward sums what each of them says about a row. DDP's
    average over processes then gives exactly the gradient of one process with the whole batch, for the encoders and
    for the temperature.

    Args:
        tensor: (rows, ...), with or without gradient.

    Returns:
        (processes * rows, ...); the tensor itself when there is one process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    return _GatherRows.apply(tensor)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]
