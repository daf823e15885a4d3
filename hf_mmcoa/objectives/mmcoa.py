"""The objective of MMCoA, multimodal contrastive adversarial training (arXiv:2404.19287)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import worst_case_logits, zero_shot_logits
from .base import Embeddings, Objective, View, class_logits, pair_loss, squared_distance


@dataclass(frozen=True, kw_only=True)
class MMCoA(Objective):
    """Contrast adversarial images with clean texts, and clean images with adversarial texts. Both encoders train.

        L = lambda_image * contrastive(I', T) + lambda_text * contrastive(I, T') + lambda_clean * contrastive(I, T)
            + lambda_class * CE(s I' P^T, y) + lambda_distill * mean ||g(t') - g0(t)||^2

    contrastive is `pair_loss`, which for a CLIP is the paper's. The paper has the first two terms; the others are ours
    and 0 by default. `lambda_class` states explicitly what the release does by accident (see
    `accumulate_attack_gradients`), and `lambda_distill` is the term of `LEAF`, which keeps the text embeddings close to
    the pretrained ones. The mathematics: docs/methods.md, section 2.

    `text_adversary` says who chooses the texts of the text term, as in an evaluation. "blind" is the paper. With "own"
    and "all" the term is 2 CE(z, y), where z are the logits of the clean image under the worst of all legal texts
    (`worst_case_logits`): twice, as contrastive is the sum over two directions.

    Args:
        lambda_image: weight of the image term; 0.5 in the release.
        lambda_text: weight of the text term; 0.5 in the release.
        lambda_clean: weight of the clean term; 0 in the paper.
        lambda_class: weight of the cross-entropy of attacked images among all class prompts.
        lambda_distill: weight of the squared distance between the features of attacked texts and the pretrained
            features of the clean texts, un-normalised.
        text_adversary: "blind", "own" (the image's own class) or "all" (every class).
        accumulate_attack_gradients: add `sum_k CE(s f(x + d_k) P^T, y)` over the iterates of the image attack. The
            release never clears the gradients that its attack's `backward` leaves on the weights, and this sum gives
            the same step.

    Raises:
        ValueError: if a weight is negative, or all are 0.
    """

    lambda_image: float = 0.5
    lambda_text: float = 0.5
    lambda_clean: float = 0.0
    lambda_class: float = 0.0
    lambda_distill: float = 0.0
    text_adversary: Literal["blind", "own", "all"] = "blind"
    accumulate_attack_gradients: bool = False

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in _READS}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"`{name}` must not be negative, got {weight}.")
        if self.text_adversary not in ("blind", "own", "all"):
            raise ValueError(f"`text_adversary` must be blind, own or all, got {self.text_adversary!r}.")
        if not any(weights.values()):
            names = [f"`{name}`" for name in weights]
            raise ValueError(
                f"{', '.join(names[:-1])} and {names[-1]} are all 0, so the loss has no term: set one above 0."
            )

    @property
    def reads_targets(self) -> bool:  # type: ignore[override]
        """Return whether a contrastive term has a weight."""
        return bool(self.lambda_image or (self.lambda_text and self.text_adversary == "blind") or self.lambda_clean)

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Return whether texts are chosen among those of all classes."""
        return self.text_adversary != "blind"

    @property
    def views(self) -> frozenset[View]:
        """Return the views of the terms with a weight above 0, so that an attack of weight 0 is not run."""
        reads = _READS | ({} if self.text_adversary == "blind" else {"lambda_text": ("images", "text_pools")})
        views = {view for name, read in reads.items() if getattr(self, name) for view in read}
        if self.accumulate_attack_gradients:
            views |= {"adv_images", "prompts", "attack_iterates"}
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms.

        The terms are `loss_image`, `loss_text`, `loss_clean`, `loss_class`, `loss_distill` and `loss_attack_iterates`,
        each only if it has a weight or is switched on.
        """
        image, text, adv_image = embeds.image_embeds, embeds.text_embeds, embeds.adv_image_embeds
        loss = embeds.logit_scale.new_zeros(())
        terms: dict[str, Tensor] = {}
        if self.lambda_image:
            terms["loss_image"] = pair_loss(adv_image, text, embeds)  # contrastive(I', T)
            loss = loss + self.lambda_image * terms["loss_image"]
        if self.lambda_text:
            terms["loss_text"] = self._text_loss(embeds)  # contrastive(I, T')
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

    def _text_loss(self, embeds: Embeddings) -> Tensor:
        if self.text_adversary == "blind":
            return pair_loss(embeds.image_embeds, embeds.adv_text_embeds, embeds)
        logits = worst_case_logits(
            F.normalize(embeds.image_features, dim=-1),
            embeds.pool_embeds,
            embeds.pool_classes,
            embeds.labels,
            embeds.logit_scale,
            every_class=self.text_adversary == "all",
        )
        return 2 * F.cross_entropy(logits, embeds.labels)


_READS: dict[str, tuple[View, ...]] = {
    "lambda_image": ("adv_images", "texts"),
    "lambda_text": ("images", "adv_texts"),
    "lambda_clean": ("images", "texts"),
    "lambda_class": ("adv_images", "prompts"),
    "lambda_distill": ("adv_texts", "teacher_texts"),
}
