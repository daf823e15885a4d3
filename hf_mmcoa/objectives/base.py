"""What an objective is given and what it must say: the seam between the trainer and every published defence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

View = Literal["images", "adv_images", "texts", "adv_texts", "prompts", "attack_iterates"]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Unit embeddings of one global batch; row i of each is sample i. Views that no objective asked for are None.

    `image_embeds`, `text_embeds`, `adv_image_embeds` and `adv_text_embeds` are I, T, I' and T' of METHODS, (batch,
    dim), from all processes. The class terms are this process's own: `prompt_embeds` P is (classes, dim), with
    `labels` (local batch,), and `iterate_embeds` (attack steps, local batch, dim) the images at which the
    image attack took its gradients.
    """

    logit_scale: Tensor
    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    adv_image_embeds: Tensor | None = None
    adv_text_embeds: Tensor | None = None
    targets: Tensor | None = None
    prompt_embeds: Tensor | None = None
    labels: Tensor | None = None
    iterate_embeds: Tensor | None = None


class Objective(Protocol):
    """Embeddings to a scalar; pass your own to `MMCoATrainer(objective=...)`."""

    @property
    def views(self) -> frozenset[View]:
        """What the loss reads. The trainer attacks and encodes nothing else."""

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, scalar, and its named terms for the log."""
