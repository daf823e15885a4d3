"""The objective of LEAF, adversarial fine-tuning of the text encoder against typing errors (arXiv:2506.03355)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Embeddings, Objective, View, squared_distance


@dataclass(frozen=True, kw_only=True)
class LEAF(Objective):
    """Keep the features of attacked texts at the pretrained encoder's features of the clean texts.

        L = mean ||g(t') - g0(t)||^2        un-normalised, g0 frozen

    It needs neither images nor labels. The text attack is `LevenshteinAttack`, which maximises the distance to `g0(t)`.
    The text encoder trains.
    """

    trains = frozenset({"text"})
    reads_targets = False

    @property
    def views(self) -> frozenset[View]:
        """Return the attacked texts and the teacher's clean texts."""
        return frozenset({"adv_texts", "teacher_texts"})

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the same loss as the term `loss_text`."""
        loss = squared_distance(embeds.adv_text_features, embeds.teacher_text_features)
        return loss, {"loss_text": loss}
