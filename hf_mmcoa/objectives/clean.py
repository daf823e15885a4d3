"""The model's own training (CLIP, arXiv:2103.00020; SigLIP, 2303.15343): no attack. The reference of every defence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Embeddings, Objective, View, pair_loss


@dataclass(frozen=True, kw_only=True)
class Clean(Objective):
    """Clean images against clean texts: `L = contrastive(I, T)`; both encoders train."""

    @property
    def views(self) -> frozenset[View]:
        """Images and texts as they are."""
        return frozenset({"images", "texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and itself as the term `loss_clean`."""
        loss = pair_loss(embeds.image_embeds, embeds.text_embeds, embeds)
        return loss, {"loss_clean": loss}
