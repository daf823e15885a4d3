"""What an objective is given and what it must say: the seam between the trainer and every published defence."""

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
    """Embeddings of one batch; row i of each is sample i. Views that no objective asked for are None.

    Unit vectors of the **global** batch, gathered from all processes: `image_embeds`, `text_embeds`,
    `adv_image_embeds` and `adv_text_embeds` are I, T, I' and T' of METHODS, (batch, dim).

    Everything else is this process's own. Unit vectors: `prompt_embeds` P, (classes, dim), with `labels`, (batch,), and
    `iterate_embeds`, (batch, dim) each, of the images at which the image attack took its gradients. Un-normalised
    features f and g: `image_features`, `adv_image_features` and `adv_text_features`, (batch, dim). Of the frozen
    pretrained encoders f0 and g0, without gradient: `teacher_image_features`, `teacher_adv_image_features` and
    `teacher_text_features`. Projected patch tokens, (batch, patches, dim): `patches`, `adv_patches`,
    `teacher_patches`, `teacher_adv_patches`.
    """

    logit_scale: Tensor
    logit_bias: Tensor | None = None  # of a SigLIP
    image_embeds: Any = None  # a tensor, as all below, where the objective asked for its view
    text_embeds: Any = None
    adv_image_embeds: Any = None
    adv_text_embeds: Any = None
    targets: Tensor | None = None
    prompt_embeds: Any = None
    labels: Any = None
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


class Objective(Protocol):
    """Embeddings to a scalar. Subclass it for your own and pass an instance to `MMCoATrainer(objective=...)`.

    What differs between the published defences is here, and nothing else: the loss, what the attacks raise, and what
    trains. The attributes below are the defaults; a defence says only where it differs.
    """

    trains: frozenset[Part] = frozenset({"image", "text", "logit_scale"})
    """What is trained; the rest is frozen. `MMCoAConfig.train_...` may freeze more."""

    needs_labels: bool = False
    """Whether the loss reads classes; captions without labels will not do then."""

    image_attack_target: Literal["class", "teacher"] = "class"
    """What an image is moved away from: its class among the prompts (cross-entropy), or the features that the frozen
    encoder gives to the clean image (squared distance)."""

    attack_with_logit_scale: bool = True
    """Whether the attacked logits are multiplied by the logit scale, or are plain cosines."""

    @property
    def views(self) -> frozenset[View]:
        """What the loss reads. The trainer attacks and encodes nothing else."""

    def __call__(self, embeds: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, scalar, and its named terms for the log."""


def pair_loss(image_embeds: Tensor, text_embeds: Tensor, embeds: Embeddings) -> Tensor:
    """The loss between two views of the batch that the model was pretrained with: contrastive(A, B) of the objectives.

    CLIP's `contrastive_loss`, or SigLIP's `sigmoid_loss` where the model has a logit bias.
    """
    if embeds.logit_bias is None:
        return contrastive_loss(image_embeds, text_embeds, embeds.logit_scale, embeds.targets)
    return sigmoid_loss(image_embeds, text_embeds, embeds.logit_scale, embeds.logit_bias, embeds.targets)


def class_logits(features: Tensor, embeds: Embeddings, scaled: bool = True) -> Tensor:
    """Zero-shot logits s bar(f) P^T of un-normalised features (batch, dim), (batch, classes); cosines if not `scaled`.

    For a softmax over classes: SigLIP's bias is the same for all of them and would change nothing.
    """
    cosines = F.normalize(features, dim=-1) @ embeds.prompt_embeds.T
    return embeds.logit_scale * cosines if scaled else cosines


def squared_distance(features: Tensor, others: Tensor) -> Tensor:
    """Batch mean of the squared Euclidean distance between rows, scalar: the loss of FARE and of LEAF."""
    return (features - others).square().sum(1).mean()
