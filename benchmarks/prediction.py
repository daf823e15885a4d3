"""How long a training step takes on several GPUs, predicted from counts and data sheets. Nothing here was measured.

A GPU computes its own batch (`arithmetic`), sends what `communication` counts, and updates all weights. Gradients are
sent while the loss's backward runs (DDP), embeddings and their gradients while nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import arithmetic
import communication
import torch
from subject import Subject
from torch import Tensor

from hf_mmcoa.attacks import BertAttack
from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE, class_prompts
from hf_mmcoa.models.encoder import DualEncoder

GPUS_OF_A_MACHINE = 8
BUCKET = 25 * 2**20  # bytes of gradients that DDP sends at once, its default
OPTIMIZER = (
    28  # bytes that AdamW moves for a weight: reads weight, gradient and two moments, writes all but the gradient
)
STATE = 20  # bytes of a weight that trains: itself, its gradient, DDP's copy of that, two moments; float32
PIECES = 4
ACTIVATIONS = 34  # bytes of a token, layer and unit of width in 16 bits, without attention scores: arXiv:2205.05198


@dataclass(frozen=True)
class Card:
    """A GPU's data sheet.

    Args:
        flops: of dense bf16 matrix products, in one second.
        memory_rate: bytes of its memory, in one second.
        nvlink, pcie: bytes in one direction, in one second: half of the data sheet's sum of both.
        source: the data sheet.
    """

    flops: float
    memory_rate: float
    nvlink: float
    pcie: float
    source: str


CARDS = {
    "H100 SXM": Card(989e12, 3.35e12, 450e9, 64e9, "https://www.nvidia.com/en-us/data-center/h100/"),
    "A100 SXM 80 GB": Card(312e12, 2.039e12, 300e9, 32e9, "https://www.nvidia.com/en-us/data-center/a100/"),
}


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says.

    Args:
        utilisation: share of `Card.flops` that the encoders reach; `gpu.py` measures it where there is a GPU.
        rate_use: share of a rate, of links and memory, that is reached.
        network: bytes that a machine sends to others in one second: 100 Gb/s.
        latency: seconds of one message between two GPUs.
    """

    utilisation: float = 0.4
    rate_use: float = 0.8
    network: float = 12.5e9
    latency: float = 10e-6


@dataclass(frozen=True)
class Step:
    """A training step of one GPU, in multiplications and bytes.

    Args:
        compute: multiplications by part; see `arithmetic.of_ours`.
        backward: of them, those of the loss's backward.
        weights: that train.
        payload: of one process; see `communication.of_step`.
        activations: bytes that the loss's backward keeps.
        images: of the batch.
    """

    compute: dict[str, int]
    backward: int
    weights: int
    payload: dict[str, int]
    activations: int
    images: int

    @property
    def bytes_held(self) -> int:
        """Return the bytes of a GPU: weights with their state, and what the backward of the loss keeps."""
        return STATE * self.weights + self.activations


def of_step(measured: Subject, batch_size: int, num_steps: int) -> Step:
    """Count a step of MMCoA with the word attack; the model may be on the meta device, for nothing is computed.

    Args:
        measured: model and class names, of which the batch holds the first ones.
        batch_size: of one GPU.
        num_steps: of the image attack.
    """
    model, names = measured.model, measured.class_names
    encoder, prompts = DualEncoder(model, measured.processor), class_prompts(names)
    distinct = prompts[:batch_size]
    attack = BertAttack(candidates=measured.candidates, template=DEFAULT_TEMPLATE, class_names=names)
    tried: list[list[str]] = []
    draw = torch.Generator().manual_seed(0)

    def encode(texts: list[str]) -> Tensor:  # which words are replaced hardly changes how many texts are tried
        tried.append(texts)
        return torch.nn.functional.normalize(torch.randn(len(texts), encoder.embed_dim, generator=draw), dim=-1)

    texts = [*distinct, *dict.fromkeys(attack(distinct, encode))]
    compute = arithmetic.of_ours(encoder, prompts, tried, texts, batch_size, num_steps)
    one = arithmetic.image(model.config)
    length = encoder.tokenize(texts, truncation=True)["input_ids"].shape[1]
    loss = one * (2 * batch_size) + arithmetic.row_of_tokens(model.config, length) * len(texts)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    count = sum(weight.numel() for weight in weights)
    vision, text = model.config.vision_config, model.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    kept = 2 * batch_size * _kept(vision, patches + 1) + len(texts) * _kept(text, length)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    payload = communication.of_step(count, len(weights), buffers, batch_size, model.config.projection_dim)
    return Step(compute, loss.to_weights, count, payload, kept, batch_size)


def _kept(tower: Any, tokens: int) -> int:
    return int(ACTIVATIONS * tokens * tower.hidden_size * tower.num_hidden_layers)


def seconds(step: Step, gpus: int, card: Card, link: str, given: Assumptions) -> dict[str, float]:
    """Return the parts of a step's time on so many GPUs, and what follows from them.

    Args:
        step: of one GPU.
        gpus: up to 8 are one machine; more are machines of 8, whose network is the slowest part of every ring.
        card: the GPU.
        link: "nvlink" or "pcie", within a machine.
        given: the assumptions.
    """
    rate = 2 / (card.flops * given.utilisation)
    compute = sum(step.compute.values()) * rate
    backward = step.backward * rate
    optimizer = OPTIMIZER * step.weights / (card.memory_rate * given.rate_use)
    bandwidth = getattr(card, link) * given.rate_use
    if gpus > GPUS_OF_A_MACHINE:
        bandwidth = min(bandwidth, given.network * given.rate_use)
    hops = math.ceil(math.log2(gpus)) * given.latency

    def sending(kinds: Sequence[str], operations: int) -> float:
        payload = {kind: step.payload[kind] if kind in kinds else 0 for kind in communication.KINDS}
        return communication.sent(payload, gpus) / bandwidth + operations * hops

    buckets = math.ceil(step.payload["gradients"] / BUCKET)
    gradients = sending(["gradients"], buckets)
    others = sending(["embeddings", "embeddings' gradients", "flags"], 2 * communication.VIEWS + 3)
    # The last bucket is full only when the backward ends; the others may be sent before.
    waiting = max(gradients - backward * (1 - 1 / buckets), gradients / buckets) if gpus > 1 else 0.0
    exposed = waiting + others if gpus > 1 else 0.0
    whole = compute + optimizer + exposed
    return {
        "compute": compute,
        "optimizer": optimizer,
        "gradients": gradients,
        "embeddings": others,
        "waiting": exposed,
        "step": whole,
        "communication_share": exposed / whole,
        "efficiency": (compute + optimizer) / whole,
        "efficiency_without_overlap": (compute + optimizer) / (compute + optimizer + gradients + others),
        "images_a_second": gpus * step.images / whole,
    }


def in_pieces(step: Step) -> Step:
    """Return the step with its loss in `PIECES` (`encode_batch_size`), for one more forward of it and less memory."""
    forward = step.compute["loss"] - step.backward
    compute = {**step.compute, "loss": step.compute["loss"] + forward}
    return replace(step, compute=compute, activations=step.activations // PIECES)
