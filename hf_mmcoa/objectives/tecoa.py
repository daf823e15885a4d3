"""TeCoA, text-guided contrastive adversarial training (arXiv:2212.07016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class TeCoA(Objective):
    """Adversarial images against all clean class prompts: `L = CE(s I' P^T, y)`.

    Attacks images by PGD on the same cross-entropy. Trains the image encoder.
    """

    trains = frozenset({"image"})
    needs_labels = True

    @property
    def views(self) -> frozenset[View]:
        """Attacked images and class prompts."""
        return frozenset({"adv_images", "prompts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and itself as the term `loss_image`."""
        loss = F.cross_entropy(class_logits(embeds.adv_image_features, embeds), embeds.labels)
        return loss, {"loss_image": loss}
