"""The objective of TeCoA, text-guided contrastive adversarial training (arXiv:2212.07016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class TeCoA(Objective):
    """Classify adversarial images among all clean class prompts: `L = CE(s I' P^T, y)`.

    The image attack is PGD on the same cross-entropy. The image encoder trains.
    """

    trains = frozenset({"image"})
    needs_labels = True
    reads_targets = False

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images and the class prompts."""
        return frozenset({"adv_images", "prompts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_image`."""
        loss = F.cross_entropy(class_logits(embeds.adv_image_features, embeds), embeds.labels)
        return loss, {"loss_image": loss}
