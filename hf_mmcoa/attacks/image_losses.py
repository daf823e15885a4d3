"""Losses that image attacks increase, one value per sample: functions of logits or embeddings (docs/methods.md, 3).

The `contrastive` loss is `class_loss` with the batch's own texts as classes and `torch.arange(batch)` as labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..losses import coordinate_kl


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (batch, classes), (batch,): MMCoA (arXiv:2404.19287), TeCoA (arXiv:2212.07016)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`max_{j != y} z_j - z_y`, (batch,): above 0 exactly where the sample is misclassified."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, float("-inf")).amax(1) - logits.gather(1, labels[:, None]).squeeze(1)


def targeted_margin_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """`z_t - z_y` for one wrong class t per sample, (batch,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def likeliest_wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes of each sample by falling logit, (batch, classes - 1): the targets of a targeted attack."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, float("-inf")).argsort(dim=1, descending=True, stable=True)[:, :-1]


def embedding_loss(embeds: Tensor, clean_embeds: Tensor) -> Tensor:
    """Squared Euclidean distance to the clean embedding, (batch,); FARE (arXiv:2402.12336) takes both un-normalised."""
    return (embeds - clean_embeds).square().sum(1)


def kl_loss(embeds: Tensor, reference_embeds: Tensor) -> Tensor:
    """KL(softmax reference || softmax embeds) of unit embeddings, (batch,): Co-Attack (arXiv:2206.09391)."""
    return coordinate_kl(reference_embeds, embeds)
