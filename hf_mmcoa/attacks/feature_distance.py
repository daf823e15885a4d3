"""The loss of a class-free attack on an encoder: how far its features move from those of the clean images.

The inner maximisation of FARE (arXiv:2402.12336) on any features. Whatever reads them afterwards, a
projector and a language model for example, is not needed to attack them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .image_losses import embedding_loss

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """Squared Euclidean distance of an image's features to those of its clean version, for any `ImageAttack`.

    Its gradient is zero at the clean images, so the attack must start at a random point, as `APGD` and, by default,
    `PGD` do.

    Args:
        features: maps images (batch, 3, height, width) to features (batch, ...), differentiably.
        clean: features of the clean images, (batch, ...).

    Example:
        >>> from hf_mmcoa.attacks import APGD
        >>> images = torch.rand(2, 3, 8, 8)
        >>> loss_fn = FeatureDistance.of(lambda images: images.mean(1), images)
        >>> adv_images = APGD(epsilon=4 / 255, num_steps=10)(images, loss_fn)
    """

    features: Features
    clean: Tensor

    @classmethod
    def of(cls, features: Features, images: Tensor) -> FeatureDistance:
        """Return the distance to the features of `images`, (batch, 3, height, width)."""
        with torch.no_grad():
            return cls(features, features(images))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distances, (batch,)."""
        return embedding_loss(self.features(images).flatten(1), self.clean.flatten(1))
