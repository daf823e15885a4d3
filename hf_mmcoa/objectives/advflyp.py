"""The objective of AdvFLYP, adversarial fine-tuning like pretraining (arXiv:2604.11576)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, pair_loss


@dataclass(frozen=True, kw_only=True)
class AdvFLYP(Objective):
    """Contrast adversarial images with their captions, and keep them near the pretrained and the clean image.

        L = 1/2 contrastive(I', T) + logit_weight * [KL(p(x') || p0(x')) + KL(p(x') || p(x))]
            + feature_weight * mean [||I' - I0'||_2 + ||I' - I||_2]

    p = softmax(s I T^T) is an image's distribution over the captions of the batch; I0' and p0 are of the frozen encoder
    on the attacked image. All terms are batch means with a gradient through I, as in the authors' code. The image
    attack is PGD on the cross-entropy of the image's caption. The image encoder trains.

    Args:
        logit_weight: weight of the two divergences; 1 in the authors' script.
        feature_weight: weight of the two distances; 1 in the authors' script.

    Raises:
        ValueError: if a weight is negative.
    """

    logit_weight: float = 1.0
    feature_weight: float = 1.0

    trains = frozenset({"image"})

    def __post_init__(self) -> None:
        for name in ("logit_weight", "feature_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images and the texts, and what the terms with a weight above 0 compare them with."""
        views: set[View] = {"adv_images", "texts"}
        if self.logit_weight or self.feature_weight:
            views |= {"images", "teacher_adv_images"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms `loss_image`, `loss_logits` and `loss_features`."""
        terms = {"loss_image": pair_loss(embeds.adv_image_embeds, embeds.text_embeds, embeds) / 2}
        loss = terms["loss_image"]
        if not (self.logit_weight or self.feature_weight):
            return loss, terms
        adversarial = F.normalize(embeds.adv_image_features, dim=-1)
        references = [F.normalize(each, dim=-1) for each in (embeds.teacher_adv_image_features, embeds.image_features)]
        if self.logit_weight:
            scores = (embeds.logit_scale * adversarial @ embeds.text_embeds.T).log_softmax(1)
            others = [(embeds.logit_scale * each @ embeds.text_embeds.T).log_softmax(1) for each in references]
            first, second = (F.kl_div(each, scores, reduction="batchmean", log_target=True) for each in others)
            terms["loss_logits"] = first + second
            loss = loss + self.logit_weight * terms["loss_logits"]
        if self.feature_weight:
            first, second = ((adversarial - each).norm(dim=1).mean() for each in references)
            terms["loss_features"] = first + second
            loss = loss + self.feature_weight * terms["loss_features"]
        return loss, terms
