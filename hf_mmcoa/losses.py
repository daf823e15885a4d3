"""The terms of the objectives, on embeddings: no model, no tokenizer, no data.

Row i of the image embeddings belongs to row i of the text embeddings. What the other rows mean is the targets'
business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    pass


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Symmetric cross-entropy between two views of the same samples (CLIP, arXiv:2103.00020; both terms of
    arXiv:2404.19287).

        CE(s A B^T, targets) + CE(s B A^T, targets^T)

    Args:
        image_embeds: L2-normalised embeddings A, (batch, dim).
        text_embeds: L2-normalised embeddings B, (batch, dim).
        logit_scale: inverse temperature s after `exp`, scalar.
        targets: None for the diagonal (row i belongs to column i alone, the paper's form), or a symmetric matrix whose
            rows sum to 1, (batch, batch), from `class_targets`.

    Returns:
        Sum of the two directions' batch means, scalar.

    Raises:
        ValueError: if the two batches differ in shape.

    Example:
        >>> eye = torch.eye(2)
        >>> round(contrastive_loss(eye, eye, torch.tensor(1.0)).item(), 4)  # 2 log(1 + 1/e)
        0.6265
    """
    _check_shapes(image_embeds, text_embeds)
    logits = logit_scale * image_embeds @ text_embeds.T  # (batch, batch)
    if targets is None:
        targets = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
    return F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets.T)


def sigmoid_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, logit_bias: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Every pair of two views is its own yes-or-no question (SigLIP, arXiv:2303.15343, equation 1).

        - mean_i sum_j log sigmoid(z_ij (s a_i . b_j + b))        z_ij = 1 where i and j belong together, else -1

    Args:
        image_embeds: L2-normalised embeddings A, (batch, dim).
        text_embeds: L2-normalised embeddings B, (batch, dim).
        logit_scale: inverse temperature s after `exp`, scalar.
        logit_bias: b, scalar; SigLIP starts it at -10, because nearly all pairs are negatives.
        targets: None for the diagonal (row i belongs to column i alone), or a matrix, (batch, batch), above 0 on the
            pairs that belong together, from `class_targets`.

    Returns:
        Mean over rows, scalar; it grows with the batch, which has more columns.

    Raises:
        ValueError: if the two batches differ in shape.

    Example:
        >>> eye = torch.eye(2)
        >>> round(sigmoid_loss(eye, eye, torch.tensor(1.0), torch.tensor(0.0)).item(), 4)  # log(1 + 1/e) + log 2
        1.0064
    """
    _check_shapes(image_embeds, text_embeds)
    logits = logit_scale * image_embeds @ text_embeds.T + logit_bias  # (batch, batch)
    together = torch.eye(len(logits), device=logits.device) if targets is None else targets
    return -F.logsigmoid(torch.where(together > 0, logits, -logits)).sum(1).mean()


def class_targets(labels: Tensor) -> Tensor:
    """Soft targets that share a sample's weight among all samples of its class.

    Args:
        labels: anything that two samples share when their texts may be exchanged, integer, (batch,).

    Returns:
        1 / (number of samples with row i's label) on each of them, 0 elsewhere, (batch, batch).
    """
    same = (labels[:, None] == labels[None, :]).float()
    return same / same.sum(1, keepdim=True)


def zero_shot_logits(image_embeds: Tensor, prompt_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Class scores s I P^T, (batch, classes), of unit image embeddings (batch, dim) and prompt embeddings (classes,
    dim)."""
    return logit_scale * image_embeds @ prompt_embeds.T


def _check_shapes(image_embeds: Tensor, text_embeds: Tensor) -> None:
    if image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"`image_embeds` {tuple(image_embeds.shape)} and `text_embeds` {tuple(text_embeds.shape)} "
            "must be of one shape."
        )


def coordinate_kl(embeds: Tensor, other_embeds: Tensor) -> Tensor:
    """KL(softmax a || softmax b) over the coordinates of each row of two embeddings (texts, dim): (texts,), float32.

    Unit vectors have flat softmaxes and KLs of about 1e-5, of which float32 sums lose percents: it sums in float64.
    """
    wide = torch.float32 if embeds.device.type == "mps" else torch.float64  # Apple's accelerator has no float64
    log_p, log_q = embeds.to(wide).log_softmax(-1), other_embeds.to(wide).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).float()
