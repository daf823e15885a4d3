"""The objective of SAFT, semantic-aware adversarial fine-tuning (arXiv:2602.12461)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits
from .tga_zsr import attention_map


@dataclass(frozen=True, kw_only=True)
class SAFT(Objective):
    """Classify adversarial images among several captions of every class: TGA-ZSR with an ensemble of captions.

        L = mean_k CE(s I' P_k^T, y) + adv_weight * mean ||A(f; x') - A(f0; x)||_2
            + clean_weight * mean ||A(f; x) - A(f0; x)||_2

    P_k holds the k-th caption of every class. A is TGA-ZSR's `attention_map`, of the cosines' mean over the captions of
    the sample's own class. The image attack raises the mean over k of the cross-entropy. The image encoder trains.

    Args:
        image_size: height and width to which maps are resized, in pixels: that of the model.
        adv_weight: weight of the attention term on attacked images; 0.08 in the authors' code.
        clean_weight: weight of the attention term on clean images; 0.05 in the authors' code.

    Raises:
        ValueError: if a weight is negative.
    """

    image_size: int
    adv_weight: float = 0.08
    clean_weight: float = 0.05

    trains = frozenset({"image"})
    reads_targets = False
    reads_captions = True

    def __post_init__(self) -> None:
        for name in ("adv_weight", "clean_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images, the class prompts and the views of the attention terms with a weight above 0."""
        views: set[View] = {"adv_images", "prompts"}
        if self.adv_weight:
            views |= {"adv_patches", "teacher_patches"}
        if self.clean_weight:
            views |= {"patches", "teacher_patches"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms `loss_image`, `loss_attention` and `loss_clean_attention`."""
        sets = embeds.caption_sets
        losses = [F.cross_entropy(class_logits(embeds.adv_image_features, each), each.labels) for each in sets]
        terms = {"loss_image": torch.stack(losses).mean()}
        loss = terms["loss_image"]
        # The mean of the cosines with several texts is the product with the mean of the texts.
        own = torch.stack([each.prompt_embeds[each.labels] for each in sets]).mean(0)  # (batch, dim)

        def distance(patches: Tensor) -> Tensor:
            teacher = attention_map(embeds.teacher_patches, own, self.image_size)
            return (attention_map(patches, own, self.image_size) - teacher).norm(dim=1).mean()

        if self.adv_weight:
            terms["loss_attention"] = distance(embeds.adv_patches)
            loss = loss + self.adv_weight * terms["loss_attention"]
        if self.clean_weight:
            terms["loss_clean_attention"] = distance(embeds.patches)
            loss = loss + self.clean_weight * terms["loss_clean_attention"]
        return loss, terms
