"""Several processes: embeddings of all of them, weights that are spread over them, and rows that only fill a batch.

Contrastive negatives come from the global batch, so embeddings are gathered with gradient. Attacks do not run through
a sharded model: each of their forwards would wait for every other process, and how many forwards an attack needs
differs between processes. They work on a plain copy that has all weights.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# Embeddings


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


# Sharded weights


def check_sharding(accelerator: Accelerator) -> bool:
    """Whether training will spread weights over processes (FSDP, DeepSpeed ZeRO-3).

    Warns:
        UserWarning: if FSDP was asked for and accelerate does not do it, as on a CPU.

    Raises:
        ValueError: if FSDP is set so that attacks, the teacher or checkpoints would not have the model's weights.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    if accelerator.distributed_type != DistributedType.FSDP:
        if accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            warnings.warn(
                "FSDP was asked for, and accelerate does not shard on a CPU: each process holds all weights (DDP). "
                "Leave FSDP out to silence this.",
                UserWarning,
                stacklevel=2,
            )
        return False
    plugin = accelerator.state.fsdp_plugin
    kind = getattr(plugin.state_dict_type, "name", str(plugin.state_dict_type))
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"`fsdp_version: {plugin.fsdp_version}` is not supported: set `fsdp_version: 2` in accelerate's config."
        )
    if kind != "FULL_STATE_DICT":
        raise ValueError(
            f"`fsdp_state_dict_type: {kind}` would write checkpoints without a model that `from_pretrained` reads: set "
            "`fsdp_state_dict_type: FULL_STATE_DICT` in accelerate's config."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "`fsdp_cpu_ram_efficient_loading: true` leaves all processes but the first without weights, and attacks "
            "and teachers run on each: set `fsdp_cpu_ram_efficient_loading: false` in accelerate's config."
        )
    return True


class WholeCopy:
    """A plain copy, with all weights on each process, of a model whose weights will be sharded.

    It has the model's buffers, adapters, `requires_grad` and mode. Up to date after `updated`. Costs one set of weights
    a process, without gradients and optimizer state.

    Args:
        model: unwrapped and not sharded yet; made fit for FSDP, in place: scalar parameters become vectors of one
            element, and `get_input_embeddings` says where the tokens' are.
        device: where the copy is kept.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.copy = copy.deepcopy(model).to(device)
        self._complete = False  # once all weights are copied, those that do not train stay as they are
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and weight.ndim == 0:
                    vector = nn.Parameter(weight.detach().reshape(1), requires_grad=weight.requires_grad)
                    module.register_parameter(name, vector)
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        # accelerate asks where the tokens' embeddings are, and CLIPModel only raises
        plain.get_input_embeddings = plain.text_model.get_input_embeddings  # type: ignore[union-attr]

    def of(self, model: nn.Module) -> nn.Module:
        """The copy, if it is this model's; else the model, which somebody put in its place."""
        if model is not self.model:
            return model
        if self.copy.training != model.training:
            self.copy.train(model.training)
        return self.copy

    @torch.no_grad()
    def updated(self, model: nn.Module) -> nn.Module:
        """The same with the weights as they are now; every process must call it."""
        if model is self.model:
            for mine, theirs in zip(self.copy.parameters(), model.parameters(), strict=True):
                if theirs.requires_grad or not self._complete:
                    with _gathered(theirs) as whole:
                        mine.copy_(whole.view_as(mine))
            self._complete = True
        return self.of(model)


@torch.no_grad()
def load_scalars(model: nn.Module, folder: str | Path) -> None:
    """Set sharded weights of one element, such as the temperature, to what an adapter's folder holds of them."""
    saved = load_file(Path(folder, SAFETENSORS_WEIGHTS_NAME))
    for name, weight in model.named_parameters():
        if weight.numel() == 1 and name in saved and isinstance(weight, DTensor):
            value = saved[name].to(weight.device, weight.dtype).reshape(1)
            weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements))


@contextlib.contextmanager
def _gathered(weight: nn.Parameter) -> Iterator[Tensor]:
    """All of one weight, on every process."""
    if hasattr(weight, "ds_id"):  # DeepSpeed ZeRO-3
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([weight]):
            yield weight
    else:
        yield weight.full_tensor() if isinstance(weight, DTensor) else weight


# Evaluation


@contextlib.contextmanager
def left_unprepared(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Keep the Trainer from preparing a model that is evaluated before it trains.

    transformers prepares it for evaluation alone, and accelerate then takes it for prepared when training begins: it
    is never wrapped in DDP, no gradient is averaged, and every process trains a model of its own, without a word
    (transformers 5.23, accelerate 1.15). FSDP2 refuses a model without its optimizer. Our evaluation reads no wrapper.
    """
    first = not accelerator._models and accelerator.distributed_type != DistributedType.DEEPSPEED
    if first:
        accelerator._models.append(model)
    try:
        yield
    finally:
        if first:
            accelerator._models.remove(model)


def own_rows(accelerator: Accelerator, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of an evaluation without the rows that only fill it up.

    accelerate completes the last batch of several processes with rows that were there before, and drops their outcomes
    when it gathers. Here they are dropped from what a sample is compared with, too. A process that has nothing but
    such rows keeps them: there has to be a batch, and nobody will look at it.

    Args:
        accelerator: knows whether this is the last batch.
        inputs: tensors and lists of one row a sample.
    """
    state = accelerator.gradient_state
    size = len(inputs["row_ids"])
    count = size
    if accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
        count = state.remainder - accelerator.process_index * size
    return {name: rows[:count] for name, rows in inputs.items()} if 0 < count < size else dict(inputs)


def pad_rows(rows: Tensor, size: int) -> Tensor:
    """The last row repeated, so that every process hands in as many as the others, (size, ...)."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])
