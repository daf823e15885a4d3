"""The contracts of the attacks: what each kind is given, and what it must leave as it found it.

An attack is an object with settings in its fields and data in its call. None leaves gradients on parameters, or
changes `requires_grad`, the train/eval mode, autocast or a global random state, also when the caller's function
raises. All of them work inside `torch.no_grad()`, return detached images of the same shape, dtype and device inside
the ball and [0, 1], give the same output for the same seed, and give the input back when their budget is zero.
`tests/attacks/test_contract.py` holds every attack to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.encoder import DualEncoder
from .pgd import ImageLoss

LogitsFn = Callable[[Tensor], Tensor]
TextEncoder = Callable[[list[str]], Tensor]


class ImageAttack(Protocol):
    """Raises any per-image loss: `PGD`, `APGD`, and the wrappers `Restarts`, `Momentum`, `Diversity`."""

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Images in [0, 1], (batch, 3, height, width), to adversarial ones; `loss_fn(images) -> (batch,)` is raised."""


class ClassifierAttack(Protocol):
    """Makes a classifier wrong; may attack only the samples that still stand: `StrongAttack`, `AutoAttack`."""

    def __call__(
        self, images: Tensor, logits_fn: LogitsFn, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """As `ImageAttack`; `logits_fn` maps any number of images to (images, classes), labels are (batch,)."""


class TextAttack(Protocol):
    """Moves the embedding of each text away from where it was: `BertAttack`, `LevenshteinAttack`."""

    def __call__(self, texts: Sequence[str], encode: TextEncoder) -> list[str]:
        """N texts to N texts; `encode` maps any number of texts to unit embeddings, (texts, dim)."""


class EnumerableTextAttack(TextAttack, Protocol):
    """A text attack that can also list all it could do, for attacks that choose by an image."""

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """For each text, the text itself and then every text within the attack's budget and constraints."""


@dataclass(frozen=True)
class AdversarialPairs:
    """Adversarial images of an attack on both modalities, and for each the class prompts that classify it.

    Args:
        images: adversarial images in [0, 1], (batch, 3, height, width).
        prompts: per sample one prompt per class, batch lists of C texts.
    """

    images: Tensor
    prompts: list[list[str]]

    def logits(self, encoder: DualEncoder) -> Tensor:
        """Zero-shot logits `s I' P'^T` of every sample under its own prompts, (batch, classes)."""
        distinct = list(dict.fromkeys(prompt for prompts in self.prompts for prompt in prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([[place[prompt] for prompt in prompts] for prompts in self.prompts])
        with torch.no_grad():
            prompt_embeds = encoder.encode_texts(distinct)[rows.to(self.images.device)]  # (batch, classes, dim)
            image_embeds = encoder.encode_images(self.images)  # (batch, dim)
            return encoder.logit_scale * (prompt_embeds @ image_embeds.unsqueeze(-1)).squeeze(-1)


class MultimodalAttack(Protocol):
    """Attacks images and texts against each other: `CoAttack`, `SGA`, `Joint`."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        prompts: Sequence[str],
        encoder: DualEncoder,
        generator: torch.Generator | None = None,
    ) -> AdversarialPairs:
        """Attack a batch.

        Args:
            images: in [0, 1], (batch, 3, height, width).
            labels: the prompt that belongs to each image, (batch,). For image-caption pairs `prompts` are the captions,
                and `labels` is `torch.arange(batch)`.
            prompts: clean prompts, one per class, C texts.
            encoder: the model under attack.
            generator: of the random starts, on the images' device; a fresh one seeded 0 when None.
        """


def check_labels(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise unless there is one label per image, in [0, num_classes)."""
    if labels.shape != images.shape[:1]:
        raise ValueError(f"`labels` must be ({len(images)},), one per image, got shape {tuple(labels.shape)}.")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise ValueError(
            f"`labels` must lie in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}: "
            f"there are {num_classes} classes."
        )
