"""Whether a model's weights are spread over processes."""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP or DeepSpeed ZeRO-3 has spread the weights over processes already."""
    weight = next(model.parameters(), None)
    return any(isinstance(each, DTensor) for each in model.parameters()) or hasattr(weight, "ds_id")
