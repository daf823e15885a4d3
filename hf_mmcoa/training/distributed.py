"""Training and evaluation in several processes: gathered embeddings, sharded weights, and rows that only fill a batch.

Contrastive negatives come from the global batch, so embeddings are gathered with gradient. Attacks do not run through a
sharded model: each of its forwards would wait for all other processes, and the number of forwards that an attack needs
differs between processes. They run on a plain copy that has all weights.
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
from transformers import TrainingArguments

# Embeddings


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order, with gradient; each process must hold the same number.

    Every process computes the same global loss, and the backward sums the gradients of all processes for a row. DDP's
    average over processes then gives exactly the gradient of one process with the whole batch, for the encoders and for
    the temperature.

    Args:
        tensor: (rows, ...), with or without gradient.

    Returns:
        (processes * rows, ...); the tensor itself if there is one process.
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


# Several devices, one process


def use_one_device(args: TrainingArguments) -> None:
    """Train on the first device of several that one process sees, with a warning.

    transformers would wrap the model in `nn.DataParallel`, which splits a batch over devices: attacks would run on one
    of them, and the loss would contrast each part alone.
    """
    if args.n_gpu > 1:
        warnings.warn(
            f"{args.n_gpu} devices are visible to one process: training uses {args.device} alone. For all of them "
            f"start one process each: `accelerate launch --num_processes {args.n_gpu} your_script.py`. Set "
            "CUDA_VISIBLE_DEVICES=0 to silence this.",
            UserWarning,
            stacklevel=3,
        )
        args._n_gpu = 1


# Sharded weights


def check_sharding(accelerator: Accelerator) -> bool:
    """Return True if training will shard weights over processes (FSDP, DeepSpeed ZeRO-3).

    Warns:
        UserWarning: if FSDP was requested and accelerate does not use it, as on a CPU.

    Raises:
        ValueError: if FSDP is configured so that attacks, the teacher or checkpoints would lack the model's weights.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    if accelerator.distributed_type != DistributedType.FSDP:
        if accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            warnings.warn(
                "FSDP was requested, but accelerate does not shard on a CPU: each process holds all weights (DDP). "
                "Remove FSDP from accelerate's config to silence this.",
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
            f"`fsdp_state_dict_type: {kind}` would write checkpoints that `from_pretrained` cannot read: set "
            "`fsdp_state_dict_type: FULL_STATE_DICT` in accelerate's config."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "`fsdp_cpu_ram_efficient_loading: true` leaves all processes but the first without weights, but attacks "
            "and the teacher run on each: set `fsdp_cpu_ram_efficient_loading: false` in accelerate's config."
        )
    return True


class WholeCopy:
    """A plain copy, with all weights on each process, of a model whose weights will be sharded.

    It has the model's buffers, adapters, `requires_grad` and mode. Its weights are current after `updated`. It costs
    the memory of one set of weights per process, without gradients and optimizer state.

    Args:
        model: unwrapped and not sharded yet. It is prepared for FSDP in place: scalar parameters become vectors of one
            element, and `get_input_embeddings` returns the token-embedding layer.
        device: device of the copy.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.copy = copy.deepcopy(model).to(device)
        self._complete = False  # after the first complete update, weights that do not train need no copying
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and weight.ndim == 0:
                    vector = nn.Parameter(weight.detach().reshape(1), requires_grad=weight.requires_grad)
                    module.register_parameter(name, vector)
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        # accelerate calls `get_input_embeddings`, and CLIPModel's only raises.
        plain.get_input_embeddings = plain.text_model.get_input_embeddings  # type: ignore[union-attr]

    def of(self, model: nn.Module) -> nn.Module:
        """Return the copy if `model` is the model that it copies, else `model` itself, which replaced it."""
        if model is not self.model:
            return model
        if self.copy.training != model.training:
            self.copy.train(model.training)
        return self.copy

    @torch.no_grad()
    def updated(self, model: nn.Module) -> nn.Module:
        """Return the same as `of` after copying the current weights; every process must call it."""
        if model is self.model:
            for mine, theirs in zip(self.copy.parameters(), model.parameters(), strict=True):
                if theirs.requires_grad or not self._complete:
                    with _gathered(theirs) as whole:
                        mine.copy_(whole.view_as(mine))
            self._complete = True
        return self.of(model)


@torch.no_grad()
def load_scalars(model: nn.Module, folder: str | Path) -> None:
    """Load sharded weights of one element, such as the temperature, from an adapter's folder."""
    saved = load_file(Path(folder, SAFETENSORS_WEIGHTS_NAME))
    for name, weight in model.named_parameters():
        if weight.numel() == 1 and name in saved and isinstance(weight, DTensor):
            value = saved[name].to(weight.device, weight.dtype).reshape(1)
            weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements))


@contextlib.contextmanager
def deepspeed_sends_scalars(accelerator: Accelerator) -> Iterator[None]:
    """Let DeepSpeed start in the block with weights that are scalars, such as the temperature.

    It sends every weight from process 0 as bytes, and torch views no scalar as bytes (DeepSpeed 0.19): here a scalar is
    a vector of one element while it is sent.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        yield
        return
    from deepspeed.runtime.engine import DeepSpeedEngine

    send = DeepSpeedEngine._broadcast_model

    def send_vectors(engine: Any) -> None:
        scalars = [weight for weight in engine.module.parameters() if weight.ndim == 0]
        for weight in scalars:
            weight.data = weight.data.reshape(1)
        try:
            send(engine)
        finally:
            for weight in scalars:
                weight.data = weight.data.reshape(())

    DeepSpeedEngine._broadcast_model = send_vectors
    try:
        yield
    finally:
        DeepSpeedEngine._broadcast_model = send


@contextlib.contextmanager
def _gathered(weight: nn.Parameter) -> Iterator[Tensor]:
    """Yield one complete weight, on every process."""
    if hasattr(weight, "ds_id"):  # DeepSpeed ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([weight]):
            yield weight
    else:
        yield weight.full_tensor() if isinstance(weight, DTensor) else weight


# Evaluation


@contextlib.contextmanager
def left_unprepared(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Keep the Trainer from preparing a model that is evaluated before it trains.

    transformers prepares the model for evaluation only, and accelerate then regards it as prepared when training
    begins: it is never wrapped in DDP, no gradient is averaged, and every process silently trains a model of its own
    (transformers 5.23, accelerate 1.15). FSDP2 refuses a model without its optimizer. The evaluation here needs no
    wrapper.
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
    """Return a batch of an evaluation without the rows that only fill it up.

    With several processes, accelerate fills the last batch with rows that it has used before, and drops their outcomes
    when it gathers. This function also removes them from the samples that a sample is compared with. A process that has
    only such rows keeps them, because it needs a batch; their outcomes are dropped anyway.

    Args:
        accelerator: knows whether this is the last batch.
        inputs: tensors and lists with one row per sample, `row_ids` among them.
    """
    state = accelerator.gradient_state
    size = len(inputs["row_ids"])
    count = size
    if accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
        count = state.remainder - accelerator.process_index * size
    return {name: rows[:count] for name, rows in inputs.items()} if 0 < count < size else dict(inputs)


def pad_rows(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row up to `size` rows, so that all processes gather equally many, (size, ...)."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])
