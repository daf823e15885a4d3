"""PMG-AFT, pre-trained model guided adversarial fine-tuning (arXiv:2401.04350)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class PMGAFT(Objective):
    """TeCoA, with the class distribution on attacked images tied to the pretrained one and to the one on clean images.

        L = CE(s I' P^T, y) + alpha * KL(p0(x') || p(x')) + beta * KL(p(x) || p(x'))        p = softmax(s bar f P^T)

    Batch means; the first argument of each KL, the teacher, has no gradient. Attacks images by PGD on the
    cross-entropy. Trains the image encoder.

    Args:
        alpha: weight of the pretrained model's term; 1 in the paper.
        beta: weight of the clean images' term; 1 in the paper.
        release_scaling: as the authors' code: KL terms summed over the batch, no logit scale in the loss or in the
            attack, and `p(x)` with gradient.

    Raises:
        ValueError: if a weight is negative.
    """

    alpha: float = 1.0
    beta: float = 1.0
    release_scaling: bool = False

    trains = frozenset({"image"})
    needs_labels = True

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @property
    def attack_with_logit_scale(self) -> bool:  # type: ignore[override]
        """The release attacks plain cosines."""
        return not self.release_scaling

    @property
    def views(self) -> frozenset[View]:
        """A term of weight 0 asks for nothing."""
        views: set[View] = {"adv_images", "prompts"}
        if self.alpha:
            views.add("teacher_adv_images")
        if self.beta:
            views.add("images")
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its unweighted terms `loss_image`, `loss_teacher` and `loss_clean`."""

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
        """KL(softmax teacher || softmax student) over classes, mean of the batch, or its sum as in the release."""
        reduction = "sum" if self.release_scaling else "batchmean"
        return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction=reduction, log_target=True)
