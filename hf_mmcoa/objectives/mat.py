"""The objective of MAT, multimodal adversarial training, and of MAT+, its one-to-many form (arXiv:2405.18770)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Embeddings, Objective, View, pair_loss


@dataclass(frozen=True, kw_only=True)
class MAT(Objective):
    """Contrast adversarial images with adversarial texts, of each of an image's captions in turn.

        L = mean_k contrastive(I', T'_k)        k: the captions of an image; MAT has one, MAT+ several

    Where MMCoA attacks one side of a pair, MAT attacks both. T'_k holds the k-th caption of every sample, so captions
    of one image are never negatives of each other. The image attack raises the mean over k of the cross-entropy of the
    image's caption among the clean captions T_k; texts are attacked as for MMCoA. Both encoders train. What of this is
    the paper's: docs/defences.md.

    Args:
        one_to_many: read all captions of an image (MAT+), not only the first.
    """

    one_to_many: bool = False

    @property
    def reads_captions(self) -> bool:  # type: ignore[override]
        """Return whether the loss reads several captions of an image."""
        return self.one_to_many

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images and the attacked texts."""
        return frozenset({"adv_images", "adv_texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_multimodal`."""
        losses = [pair_loss(embeds.adv_image_embeds, each.adv_text_embeds, each) for each in embeds.caption_sets]
        loss = torch.stack(losses).mean()
        return loss, {"loss_multimodal": loss}
