"""The adaptive attack on both modalities: image and texts maximise one objective, the zero-shot margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..models.encoder import DualEncoder
from .contracts import AdversarialPairs, EnumerableTextAttack, ImageAttack, check_labels
from .image_losses import margin_loss
from .prompt_pools import PromptPools


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Maximise `max_{j != y, t_j} s I' g(t_j) - min_{t_y} s I' g(t_y)` over the image and the texts t of each prompt.

    Image and text search alternate at every step: an exhaustive search over all texts within the budget of
    `text_attack` (the clean prompt included) finds the worst texts for the current image, and the image moves against
    them. The clean image with its worst texts is one of the results compared, so a sample counts as robust only if no
    combination found is misclassified.

    With `attacked_prompts="all"` the prompt of every class is attacked, for each sample separately and each within the
    budget of the text attack: the true class's text gets as dissimilar to the image as possible, the others' as
    similar. For a given image this search covers every outcome of attacking all prompts once for all samples
    (`independent`, `adaptive`) with the same text attack. With "true" only the true class's prompt changes.

    Args:
        text_attack: attack that lists the texts within its budget. A text in two classes' pools belongs to both.
        image_attack: attack on the images, e.g. `Restarts(PGD(...), times=5)` or `APGD(...)`.
        attacked_prompts: "all" classes, or the "true" class only.

    Raises:
        ValueError: if `attacked_prompts` is neither.

    Example:
        >>> attack = Joint(text_attack=BertAttack(...), image_attack=APGD(epsilon=1 / 255))  # doctest: +SKIP
        >>> attack(images, labels, prompts, encoder).logits(encoder)  # doctest: +SKIP
    """

    text_attack: EnumerableTextAttack
    image_attack: ImageAttack
    attacked_prompts: Literal["all", "true"] = "all"

    def __post_init__(self) -> None:
        if self.attacked_prompts not in ("all", "true"):
            raise ValueError(f'`attacked_prompts` must be "all" or "true", got {self.attacked_prompts!r}.')

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        prompts: Sequence[str],
        encoder: DualEncoder,
        generator: torch.Generator | None = None,
    ) -> AdversarialPairs:
        """Attack as in `MultimodalAttack`; keep per sample the pair with the larger margin."""
        check_labels(images, labels, len(prompts))
        others = self.attacked_prompts == "all"
        pools = PromptPools(self.text_attack.variants(list(prompts)), encoder.encode_texts)
        scale = encoder.logit_scale.detach()

        def loss_fn(adv_images: Tensor) -> Tensor:
            return margin_loss(pools.worst_logits(encoder.encode_images(adv_images), labels, others, scale), labels)

        adv_images = self.image_attack(images, loss_fn, generator)
        with torch.no_grad():
            kept = loss_fn(images) >= loss_fn(adv_images)  # image steps can undo what the texts alone achieved
            worst = torch.where(kept.view(-1, 1, 1, 1), images, adv_images).detach()
            return AdversarialPairs(worst, pools.worst_prompts(encoder.encode_images(worst), labels, others))
