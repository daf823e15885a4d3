"""MMCoA, multimodal contrastive adversarial training (arXiv:2404.19287)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import contrastive_loss, zero_shot_logits
from .base import Embeddings, Objective, View


@dataclass(frozen=True, kw_only=True)
class MMCoA(Objective):
    """Adversarial images against clean texts, clean images against adversarial texts; both encoders train.

        L = lambda_image * contrastive(I', T) + lambda_text * contrastive(I, T') + lambda_clean * contrastive(I, T)

    Args:
        lambda_image: weight of the image term. 0.5, as the release.
        lambda_text: weight of the text term. 0.5, as the release.
        lambda_clean: weight of the clean term; 0 in the paper.
        accumulate_attack_gradients: add `sum_k CE(s f(x + d_k) P^T, y)` over the iterates of the image attack. The
            release never clears the gradients that its attack's `backward` leaves on the weights, so this is the step
            that it takes.

    Raises:
        ValueError: if a weight is negative, or all are 0.
    """

    lambda_image: float = 0.5
    lambda_text: float = 0.5
    lambda_clean: float = 0.0
    accumulate_attack_gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("lambda_image", "lambda_text", "lambda_clean"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if self.lambda_image == self.lambda_text == self.lambda_clean == 0:
            raise ValueError(
                "`lambda_image`, `lambda_text` and `lambda_clean` are all 0: there is nothing to minimise."
            )

    @property
    def views(self) -> frozenset[View]:
        """A term of weight 0 asks for nothing, so its attack is not run."""
        views: set[View] = set()
        if self.lambda_image:
            views |= {"adv_images", "texts"}
        if self.lambda_text:
            views |= {"images", "adv_texts"}
        if self.lambda_clean:
            views |= {"images", "texts"}
        if self.accumulate_attack_gradients:
            views |= {"adv_images", "prompts", "attack_iterates"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its unweighted terms `loss_image`, `loss_text`, `loss_clean`, `loss_attack_iterates`."""
        scale, targets = embeds.logit_scale, embeds.targets
        image, text, adv_image, adv_text = (
            embeds.image_embeds,
            embeds.text_embeds,
            embeds.adv_image_embeds,
            embeds.adv_text_embeds,
        )
        loss = scale.new_zeros(())
        terms: dict[str, Tensor] = {}
        if self.lambda_image:
            terms["loss_image"] = contrastive_loss(adv_image, text, scale, targets)  # contrastive(I', T)
            loss = loss + self.lambda_image * terms["loss_image"]
        if self.lambda_text:
            terms["loss_text"] = contrastive_loss(image, adv_text, scale, targets)  # contrastive(I, T')
            loss = loss + self.lambda_text * terms["loss_text"]
        if self.lambda_clean:
            terms["loss_clean"] = contrastive_loss(image, text, scale, targets)  # contrastive(I, T)
            loss = loss + self.lambda_clean * terms["loss_clean"]
        if self.accumulate_attack_gradients:
            losses = [
                F.cross_entropy(zero_shot_logits(iterate, embeds.prompt_embeds, scale), embeds.labels)
                for iterate in embeds.iterate_embeds
            ]
            terms["loss_attack_iterates"] = torch.stack(losses).sum()
            loss = loss + terms["loss_attack_iterates"]
        return loss, terms
