"""FARE and LEAF together: each encoder keeps its pretrained features under attack (arXiv:2402.12336, 2506.03355)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .base import Embeddings, Objective, View
from .fare import FARE
from .leaf import LEAF


@dataclass(frozen=True, kw_only=True)
class FAREAndLEAF(Objective):
    """The sum of `FARE` on images and `LEAF` on texts; both encoders train, neither sees the other.

    Args:
        fare: the image term.
        leaf: the text term.
    """

    fare: FARE = field(default_factory=FARE)
    leaf: LEAF = field(default_factory=LEAF)

    trains = frozenset({"image", "text"})
    image_attack_target = "teacher"

    @property
    def views(self) -> frozenset[View]:
        """What either reads."""
        return self.fare.views | self.leaf.views

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the terms of both."""
        image, image_terms = self.fare(embeds)
        text, text_terms = self.leaf(embeds)
        return image + text, image_terms | text_terms
