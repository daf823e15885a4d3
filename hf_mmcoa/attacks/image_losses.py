"""Losses of image attacks, one value per sample, from logits or embeddings (docs/methods.md, section 3).

Attacks climb `log_odds_loss` wherever the cross-entropy alone is to rise; `class_loss` is for numbers that people read.
Among captions, the classes are the distinct captions of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import coordinate_kl

NUM_TARGETS = 9  # wrong classes that a targeted attack aims at one by one, at most all of them (AutoAttack)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (batch,) of logits (batch, classes): MMCoA (2404.19287), TeCoA (2212.07016)."""
    return F.cross_entropy(logits, labels, reduction="none")


def log_odds_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-odds against the true class, `logsumexp_{j != y} z_j - z_y`, (batch,).

    The cross-entropy is `log(1 + exp(log-odds))`: it ranks the iterates of a sample alike, and its gradient has the
    same direction. But in float32 that gradient loses the true class's logit at log-odds of -17 and is exactly zero at
    -104, which cosines multiplied by 100 can reach. The gradient of the log-odds never vanishes.
    """
    own = _own(logits, labels)
    return logits.masked_fill(own, float("-inf")).logsumexp(1) - logits.gather(1, labels[:, None]).squeeze(1)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `max_{j != y} z_j - z_y`, (batch,): positive exactly if the sample is misclassified."""
    own = _own(logits, labels)
    return logits.masked_fill(own, float("-inf")).amax(1) - logits.gather(1, labels[:, None]).squeeze(1)


def _own(logits: Tensor, labels: Tensor) -> Tensor:
    """Return where each sample's true class is, (batch, classes); `F.one_hot` reads the labels on some devices."""
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)


def targeted_margin_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return `z_t - z_y` for one wrong class t per sample, (batch,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def likeliest_wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's wrong classes by decreasing logit, (batch, classes - 1): targets of a targeted attack."""
    own = _own(logits, labels)
    return logits.masked_fill(own, float("-inf")).argsort(dim=1, descending=True, stable=True)[:, :-1]


def embedding_loss(embeds: Tensor, clean_embeds: Tensor) -> Tensor:
    """Return the squared distance to the clean embedding, (batch,); FARE (arXiv:2402.12336) normalises neither."""
    return (embeds - clean_embeds).square().sum(1)


def kl_loss(embeds: Tensor, reference_embeds: Tensor) -> Tensor:
    """Return KL(softmax reference || softmax embeds) of unit embeddings, (batch,): Co-Attack (arXiv:2206.09391)."""
    return coordinate_kl(reference_embeds, embeds)
