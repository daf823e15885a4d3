"""FARE and LEAF added up, so that both encoders keep their pretrained features under attack.

FARE: arXiv:2402.12336. LEAF: arXiv:2506.03355.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .base import Embeddings, Objective, View
from .fare import FARE
from .leaf import LEAF


@dataclass(frozen=True, kw_only=True)
class FAREAndLEAF(Objective):
    """Add `FARE` on images and `LEAF` on texts. Both encoders train, and no term couples them.

    Args:
        fare: the image term.
        leaf: the text term.
    """

    fare: FARE = field(default_factory=FARE)
    leaf: LEAF = field(default_factory=LEAF)

    trains = frozenset({"image", "text"})
    image_attack_target = "teacher"
    reads_targets = False

    @property
    def views(self) -> frozenset[View]:
        """Return the views of both terms."""
        return self.fare.views | self.leaf.views

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both losses, and the terms of both."""
        image, image_terms = self.fare(embeds)
        text, text_terms = self.leaf(embeds)
        return image + text, image_terms | text_terms
