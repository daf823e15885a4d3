"""The objective of Sim-CLIP, unsupervised Siamese adversarial fine-tuning (arXiv:2407.14971)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View


@dataclass(frozen=True, kw_only=True)
class SimCLIP(Objective):
    """Let attacked and clean images of one encoder point the same way, each following the other held fixed.

        L = - mean 1/2 [cos(f(x'), sg f(x)) + cos(f(x), sg f(x'))]        sg: no gradient

    It needs neither texts nor labels. Its value is `-cos(f(x'), f(x))`, and its gradient half of that one's: without a
    predictor between the two branches, the stops only scale it. The image attack is FARE's, PGD on
    `||f(x') - f0(x)||^2`. The image encoder trains.
    """

    trains = frozenset({"image"})
    image_attack_target = "teacher"
    reads_targets = False

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked and the clean images."""
        return frozenset({"adv_images", "images"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_image`."""
        adversarial, clean = embeds.adv_image_features, embeds.image_features
        towards_clean = F.cosine_similarity(adversarial, clean.detach(), dim=1)
        towards_adversarial = F.cosine_similarity(clean, adversarial.detach(), dim=1)
        loss = -(towards_clean + towards_adversarial).mean() / 2
        return loss, {"loss_image": loss}
