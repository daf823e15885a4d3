"""Set-level guidance (SGA, arXiv:2307.14061): text and image are attacked in turn, with the image at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.encoder import DualEncoder
from .contracts import AdversarialPairs, EnumerableTextAttack, ImageAttack, check_labels
from .prompt_pools import PromptPools

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the paper


@dataclass(frozen=True, kw_only=True)
class SGA:
    """Attack text, image and text again, each to lower its similarity to the current version of the other.

    1. Choose the caption least similar to the clean image, summed over all scales. 2. Move the image away from that
    caption at all scales. 3. Choose the caption least similar to the attacked image.

    Only the prompt of the true class is attacked, for each sample separately, among the texts within the budget of
    `text_attack`; the other classes keep their clean prompts.

    Args:
        text_attack: attack that lists the texts within its budget.
        image_attack: attack such as `PGD`; it increases the negative sum of the cosine similarities over the scales.
        scales: sizes of the views, as fractions of the image size; each view is scaled back to the image size.

    Raises:
        ValueError: if `scales` is empty or holds a number that is not positive.

    Example:
        >>> attack = SGA(text_attack=BertAttack(...), image_attack=PGD(...))  # doctest: +SKIP
        >>> attack(images, labels, prompts, encoder).logits(encoder)  # doctest: +SKIP
    """

    text_attack: EnumerableTextAttack
    image_attack: ImageAttack
    scales: tuple[float, ...] = SCALES

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"`scales` must be positive numbers, at least one, got {self.scales}.")

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        prompts: Sequence[str],
        encoder: DualEncoder,
        generator: torch.Generator | None = None,
    ) -> AdversarialPairs:
        """Attack as in `MultimodalAttack`."""
        check_labels(images, labels, len(prompts))
        pools = PromptPools(self.text_attack.variants(list(prompts)), encoder.encode_texts)
        with torch.no_grad():
            views = self._view_embeds(images, encoder)
            captions = pools.worst_prompts(views, labels, others=False)
            own = [chosen[label] for chosen, label in zip(captions, labels.tolist(), strict=True)]
            text_embeds = encoder.encode_texts(own)
        adv_images = self.image_attack(
            images, lambda adv_images: -(self._view_embeds(adv_images, encoder) * text_embeds).sum(1), generator
        )
        with torch.no_grad():
            adv_embeds = encoder.encode_images(adv_images)
        return AdversarialPairs(adv_images, pools.worst_prompts(adv_embeds, labels, others=False))

    def _view_embeds(self, images: Tensor, encoder: DualEncoder) -> Tensor:
        """Return the sum of the unit embeddings over all scales, (batch, dim); inner products add up likewise."""
        return torch.stack([encoder.encode_images(_scaled(images, scale)) for scale in self.scales]).sum(0)


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Resize images to another scale and back, so that their frequencies change and the input size does not."""
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    view = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=scale < 1)
    return F.interpolate(view, (height, width), mode="bilinear", align_corners=False, antialias=scale > 1)
