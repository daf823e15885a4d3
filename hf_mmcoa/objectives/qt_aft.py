"""The objective of QT-AFT, quality-text guided adversarial fine-tuning (arXiv:2507.16257)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits, squared_distance


@dataclass(frozen=True, kw_only=True)
class QTAFT(Objective):
    """Add to FARE the cross-entropy of an attacked image's caption; the attack raises the same sum.

        L = mean ||f(x') - f0(x)||^2 + caption_weight * CE(s I' T^T, own caption)        f not normalised

    The captions are the distinct ones of the batch, or all class prompts where images have labels alone. The image
    encoder and the temperature train.

    Args:
        caption_weight: weight of the cross-entropy, in the loss and in the attack; 10 in the authors' script.

    Raises:
        ValueError: if the weight is negative.
    """

    caption_weight: float = 10.0

    trains = frozenset({"image", "logit_scale"})
    image_attack_target = "teacher+class"
    reads_targets = False

    def __post_init__(self) -> None:
        if not self.caption_weight >= 0:
            raise ValueError(f"`caption_weight` must not be negative, got {self.caption_weight}.")

    @property
    def attack_class_weight(self) -> float:  # type: ignore[override]
        """Return the weight of the cross-entropy in the attack, that of the loss."""
        return self.caption_weight

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images, the captions and the teacher's clean images."""
        return frozenset({"adv_images", "prompts", "teacher_images"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms `loss_image` and `loss_caption`."""
        terms = {
            "loss_image": squared_distance(embeds.adv_image_features, embeds.teacher_image_features),
            "loss_caption": F.cross_entropy(class_logits(embeds.adv_image_features, embeds), embeds.labels),
        }
        return terms["loss_image"] + self.caption_weight * terms["loss_caption"], terms
