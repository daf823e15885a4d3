"""What an objective is given and what it must say: the seam between the trainer and every published defence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

View = Literal["images", "adv_images", "texts", "adv_texts", "prompts", "attack_iterates"]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Unit embeddings of one global batch; row i of each is sample i. Views that no objective asked for are None.

    `image_embeds`, `text_embeds`, `adv_image_embeds` and `adv_text_embeds` are I, T, I' and T' of METHODS, (batch,
    dim), from all processes. The class terms are this process's own: `prompt_embeds` P is (classes, dim), with
    `labels` (local batch,), and `iterate_embeds`, (local batch, dim) each, are of the images at which the image
    attack took its gradients.
    """

    logit_scale: Tensor
    image_embeds: Tensor = None  # type: ignore[assignment]
    text_embeds: Tensor = None  # type: ignore[assignment]
    adv_image_embeds: Tensor = None  # type: ignore[assignment]
    adv_text_embeds: Tensor = None  # type: ignore[assignment]
    targets: Tensor | None = None
    prompt_embeds: Tensor = None  # type: ignore[assignment]
    labels: Tensor = None  # type: ignore[assignment]
    iterate_embeds: Sequence[Tensor] = ()


class Objective(Protocol):
    """Embeddings to a scalar; pass your own to `MMCoATrainer(objective=...)`."""

    @property
    def views(self) -> frozenset[View]:
        """What the loss reads. The trainer attacks and encodes nothing else."""

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, scalar, and its named terms for the log."""
