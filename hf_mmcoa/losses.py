"""The loss terms that objectives share, on embeddings alone: no model, no tokenizer, no data.

Row i of the image embeddings always belongs to row i of the text embeddings. The targets say which other rows also
belong to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Return the symmetric cross-entropy between two views of the same samples (CLIP, arXiv:2103.00020).

        CE(s A B^T, targets) + CE(s B A^T, targets^T)

    Both terms of MMCoA (arXiv:2404.19287) have this form.

    Args:
        image_embeds: L2-normalised embeddings A, (batch, dim).
        text_embeds: L2-normalised embeddings B, (batch, dim).
        logit_scale: inverse temperature s after `exp`, scalar.
        targets: None if row i belongs to column i alone (the paper's form), or a symmetric matrix of soft targets whose
            rows sum to 1, (batch, batch), from `class_targets`.

    Returns:
        Sum of the batch means of both directions, scalar.

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
    """Return SigLIP's loss, a binary classification of every pair of two views (arXiv:2303.15343, equation 1).

        - mean_i sum_j log sigmoid(z_ij (s a_i . b_j + b))        z_ij = 1 if i and j belong together, else -1

    Args:
        image_embeds: L2-normalised embeddings A, (batch, dim).
        text_embeds: L2-normalised embeddings B, (batch, dim).
        logit_scale: inverse temperature s after `exp`, scalar.
        logit_bias: b, scalar. SigLIP starts it at -10, because nearly all pairs are negatives.
        targets: None if row i belongs to column i alone, or a matrix, (batch, batch), above 0 for the pairs that belong
            together, from `class_targets`.

    Returns:
        Mean over rows, scalar. It grows with the batch, because each row sums over more columns.

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
    """Return soft targets that divide each sample's weight equally among all samples of its class.

    Args:
        labels: integers, (batch,). Two samples have the same one if their texts may be exchanged, such as a class
            label.

    Returns:
        In row i, 1 / (number of samples with label i) for each sample with that label and 0 for the others, (batch,
        batch).
    """
    same = (labels[:, None] == labels[None, :]).float()
    return same / same.sum(1, keepdim=True)


def zero_shot_logits(image_embeds: Tensor, prompt_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the class logits s I P^T, (batch, classes).

    Args:
        image_embeds: unit vectors I, (batch, dim).
        prompt_embeds: unit vectors P, (classes, dim).
        logit_scale: inverse temperature s after `exp`, scalar.
    """
    return logit_scale * image_embeds @ prompt_embeds.T


def worst_case_logits(
    image_embeds: Tensor,
    pool_embeds: Tensor,
    pool_classes: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    every_class: bool,
) -> Tensor:
    """Return the class logits of each image after an adversary has replaced prompts by the worst of their legal texts.

        z_iy = s min_{t in pool(y)} a_i . t        z_ic = s max_{t in pool(c)} a_i . t   or   s a_i . t_c

    The classes do not interact, so this is the exact worst case over all choices of one text per class. Gradients reach
    the chosen texts alone.

    Args:
        image_embeds: unit vectors a, (batch, dim).
        pool_embeds: unit vectors of all legal texts, (texts, dim); the C class prompts come first, in their order.
        pool_classes: class of each text, (texts,).
        labels: class of each image, (batch,).
        logit_scale: inverse temperature s after `exp`, scalar.
        every_class: whether the prompts of the other classes are replaced too, by the text nearest to the image.

    Returns:
        Logits z, (batch, C).
    """
    return logit_scale * _worst_cosines(image_embeds @ pool_embeds.T, pool_classes, labels, every_class)


def chosen_texts(
    image_embeds: Tensor, pool_embeds: Tensor, pool_classes: Tensor, labels: Tensor, every_class: bool
) -> Tensor:
    """Return which legal texts the adversary of `worst_case_logits` chooses for an image of the batch, bool (texts,).

    Args:
        image_embeds, pool_embeds, pool_classes, labels, every_class: as of `worst_case_logits`.
    """
    cosines = image_embeds @ pool_embeds.T
    worst = _worst_cosines(cosines, pool_classes, labels, every_class)
    chosen: Tensor = (cosines == worst.gather(1, pool_classes.expand_as(cosines))).any(dim=0)
    return chosen


def _worst_cosines(cosines: Tensor, pool_classes: Tensor, labels: Tensor, every_class: bool) -> Tensor:
    """Return each image's cosines with the chosen text of each class, (batch, C), of those with all (batch, texts)."""
    num_classes = int(pool_classes.max()) + 1
    owners = pool_classes.expand_as(cosines)
    own = labels[:, None] == torch.arange(num_classes, device=labels.device)  # (batch, C)
    lowest = cosines.new_full(own.shape, torch.inf).scatter_reduce(1, owners, cosines, "amin")
    others = cosines[:, :num_classes]
    if every_class:
        others = cosines.new_full(own.shape, -torch.inf).scatter_reduce(1, owners, cosines, "amax")
    return torch.where(own, lowest, others)


def _check_shapes(image_embeds: Tensor, text_embeds: Tensor) -> None:
    if image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"`image_embeds` {tuple(image_embeds.shape)} and `text_embeds` {tuple(text_embeds.shape)} "
            "must have the same shape."
        )


def coordinate_kl(embeds: Tensor, other_embeds: Tensor) -> Tensor:
    """Return KL(softmax a || softmax b) over the coordinates of matching rows a and b, (texts,), float32.

    The softmax of a unit vector is nearly flat, so these KLs are about 1e-5, and sums in float32 would be off by
    percents: the sums are in float64, except on Apple's accelerator, which has none.

    Args:
        embeds: embeddings a, (texts, dim).
        other_embeds: embeddings b, (texts, dim).
    """
    wide = torch.float32 if embeds.device.type == "mps" else torch.float64
    log_p, log_q = embeds.to(wide).log_softmax(-1), other_embeds.to(wide).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).float()
