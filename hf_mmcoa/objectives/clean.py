"""The clean objective: the pretraining loss without an attack, as the reference for every defence.

CLIP: arXiv:2103.00020. SigLIP: arXiv:2303.15343.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Embeddings, Objective, View, pair_loss


@dataclass(frozen=True, kw_only=True)
class Clean(Objective):
    """Contrast clean images with clean texts: `L = contrastive(I, T)`. Both encoders train."""

    @property
    def views(self) -> frozenset[View]:
        """Return the clean images and the clean texts."""
        return frozenset({"images", "texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_clean`."""
        loss = pair_loss(embeds.image_embeds, embeds.text_embeds, embeds)
        return loss, {"loss_clean": loss}
