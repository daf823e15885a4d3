"""A test for weights that are sharded over processes, which several rooms need."""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Return True if FSDP or DeepSpeed ZeRO-3 has already sharded the weights over processes."""
    weight = next(model.parameters(), None)
    return any(isinstance(each, DTensor) for each in model.parameters()) or hasattr(weight, "ds_id")
