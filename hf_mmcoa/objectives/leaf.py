"""LEAF, adversarial fine-tuning of the text encoder against typing errors (arXiv:2506.03355)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Embeddings, Objective, View, squared_distance


@dataclass(frozen=True, kw_only=True)
class LEAF(Objective):
    """Features of attacked texts stay where the pretrained encoder has those of the clean ones; no image, no label.

        L = mean ||g(t') - g0(t)||^2        un-normalised, g0 frozen

    Attacks texts by `LevenshteinAttack` away from `g0(t)`. Trains the text encoder.
    """

    trains = frozenset({"text"})

    @property
    def views(self) -> frozenset[View]:
        """Attacked texts and the teacher's clean ones."""
        return frozenset({"adv_texts", "teacher_texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and itself as the term `loss_text`."""
        loss = squared_distance(embeds.adv_text_features, embeds.teacher_text_features)
        return loss, {"loss_text": loss}
