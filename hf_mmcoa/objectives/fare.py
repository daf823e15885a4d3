"""The objective of FARE, unsupervised adversarial fine-tuning of the image encoder (arXiv:2402.12336)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Embeddings, Objective, View, squared_distance


@dataclass(frozen=True, kw_only=True)
class FARE(Objective):
    """Keep the features of attacked images at the pretrained encoder's features of the clean images.

        L = (1 - w) * mean ||f(x') - f0(x)||^2 + w * mean ||f(x) - f0(x)||^2        un-normalised, f0 frozen

    It needs neither texts nor labels. The image attack is PGD on `||f(x') - f0(x)||^2`. The image encoder trains.

    Args:
        clean_weight: w, in [0, 1]. The paper has no second term (w = 0); the authors' code offers this convex
            combination.
        trades: use the encoder's own `f(x)`, without gradient, as the target of the first term instead of `f0(x)`.
            Needs `clean_weight > 0`: otherwise no term would tie the encoder to the pretrained one.

    Raises:
        ValueError: if `clean_weight` is outside [0, 1], or 0 together with `trades`.
    """

    clean_weight: float = 0.0
    trades: bool = False

    trains = frozenset({"image"})
    image_attack_target = "teacher"
    reads_targets = False

    def __post_init__(self) -> None:
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"`clean_weight` must be in [0, 1], got {self.clean_weight}.")
        if self.trades and self.clean_weight == 0:
            raise ValueError(
                "`trades` with `clean_weight=0` leaves no term that ties the encoder to the pretrained one: "
                "give `clean_weight` above 0."
            )

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked images, the teacher's clean images, and the clean images if their term has a weight."""
        views: set[View] = {"adv_images", "teacher_images"}
        if self.clean_weight:
            views.add("images")
        return frozenset(views)

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its unweighted terms `loss_image` and `loss_clean`."""
        target = embeds.image_features.detach() if self.trades else embeds.teacher_image_features
        terms = {"loss_image": squared_distance(embeds.adv_image_features, target)}
        loss = (1 - self.clean_weight) * terms["loss_image"]
        if self.clean_weight:
            terms["loss_clean"] = squared_distance(embeds.image_features, embeds.teacher_image_features)
            loss = loss + self.clean_weight * terms["loss_clean"]
        return loss, terms
