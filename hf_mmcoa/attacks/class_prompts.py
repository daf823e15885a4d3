"""What classifies an image: fixed class prompts, or for each image the worst texts that may stand in their place.

Image attacks are run against either; against the latter they are attacks on both modalities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ..losses import zero_shot_logits
from .prompt_pools import PromptPools


class ClassPrompts(Protocol):
    """Class prompts of one embedding or of several."""

    reads_labels: ClassVar[bool]
    """Whether the logits depend on the label, because the true class's prompt is attacked another way."""

    def logits(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Return differentiable logits (batch, classes) of unit embeddings (batch, dim) with labels (batch,)."""

    def correct(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Return which samples are classified correctly, (batch,)."""


@dataclass(frozen=True, eq=False)
class FixedPrompts:
    """The same prompts for every image.

    Args:
        embeds: unit prompt embeddings, (classes, dim).
        scale: factor of the cosines in the logits, scalar.
    """

    reads_labels: ClassVar[bool] = False

    embeds: Tensor
    scale: Tensor

    def logits(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """See `ClassPrompts`."""
        return zero_shot_logits(image_embeds, self.embeds, self.scale)

    def correct(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """See `ClassPrompts`."""
        return correct(self.logits(image_embeds, labels), labels)


@dataclass(frozen=True, eq=False)
class WorstPrompts:
    """For each image the texts that are worst for it.

    Args:
        pools: texts of each class.
        others: attack the prompts of all classes; if False, the true class's only.
        scale: factor of the cosines in the logits, scalar.
    """

    reads_labels: ClassVar[bool] = True

    pools: PromptPools
    others: bool
    scale: Tensor

    def logits(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """See `ClassPrompts`."""
        return self.pools.worst_logits(image_embeds, labels, self.others, self.scale)

    def correct(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """See `ClassPrompts`; a tie is a misclassification."""
        return self.pools.correct(image_embeds, labels, self.others)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each sample is classified correctly, (batch,); samples with non-finite logits are not."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)
