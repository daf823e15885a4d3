"""A per-image loss in pieces: the memory of an attack does not grow with its batch, its result does not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..gradients import value_and_gradient
from .pgd import ImageLoss

RowsLoss = Callable[[Tensor, Tensor], Tensor]
"""Images, and which rows of the batch they are, (images,), to what to increase, one value per image."""


def in_pieces(loss_fn: RowsLoss, batch_size: int, standing: Tensor | None = None) -> ImageLoss:
    """The loss of a whole batch, computed and differentiated `batch_size` images at a time.

    Each piece goes forwards and backwards before the next begins, so that the activations of one piece are in memory
    and nothing is computed twice. For losses of which each value depends on its own image alone, and which are
    differentiated in the images alone: those of attacks.

    Args:
        loss_fn: the loss of some rows.
        batch_size: images at a time, at least 1.
        standing: which rows are computed at all, (batch,), True or False; the others have loss and gradient 0, so that
            a step leaves them where they are. `loss_fn` may change it.

    Returns:
        Images (batch, channels, height, width) to losses, (batch,).
    """
    return lambda images: _InPieces.apply(images, loss_fn, batch_size, standing)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, loss_fn: RowsLoss, batch_size: int, standing: Tensor | None) -> Tensor:
        every = torch.arange(len(images), device=images.device)
        losses, grads = images.new_zeros(len(images)), torch.zeros_like(images)
        computed = every if standing is None else every[standing]
        for rows in computed.split(batch_size) if len(computed) else ():
            piece = images[rows]
            if ctx.needs_input_grad[0]:
                loss, grads[rows] = value_and_gradient(lambda part, rows=rows: loss_fn(part, rows), piece)  # type: ignore[misc]
            else:
                with torch.no_grad():
                    loss = loss_fn(piece, rows)
            losses[rows] = loss.to(losses.dtype)
        ctx.save_for_backward(grads)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, None, None, None]:
        (grads,) = ctx.saved_tensors
        return grads * grad_losses.view(-1, 1, 1, 1), None, None, None
