"""The objective of AGFT, alignment-guided fine-tuning (arXiv:2603.29410)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits, soft_labels


@dataclass(frozen=True, kw_only=True)
class AGFT(Objective):
    """Classify adversarial images as the frozen model classifies the clean ones, with a softer distribution.

        L = CE(s I' P^T, softmax(scale_ratio s I0 P^T))        I0 = bar f0(x)

    It needs class names or captions and no labels: among captions, the classes are the distinct ones of the batch. The
    image attack is PGD on the same cross-entropy. The image encoder trains.

    Args:
        scale_ratio: what the frozen model's logits are multiplied by, above 0; 0.4 in the authors' command.

    Raises:
        ValueError: if the ratio is not above 0.
    """

    scale_ratio: float = 0.4

    trains = frozenset({"image"})
    image_attack_target = "soft class"
    reads_targets = False

    def __post_init__(self) -> None:
        if not self.scale_ratio > 0:
            raise ValueError(f"`scale_ratio` must be above 0, got {self.scale_ratio}.")

    @property
    def soft_label_scale(self) -> float:  # type: ignore[override]
        """Return the factor of the frozen model's logits in the attack, that of the loss."""
        return self.scale_ratio

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images, the class prompts and the teacher's clean images."""
        return frozenset({"adv_images", "prompts", "teacher_images"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_image`."""
        scale = self.scale_ratio * embeds.logit_scale
        labels = soft_labels(embeds.teacher_image_features, embeds.prompt_embeds, scale)
        loss = F.cross_entropy(class_logits(embeds.adv_image_features, embeds), labels)
        return loss, {"loss_image": loss}
