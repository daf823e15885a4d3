"""Compute a per-image loss in pieces, so that an attack's memory does not grow with its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..gradients import value_and_gradient
from .pgd import ImageLoss

RowsLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps images and their rows in the batch, (images,), to the loss to increase, one value per image."""


def in_pieces(loss_fn: RowsLoss, batch_size: int, standing: Tensor | None = None) -> ImageLoss:
    """Return the loss of a whole batch, computed and differentiated `batch_size` images at a time.

    Each piece runs forward and backward before the next begins, so that only one piece's activations are in memory and
    nothing is computed twice. Each value of the loss must depend on its own image only, and the loss is differentiated
    with respect to the images only, as in attacks.

    Args:
        loss_fn: loss of given rows.
        batch_size: images at a time, at least 1.
        standing: mask of the rows to compute, (batch,), boolean; the others get loss and gradient 0, so that a step
            does not move them. `loss_fn` may change it.

    Returns:
        A function that maps images (batch, channels, height, width) to losses, (batch,).
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
