"""One image attack on one batch, computing nothing for samples that have fallen.

No attack needs to know: the loss of a fallen sample is a constant 0, so its gradient is 0 and a step on it goes
nowhere, while the encoder sees the standing samples alone. Every iterate is judged, at no cost: the attack's own
forward has its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses import zero_shot_logits
from .contracts import ClassifierAttack
from .factory import LossAttack


class Attacked(NamedTuple):
    """Adversarial images (batch, 3, h, w), their unit embeddings (batch, dim), and which samples stand (batch,)."""

    images: Tensor
    embeds: Tensor
    stands: Tensor


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each sample is classified as its label, (batch,); where logits are not finite, nothing is classified."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def attack_images(
    attack: LossAttack | ClassifierAttack,
    images: Tensor,
    labels: Tensor,
    *,
    encode: Callable[[Tensor], Tensor],
    attacked_prompts: Tensor,
    judged_prompts: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    skip_fallen: bool,
) -> Attacked:
    """Attack a batch against one set of prompts and judge it with another.

    Args:
        attack: what raises a loss, or makes a classifier wrong; the latter skips what has fallen by itself.
        images: in [0, 1], (batch, 3, h, w); all correctly classified so far.
        labels: (batch,).
        encode: images to unit embeddings, differentiable.
        attacked_prompts: unit prompt embeddings that the attacker sees, (classes, dim).
        judged_prompts: those that decide, (classes, dim).
        scale: multiplies the cosines inside the attack, scalar.
        generator: of the attack's random choices.
        skip_fallen: leave a sample alone from the iterate on that fells it; that iterate is its result. An attacker who
            does not see the prompts that decide has nothing to stop at, and goes to the end.
    """
    skip_fallen = skip_fallen and attacked_prompts is judged_prompts

    def logits_fn(candidates: Tensor) -> Tensor:
        return zero_shot_logits(encode(candidates), attacked_prompts, scale)

    reached = images.clone()
    active = torch.ones_like(labels, dtype=torch.bool)
    if isinstance(attack, LossAttack):
        loss = attack.loss

        def loss_fn(candidates: Tensor) -> Tensor:
            rows = active.nonzero().squeeze(1)
            values = 0 * candidates.flatten(1).sum(1)
            if len(rows) == 0:
                return values
            logits = logits_fn(candidates[rows])
            if skip_fallen:
                fell = rows[~correct(logits.detach(), labels[rows])]
                reached[fell] = candidates.detach()[fell]
                active[fell] = False
            return values.index_put((rows,), loss(logits, labels[rows]))

        final = attack.attack(images, loss_fn, generator)
    else:
        final = attack(images, logits_fn, labels, generator)
    reached = torch.where(active.view(-1, 1, 1, 1), final, reached)
    with torch.no_grad():
        embeds = encode(reached)
        stands = correct(zero_shot_logits(embeds, judged_prompts, scale), labels)
    stands &= active  # a sample that fell by a hair must not rise again by the rounding of another batch
    return Attacked(reached, embeds, stands)
