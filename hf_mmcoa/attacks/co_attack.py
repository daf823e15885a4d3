"""Co-Attack (arXiv:2206.09391): attack the text, then the image against its clean version and that text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.encoder import DualEncoder
from .contracts import AdversarialPairs, TextAttack, check_labels
from .image_losses import kl_loss
from .pgd import PGD
from .settings import Norm

TEXT_WEIGHT = 3.0  # alpha_2 of the paper, value of its release
STEP = 1.25  # step size in epsilon / num_steps, as in its release


@dataclass(frozen=True, kw_only=True)
class CoAttack:
    """Attack texts by `text_attack`, then images by PGD on `KL(I || I') + 3 KL(T' || I')` of softmaxed unit embeddings.

    The prompt of every class is attacked once, independently of the images, so that all samples are classified with the
    same C attacked prompts. Each image is moved away from the attacked prompt of its own class.

    Args:
        text_attack: attack on the prompts, with its own budget per prompt.
        epsilon: radius of the image's ball, as in `PGD`.
        num_steps: gradient steps of the image attack; the step size is 1.25 * epsilon / num_steps.
        norm: "linf" or "l2".

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = CoAttack(text_attack=BertAttack(...), epsilon=1 / 255)  # doctest: +SKIP
        >>> pairs = attack(images, labels, prompts, encoder)  # doctest: +SKIP
        >>> pairs.logits(encoder).argmax(1) == labels  # doctest: +SKIP
    """

    text_attack: TextAttack
    epsilon: float
    num_steps: int = 10
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {self.num_steps}.")
        self._image_attack()

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
        adv_prompts = self.text_attack(list(prompts), encoder.encode_texts)
        with torch.no_grad():
            clean_embeds = encoder.encode_images(images)
            text_embeds = encoder.encode_texts(adv_prompts)[labels]

        def loss_fn(adv_images: Tensor) -> Tensor:
            embeds = encoder.encode_images(adv_images)
            return kl_loss(embeds, clean_embeds) + TEXT_WEIGHT * kl_loss(embeds, text_embeds)

        adv_images = self._image_attack()(images, loss_fn, generator)
        return AdversarialPairs(adv_images, [adv_prompts] * len(images))

    def _image_attack(self) -> PGD:
        step_size = STEP * self.epsilon / self.num_steps
        return PGD(epsilon=self.epsilon, step_size=step_size, num_steps=self.num_steps, norm=self.norm)
