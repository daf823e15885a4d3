"""MMCoA, multimodal contrastive adversarial training (arXiv:2404.19287)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import zero_shot_logits
from .base import Embeddings, Objective, View, class_logits, pair_loss, squared_distance


@dataclass(frozen=True, kw_only=True)
class MMCoA(Objective):
    """Adversarial images against clean texts, clean images against adversarial texts; both encoders train.

        L = lambda_image * contrastive(I', T) + lambda_text * contrastive(I, T') + lambda_clean * contrastive(I, T)
            + lambda_class * CE(s I' P^T, y) + lambda_distill * mean ||g(t') - g0(t)||^2

    The second line is ours: an explicit form of what the release's accident amounts to, and `LEAF`'s term, which keeps
    the pretrained geometry of texts. Both are 0 in the paper.

    contrastive is `pair_loss`: the paper's for a CLIP.

    Args:
        lambda_image: weight of the image term. 0.5, as the release.
        lambda_text: weight of the text term. 0.5, as the release.
        lambda_clean: weight of the clean term; 0 in the paper.
        lambda_class: weight of attacked images among all class prompts.
        lambda_distill: weight of the distance of attacked texts to the pretrained features of the clean ones,
            un-normalised.
        accumulate_attack_gradients: add `sum_k CE(s f(x + d_k) P^T, y)` over the iterates of the image attack. The
            release never clears the gradients that its attack's `backward` leaves on the weights, so this is the step
            that it takes.

    Raises:
        ValueError: if a weight is negative, or all are 0.
    """

    lambda_image: float = 0.5
    lambda_text: float = 0.5
    lambda_clean: float = 0.0
    lambda_class: float = 0.0
    lambda_distill: float = 0.0
    accumulate_attack_gradients: bool = False

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in _READS}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"`{name}` must not be negative, got {weight}.")
        if not any(weights.values()):
            names = [f"`{name}`" for name in weights]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} are all 0: there is nothing to minimise.")

    @property
    def views(self) -> frozenset[View]:
        """A term of weight 0 asks for nothing, so its attack is not run."""
        views = {view for name, read in _READS.items() if getattr(self, name) for view in read}
        if self.accumulate_attack_gradients:
            views |= {"adv_images", "prompts", "attack_iterates"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its unweighted terms: `loss_image`, `loss_text`, `loss_clean`, `loss_class`, `loss_distill` and
        `loss_attack_iterates`."""
        image, text, adv_image, adv_text = (
            embeds.image_embeds,
            embeds.text_embeds,
            embeds.adv_image_embeds,
            embeds.adv_text_embeds,
        )
        loss = embeds.logit_scale.new_zeros(())
        terms: dict[str, Tensor] = {}
        if self.lambda_image:
            terms["loss_image"] = pair_loss(adv_image, text, embeds)  # contrastive(I', T)
            loss = loss + self.lambda_image * terms["loss_image"]
        if self.lambda_text:
            terms["loss_text"] = pair_loss(image, adv_text, embeds)  # contrastive(I, T')
            loss = loss + self.lambda_text * terms["loss_text"]
        if self.lambda_clean:
            terms["loss_clean"] = pair_loss(image, text, embeds)  # contrastive(I, T)
            loss = loss + self.lambda_clean * terms["loss_clean"]
        if self.lambda_class:
            terms["loss_class"] = F.cross_entropy(class_logits(embeds.adv_image_features, embeds), embeds.labels)
            loss = loss + self.lambda_class * terms["loss_class"]
        if self.lambda_distill:
            terms["loss_distill"] = squared_distance(embeds.adv_text_features, embeds.teacher_text_features)
            loss = loss + self.lambda_distill * terms["loss_distill"]
        if self.accumulate_attack_gradients:
            losses = [
                F.cross_entropy(zero_shot_logits(iterate, embeds.prompt_embeds, embeds.logit_scale), embeds.labels)
                for iterate in embeds.iterate_embeds
            ]
            terms["loss_attack_iterates"] = torch.stack(losses).sum()
            loss = loss + terms["loss_attack_iterates"]
        return loss, terms


_READS: dict[str, tuple[View, ...]] = {
    "lambda_image": ("adv_images", "texts"),
    "lambda_text": ("images", "adv_texts"),
    "lambda_clean": ("images", "texts"),
    "lambda_class": ("adv_images", "prompts"),
    "lambda_distill": ("adv_texts", "teacher_texts"),
}
