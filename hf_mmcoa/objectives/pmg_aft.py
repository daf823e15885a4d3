"""The objective of PMG-AFT, pre-trained model guided adversarial fine-tuning (arXiv:2401.04350)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class PMGAFT(Objective):
    """Add to TeCoA two terms that tie the class distribution on attacked images to the pretrained and to the clean one.

        L = CE(s I' P^T, y) + alpha * KL(p0(x') || p(x')) + beta * KL(p(x) || p(x'))        p = softmax(s bar f P^T)

    All terms are batch means. The first argument of each KL is the teacher and gets no gradient. The image attack is
    PGD on the cross-entropy. The image encoder trains.

    Args:
        alpha: weight of the KL to the pretrained model's distribution on the attacked images; 1 in the paper.
        beta: weight of the KL to the distribution on the clean images; 1 in the paper.
        release_scaling: compute the loss as the authors' code does: KL terms summed over the batch, no logit scale in
            the loss or in the attack, and a gradient through `p(x)`.

    Raises:
        ValueError: if a weight is negative.
    """

    alpha: float = 1.0
    beta: float = 1.0
    release_scaling: bool = False

    trains = frozenset({"image"})
    needs_labels = True
    reads_targets = False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @property
    def attack_with_logit_scale(self) -> bool:  # type: ignore[override]
        """Return False with `release_scaling`: the release attacks plain cosines."""
        return not self.release_scaling

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images, the class prompts and the views of the terms with a weight above 0."""
        views: set[View] = {"adv_images", "prompts"}
        if self.alpha:
            views.add("teacher_adv_images")
        if self.beta:
            views.add("images")
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms `loss_image`, `loss_teacher` and `loss_clean`."""

        def logits(features: Tensor) -> Tensor:
            return class_logits(features, embeds, scaled=not self.release_scaling)

        adversarial = logits(embeds.adv_image_features)
        terms = {"loss_image": F.cross_entropy(adversarial, embeds.labels)}
        loss = terms["loss_image"]
        if self.alpha:
            terms["loss_teacher"] = self._divergence(logits(embeds.teacher_adv_image_features), adversarial)
            loss = loss + self.alpha * terms["loss_teacher"]
        if self.beta:
            clean = logits(embeds.image_features)
            terms["loss_clean"] = self._divergence(clean if self.release_scaling else clean.detach(), adversarial)
            loss = loss + self.beta * terms["loss_clean"]
        return loss, terms

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return KL(softmax teacher || softmax student): the batch mean, or the sum with `release_scaling`."""
        reduction = "sum" if self.release_scaling else "batchmean"
        return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction=reduction, log_target=True)
