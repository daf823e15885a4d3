"""The objective of TGA-ZSR, text-guided attention for zero-shot robustness (arXiv:2410.21802)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Embeddings, Objective, View, class_logits


@dataclass(frozen=True, kw_only=True)
class TGAZSR(Objective):
    """Add to TeCoA two terms that tie the text-guided attention maps to those of the pretrained encoder.

        L = CE(s I' P^T, y) + adv_weight * mean ||A(f; x') - A(f0; x)||_2 + clean_weight * mean ||A(f; x) - A(f0; x)||_2

    A is `attention_map` with the prompt of the sample's own class. The image attack is PGD on the cross-entropy. The
    image encoder trains. The patch tokens are projected outside the model's forward: FSDP2 keeps the weights that this
    needs until the backward, DeepSpeed ZeRO-3 may not.

    Args:
        image_size: height and width to which maps are resized, in pixels: that of the model.
        adv_weight: weight of the attention term on attacked images; 0.08 in the paper.
        clean_weight: weight of the attention term on clean images; 0.05 in the paper.

    Raises:
        ValueError: if a weight is negative.
    """

    image_size: int
    adv_weight: float = 0.08
    clean_weight: float = 0.05

    trains = frozenset({"image"})
    needs_labels = True
    reads_targets = False

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
        sets = embeds.caption_sets  # one, unless several captions are read
        losses = [F.cross_entropy(class_logits(embeds.adv_image_features, each), each.labels) for each in sets]
        # The mean of the cosines with several texts is the product with the mean of the texts.
        own = torch.stack([each.prompt_embeds[each.labels] for each in sets]).mean(0)  # (batch, dim)

        def distance(patches: Tensor) -> Tensor:
            teacher = attention_map(embeds.teacher_patches, own, self.image_size)
            return (attention_map(patches, own, self.image_size) - teacher).norm(dim=1).mean()

        terms = {"loss_image": torch.stack(losses).mean()}
        loss = terms["loss_image"]
        if self.adv_weight:
            terms["loss_attention"] = distance(embeds.adv_patches)
            loss = loss + self.adv_weight * terms["loss_attention"]
        if self.clean_weight:
            terms["loss_clean_attention"] = distance(embeds.patches)
            loss = loss + self.clean_weight * terms["loss_clean_attention"]
        return loss, terms


def attention_map(patches: Tensor, text_embeds: Tensor, image_size: int) -> Tensor:
    """Return a map of where an image matches a text: the cosines of its patch tokens with the text, resized to pixels.

    The cosines of each image are shifted and scaled to the range from 0 to 1 before the bilinear resize.

    Args:
        patches: projected patch tokens of a square grid, (batch, patches, dim); they are normalised here, over
            channels.
        text_embeds: unit vectors, (batch, dim).
        image_size: height and width of the map, in pixels.

    Returns:
        Flattened maps in [0, 1], (batch, image_size * image_size); all zeros for an image whose cosines are all equal.

    Raises:
        ValueError: if the number of patches is not a square.
    """
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        raise ValueError(f"`patches` must form a square grid, got {patches.shape[1]} of them.")
    cosines = (F.normalize(patches, dim=-1) @ text_embeds.unsqueeze(-1)).squeeze(-1)  # (batch, patches)
    low, high = cosines.amin(1, keepdim=True), cosines.amax(1, keepdim=True)
    spread = high - low
    maps = ((cosines - low) / spread.where(spread > 0, 1)).view(-1, 1, side, side)
    return F.interpolate(maps, (image_size, image_size), mode="bilinear", align_corners=False).flatten(1)
