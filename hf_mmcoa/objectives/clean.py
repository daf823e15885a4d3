"""CLIP's own training (arXiv:2103.00020): no attack. The reference that every defence is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..losses import contrastive_loss
from .base import Embeddings, Objective, View


@dataclass(frozen=True, kw_only=True)
class Clean(Objective):
    """Clean images against clean texts: `L = contrastive(I, T)`; both encoders train."""

    @property
    def views(self) -> frozenset[View]:
        """Images and texts as they are."""
        return frozenset({"images", "texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and itself as the term `loss_clean`."""
        loss = contrastive_loss(embeds.image_embeds, embeds.text_embeds, embeds.logit_scale, embeds.targets)
        return loss, {"loss_clean": loss}
