"""The losses that the image attack of a training raises, one for each `Objective.image_attack_target`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks.engine import Victim, correct
from ..attacks.image_losses import embedding_loss, log_odds_loss
from ..losses import zero_shot_logits
from ..objectives import Objective
from ..objectives.base import soft_labels
from .batch import Batch
from .live_encoder import LiveEncoder


def image_victim(objective: Objective, encoder: LiveEncoder, batch: Batch, scale: Tensor) -> Victim:
    """Return what the image attack is run against.

    Wherever a cross-entropy alone is to rise, the attack climbs the log-odds (docs/methods.md, section 9).

    Args:
        objective: says which loss.
        encoder: the model under training.
        batch: whose images are attacked.
        scale: factor of the cosines, scalar.
    """

    def of_class(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:  # raises mean_k CE(s f(x') P_k^T, y_k)
        return class_loss(encoder.encode_images(images), batch, rows, scale)

    def of_teacher(images: Tensor, rows: Tensor) -> tuple[Tensor, None]:  # ||f(x') - f0(x)||^2, un-normalised
        features, _ = encoder.image_features(images)
        return embedding_loss(features, batch.teacher["teacher_image_features"][rows]), None

    def of_both(images: Tensor, rows: Tensor) -> tuple[Tensor, None]:  # ||f(x') - f0(x)||^2 + w CE(s f(x') P^T, y)
        features, _ = encoder.image_features(images)
        logits = zero_shot_logits(F.normalize(features, dim=-1), batch.anchors, scale)
        class_loss = F.cross_entropy(logits, batch.anchor_ids[rows], reduction="none")
        distance = embedding_loss(features, batch.teacher["teacher_image_features"][rows])
        return distance + objective.attack_class_weight * class_loss, None

    def of_soft_class(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:  # CE(s f(x') P^T, q), q of f0(x)
        logits = zero_shot_logits(encoder.encode_images(images), batch.anchors, scale)
        features = batch.teacher["teacher_image_features"][rows]
        labels = soft_labels(features, batch.anchors, objective.soft_label_scale * scale)
        return F.cross_entropy(logits, labels, reduction="none"), correct(logits.detach(), labels.argmax(1))

    victims: dict[str, Victim] = {
        "class": of_class,
        "teacher": of_teacher,
        "teacher+class": of_both,
        "soft class": of_soft_class,
    }
    return victims[objective.image_attack_target]


def class_loss(embeds: Tensor, batch: Batch, rows: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of an image attack on the class, and which images are right under one caption at least.

    Args:
        embeds: unit embeddings of the attacked images, (images, dim).
        batch: what is attacked.
        rows: each image's sample, (images,).
        scale: factor of the cosines, scalar.

    Returns:
        The log-odds of a wrong class, the mean over the captions, (images,); (images,).
    """
    losses, right = [], []
    for each in batch.caption_sets:
        logits, own = zero_shot_logits(embeds, each.anchors, scale), each.anchor_ids[rows]
        losses.append(log_odds_loss(logits, own))
        right.append(correct(logits.detach(), own))
    return torch.stack(losses).mean(0), torch.stack(right).any(0)
