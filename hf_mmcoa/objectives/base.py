"""The interface between the trainer and an objective: the embeddings of a batch, and the `Objective` protocol.

The trainer attacks and encodes; an objective turns embeddings into a loss. A new defence is a new subclass of
`Objective`, and the trainer stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from ..losses import contrastive_loss, sigmoid_loss

View = Literal[
    "images",
    "adv_images",
    "texts",
    "adv_texts",
    "text_pools",
    "prompts",
    "attack_iterates",
    "patches",
    "adv_patches",
    "teacher_images",
    "teacher_adv_images",
    "teacher_texts",
    "teacher_patches",
    "teacher_adv_patches",
]
Part = Literal["image", "text", "logit_scale"]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings of one batch; row i of each tensor is sample i. Views that the objective does not list are None.

    `image_embeds`, `text_embeds`, `adv_image_embeds` and `adv_text_embeds` are I, T, I' and T' of docs/methods.md,
    section 1: unit vectors of the **global** batch, gathered from all processes, (batch, dim). `targets` are the soft
    targets of that batch, (batch, batch), or None for the diagonal.

    All other embeddings and features are of this process's own samples only:

    - Unit vectors: `prompt_embeds` is P, (classes, dim), with `labels`, (batch,). `iterate_embeds` has one (batch, dim)
      tensor for each image at which the image attack computed a gradient. `pool_embeds`, (texts, dim), are all legal
      texts of all classes: first the class prompts in their order, then the others; `pool_classes`, (texts,), says
      whose each is.
    - Un-normalised features of the encoders that train, f and g, (batch, dim): `image_features`, `adv_image_features`
      and `adv_text_features`.
    - Un-normalised features of the frozen pretrained encoders, f0 and g0, without gradient: `teacher_image_features`,
      `teacher_adv_image_features` and `teacher_text_features`.
    - Projected patch tokens, (batch, patches, dim): `patches`, `adv_patches`, `teacher_patches` and
      `teacher_adv_patches`.

    Where the objective reads several captions of an image, `more_captions` has the second and every further caption of
    each sample as embeddings of their own, whose fields of images are None.
    """

    logit_scale: Tensor
    logit_bias: Tensor | None = None  # SigLIP only
    image_embeds: Any = None  # from here on: a tensor if the objective lists the view, else None
    text_embeds: Any = None
    adv_image_embeds: Any = None
    adv_text_embeds: Any = None
    targets: Tensor | None = None
    prompt_embeds: Any = None
    labels: Any = None
    pool_embeds: Any = None
    pool_classes: Any = None
    iterate_embeds: Sequence[Tensor] = ()
    image_features: Any = None
    adv_image_features: Any = None
    adv_text_features: Any = None
    teacher_image_features: Any = None
    teacher_adv_image_features: Any = None
    teacher_text_features: Any = None
    patches: Any = None
    adv_patches: Any = None
    teacher_patches: Any = None
    teacher_adv_patches: Any = None
    more_captions: Sequence[Embeddings] = ()

    @property
    def caption_sets(self) -> tuple[Embeddings, ...]:
        """Return the batch with each sample's first caption, then with its second, and so on."""
        return (self, *self.more_captions)


class Objective(Protocol):
    """Turn the embeddings of a batch into a loss. Subclass it, and pass an instance to `MMCoATrainer(objective=...)`.

    It holds everything in which the published defences differ: the loss, the loss that the attacks maximise, and which
    encoders train. The attributes below are the defaults; a subclass overrides those in which it differs.
    """

    trains: frozenset[Part] = frozenset({"image", "text", "logit_scale"})
    """The parts that train; all others are frozen. `MMCoAConfig.train_...` may freeze more."""

    needs_labels: bool = False
    """True if the loss reads class labels. Captions without labels are refused then."""

    image_attack_target: Literal["class", "teacher", "teacher+class", "soft class"] = "class"
    """The loss that the image attack maximises. "class": the cross-entropy of the image's class among the class
    prompts. "teacher": the squared distance to the frozen encoder's features of the clean image. "teacher+class": that
    distance plus `attack_class_weight` times the cross-entropy. "soft class": the cross-entropy with the frozen
    model's `soft_labels` of the clean image."""

    attack_class_weight: float = 1.0
    """Weight of the cross-entropy under "teacher+class", at least 0."""

    soft_label_scale: float = 1.0
    """Factor of the frozen model's logits under "soft class"."""

    reads_captions: bool = False
    """Whether the loss reads `Embeddings.more_captions`; the image attack then raises the mean over all captions."""

    attack_with_logit_scale: bool = True
    """True if the logits under attack are multiplied by the logit scale, False if they are plain cosines."""

    reads_targets: bool = True
    """Whether the loss reads `Embeddings.targets`, the soft targets of `MMCoAConfig.targets`."""

    @property
    def attack_reads_texts(self) -> bool:
        """Return whether the image attack compares images with texts."""
        return self.image_attack_target != "teacher"

    @property
    def attack_reads_teacher(self) -> bool:
        """Return whether the image attack reads the frozen encoder's features of clean images."""
        return self.image_attack_target != "class"

    @property
    def views(self) -> frozenset[View]:
        """Return the views that the loss reads. The trainer attacks and encodes only these."""

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, scalar, and its terms by name for the log."""


def pair_loss(image_embeds: Tensor, text_embeds: Tensor, embeds: Embeddings) -> Tensor:
    """Return contrastive(A, B) of the objectives: the pretraining loss, between two views of the batch.

    It is CLIP's `contrastive_loss`, or SigLIP's `sigmoid_loss` if the model has a logit bias.

    Args:
        image_embeds: unit vectors A, (batch, dim).
        text_embeds: unit vectors B, (batch, dim).
        embeds: the batch; its temperature, bias and targets are used.

    Returns:
        Scalar.
    """
    if embeds.logit_bias is None:
        return contrastive_loss(image_embeds, text_embeds, embeds.logit_scale, embeds.targets)
    return sigmoid_loss(image_embeds, text_embeds, embeds.logit_scale, embeds.logit_bias, embeds.targets)


def class_logits(features: Tensor, embeds: Embeddings, scaled: bool = True) -> Tensor:
    """Return the zero-shot logits s bar(f) P^T, (batch, classes).

    They are meant for a softmax over classes, so SigLIP's bias is left out: it is the same for every class.

    Args:
        features: un-normalised image features, (batch, dim).
        embeds: the batch; its class prompts and its temperature s are used.
        scaled: multiply the cosines by s; False returns plain cosines.
    """
    cosines = F.normalize(features, dim=-1) @ embeds.prompt_embeds.T
    return embeds.logit_scale * cosines if scaled else cosines


def soft_labels(teacher_features: Tensor, prompt_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the class distribution of the frozen model on clean images, (batch, classes), rows of sum 1.

    Args:
        teacher_features: un-normalised features f0 of clean images, (batch, dim).
        prompt_embeds: unit vectors P, (classes, dim).
        logit_scale: factor of the cosines, scalar.
    """
    return (logit_scale * F.normalize(teacher_features, dim=-1) @ prompt_embeds.T).softmax(1)


def squared_distance(features: Tensor, others: Tensor) -> Tensor:
    """Return the mean squared Euclidean distance between matching rows: the loss of FARE and of LEAF.

    Args:
        features: un-normalised features, (batch, dim).
        others: features of the same shape.

    Returns:
        Scalar, the mean over the batch.
    """
    return (features - others).square().sum(1).mean()
