"""The interfaces of the attacks: the inputs of each kind, and the state that it must not change.

An attack is an object whose fields are its settings and whose call takes the data. No attack leaves gradients on
parameters or changes `requires_grad`, the train/eval mode, autocast or a global random state, even if the caller's
function raises. All of them work inside `torch.no_grad()`, return detached images of the same shape, dtype and device
inside the ball and [0, 1], give the same output for the same seed, and return the input when the attack budget is zero.
`tests/attacks/test_contract.py` checks this for every attack.
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
    """Attack on any per-image loss: `PGD`, `APGD`, and the wrappers `Restarts`, `Momentum`, `Diversity`."""

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack images in [0, 1], (batch, 3, height, width), by increasing `loss_fn(images) -> (batch,)`."""


class ClassifierAttack(Protocol):
    """An attack on a classifier that may skip samples already misclassified: `StrongAttack`, `AutoAttack`."""

    def __call__(
        self, images: Tensor, logits_fn: LogitsFn, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack images with labels (batch,); `logits_fn` maps any number of images to logits (images, classes)."""


class TextAttack(Protocol):
    """An attack that moves each text's embedding away from its clean one: `BertAttack`, `LevenshteinAttack`."""

    def __call__(self, texts: Sequence[str], encode: TextEncoder) -> list[str]:
        """Attack N texts and return N texts; `encode` maps any number of texts to unit embeddings, (texts, dim)."""


class EnumerableTextAttack(TextAttack, Protocol):
    """A text attack that can also list its search space, for attacks that choose texts given an image."""

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List for each text the text itself and then every text within the attack budget and constraints."""


@dataclass(frozen=True)
class AdversarialPairs:
    """Result of a multimodal attack: adversarial images and, for each of them, the class prompts that classify it.

    Args:
        images: adversarial images in [0, 1], (batch, 3, height, width).
        prompts: one prompt per class for each sample, batch lists of C texts.
    """

    images: Tensor
    prompts: list[list[str]]

    def logits(self, encoder: DualEncoder) -> Tensor:
        """Return the zero-shot logits `s I' P'^T` of each sample under its own prompts, (batch, classes)."""
        distinct = list(dict.fromkeys(prompt for prompts in self.prompts for prompt in prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([[place[prompt] for prompt in prompts] for prompts in self.prompts])
        with torch.no_grad():
            prompt_embeds = encoder.encode_texts(distinct)[rows.to(self.images.device)]  # (batch, classes, dim)
            image_embeds = encoder.encode_images(self.images)  # (batch, dim)
            return encoder.logit_scale * (prompt_embeds @ image_embeds.unsqueeze(-1)).squeeze(-1)


class MultimodalAttack(Protocol):
    """An attack on images and texts together: `CoAttack`, `SGA`, `Joint`."""

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
            images: clean images in [0, 1], (batch, 3, height, width).
            labels: index of each image's prompt, (batch,). For image-caption pairs `prompts` are the captions,
                and `labels` is `torch.arange(batch)`.
            prompts: clean prompts, one per class, C texts.
            encoder: the model under attack.
            generator: source of the random starts, on the images' device; a fresh one seeded 0 when None.
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
