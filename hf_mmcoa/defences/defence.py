"""The contract of a test-time defence: what answers in the model's place, with the model's weights as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..losses import zero_shot_logits
from ..models.encoder import DualEncoder


class Defence(Protocol):
    """Classify images with a model that was not trained for it: `RTPT`, and every `ImageDefence`.

    A defence is a frozen object: settings in its fields, data in the call. All that it draws comes from `generator`, so
    that the same seed gives the same answer. It leaves gradients, `requires_grad` and the mode of the model alone, and
    works inside `torch.no_grad()`. Where gradients are enabled its logits are differentiable in the images, through
    every step that it takes: an adaptive attack differentiates through all of it.
    """

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the class logits of images, (batch, classes).

        Args:
            images: in [0, 1], (batch, 3, height, width).
            texts: one prompt a class.
            model: the model that is defended.
            generator: source of the random choices, on the images' device; a fresh one seeded 0 when None.
        """


@runtime_checkable
class ImageDefence(Protocol):
    """A `Defence` that changes the images and lets the model answer: `TTC`, `GaussianNoise`, `Quantise`.

    Its change need not be differentiable: an adaptive attack takes it for the identity on the way back (BPDA,
    arXiv:1802.00420).
    """

    def purify(self, images: Tensor, model: DualEncoder, generator: torch.Generator | None = None) -> Tensor:
        """Return the images that the model reads, in [0, 1], of the shape of `images`."""

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Defence`."""


def classify(images: Tensor, texts: Sequence[str], model: DualEncoder) -> Tensor:
    """Return the class logits of the model itself, (batch, classes), differentiable in the images.

    Args:
        images: in [0, 1], (batch, 3, height, width).
        texts: one prompt a class.
        model: the model.
    """
    return zero_shot_logits(model.encode_images(images), model.encode_texts(list(texts)), model.logit_scale)


def seeded(images: Tensor, generator: torch.Generator | None) -> torch.Generator:
    """Return `generator`, or a fresh one seeded 0 on the images' device."""
    return torch.Generator(images.device).manual_seed(0) if generator is None else generator
