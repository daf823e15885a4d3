"""TGA-ZSR, text-guided attention for zero-shot robustness (arXiv:2410.21802)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Objective):
    """TeCoA, with the text-guided attention map tied to the pretrained one, on attacked and on clean images.

        L = CE(s I' P^T, y) + adv_weight * mean ||A(f; x') - A(f0; x)||_2 + clean_weight * mean ||A(f; x) - A(f0; x)||_2

    A is `attention_map` of the sample's own prompt. Attacks images by PGD on the cross-entropy. Trains the image
    encoder. Patch tokens are read beside the model's forward: FSDP2 keeps what they need until the backward, DeepSpeed
    ZeRO-3 may not.

    Args:
        image_size: height and width that maps are resized to, in pixels: the model's.
        adv_weight: 0.08 in the paper.
        clean_weight: 0.05 in the paper.

    Raises:
        ValueError: if a weight is negative.
    """

    image_size: int
    adv_weight: float = 0.08
    clean_weight: float = 0.05

    trains = frozenset({"image"})
    needs_labels = True

    def __post_init__(self) -> None:
        for name in ("adv_weight", "clean_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @property
    def views(self) -> frozenset[View]:
        """A term of weight 0 asks for nothing."""
        views: set[View] = {"adv_images", "prompts"}
        if self.adv_weight:
            views |= {"adv_patches", "teacher_patches"}
        if self.clean_weight:
            views |= {"patches", "teacher_patches"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its unweighted terms `loss_image`, `loss_attention` and `loss_clean_attention`."""
        own = embeds.prompt_embeds[embeds.labels]  # (batch, dim)

        def distance(patches: Tensor) -> Tensor:
            teacher = attention_map(embeds.teacher_patches, own, self.image_size)
            return (attention_map(patches, own, self.image_size) - teacher).norm(dim=1).mean()

        terms = {"loss_image": F.cross_entropy(class_logits(embeds.adv_image_features, embeds), embeds.labels)}
        loss = terms["loss_image"]
        if self.adv_weight:
            terms["loss_attention"] = distance(embeds.adv_patches)
            loss = loss + self.adv_weight * terms["loss_attention"]
        if self.clean_weight:
            terms["loss_clean_attention"] = distance(embeds.patches)
            loss = loss + self.clean_weight * terms["loss_clean_attention"]
        return loss, terms


def attention_map(patches: Tensor, text_embeds: Tensor, image_size: int) -> Tensor:
    """Where in the image the text is: cosines of patch tokens and text, from 0 to 1 in each image, as pixels.

    Args:
        patches: projected patch tokens, (batch, patches, dim), of a square grid; normalised over channels here.
        text_embeds: unit embeddings, (batch, dim).
        image_size: height and width of the map, in pixels.

    Returns:
        (batch, image_size * image_size); all zeros where the cosines do not differ.

    Raises:
        ValueError: if the patches form no square.
    """
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise ValueError(f"`patches` must form a square grid, got {patches.shape[1]} of them.")
    cosines = (F.normalize(patches, dim=-1) @ text_embeds.unsqueeze(-1)).squeeze(-1)  # (batch, patches)
    low, high = cosines.amin(1, keepdim=True), cosines.amax(1, keepdim=True)
    spread = high - low
    maps = ((cosines - low) / spread.where(spread > 0, 1)).view(-1, 1, side, side)
    return F.interpolate(maps, (image_size, image_size), mode="bilinear", align_corners=False).flatten(1)
