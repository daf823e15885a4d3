"""The adaptive attack on both modalities: image and texts search for one thing, a positive zero-shot margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..models.encoder import DualEncoder
from .contracts import AdversarialPairs, EnumerableTextAttack, ImageAttack, check_labels
from .image_losses import margin_loss
from .prompt_pools import PromptPools


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Raise `max_{j != y, t_j} s I' g(t_j) - min_{t_y} s I' g(t_y)` over the image and over the texts t of each prompt.

    Image and text search alternate at every step: the texts answer each image exactly, by a search over all that
    `text_attack` may write (the clean prompt included), and the image moves against the answer. The clean image with
    its worst texts is among the results compared, so a sample stands only if no combination found breaks it.

    What is attacked: with `attacked_prompts="all"` every class's prompt, chosen anew for every sample and each inside
    the text attack's own budget: the own class's text as unlike the image as possible, the others' as like it. For a
    given image that contains every outcome of attacking all prompts once for all samples (`independent`, `adaptive`)
    with the same text attack. With "true" only the own class's prompt changes.

    Args:
        text_attack: lists the texts within its budget. A text in two classes' pools belongs to both.
        image_attack: e.g. `Restarts(PGD(...), times=5)` or `APGD(...)`.
        attacked_prompts: "all" or "true".

    Raises:
        ValueError: if `attacked_prompts` is neither.

    Example:
        >>> attack = Joint(text_attack=BertAttack(...), image_attack=APGD(epsilon=1 / 255))  # doctest: +SKIP
        >>> attack(images, labels, prompts, encoder).logits(encoder)  # doctest: +SKIP
    """

    text_attack: EnumerableTextAttack
    image_attack: ImageAttack
    attacked_prompts: Literal["all", "true"] = "all"

    def __post_init__(self) -> None:
        if self.attacked_prompts not in ("all", "true"):
            raise ValueError(f'`attacked_prompts` must be "all" or "true", got {self.attacked_prompts!r}.')

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        prompts: Sequence[str],
        encoder: DualEncoder,
        generator: torch.Generator | None = None,
    ) -> AdversarialPairs:
        """See `MultimodalAttack`; per sample the pair of largest margin."""
        check_labels(images, labels, len(prompts))
        others = self.attacked_prompts == "all"
        pools = PromptPools(prompts, self.text_attack, encoder)

        def loss_fn(adv_images: Tensor) -> Tensor:
            return margin_loss(pools.worst_logits(encoder.encode_images(adv_images), labels, others), labels)

        adv_images = self.image_attack(images, loss_fn, generator)
        with torch.no_grad():
            kept = loss_fn(images) >= loss_fn(adv_images)  # an image step can lose what the texts alone had won
            worst = torch.where(kept.view(-1, 1, 1, 1), images, adv_images).detach()
            return AdversarialPairs(worst, pools.worst_prompts(encoder.encode_images(worst), labels, others))
