"""Gradients with respect to an attack's input alone, and steps along them whatever their size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(loss_fn: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The gradient that `value_and_gradient` gives."""
    return value_and_gradient(loss_fn, inputs)[1]


def value_and_gradient(loss_fn: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample loss, and its sum's gradient with respect to `inputs` alone, also inside `torch.no_grad()`.

    Raises:
        ValueError: if `loss_fn` does not give one value per row of `inputs`.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        loss = loss_fn(inputs)
        if loss.shape != inputs.shape[:1]:
            raise ValueError(
                f"`loss_fn` must give one value per sample, ({len(inputs)},), got shape {tuple(loss.shape)}."
            )
        (grad,) = torch.autograd.grad(loss.sum(), inputs)
    return loss.detach(), grad


def unit(vectors: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return vectors scaled to Euclidean length 1, however small they are; only an exact zero stays zero.

    A saturated softmax has gradients of 1e-20 and less. Their squares are zero in float32, so the vectors are divided
    by their largest magnitude before their length is taken.

    Args:
        vectors: of any shape.
        dim: dimensions that one vector spans.
    """
    largest = vectors.abs().amax(dim, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1)
    length = vectors.square().sum(dim, keepdim=True).sqrt()  # from 1 to the square root of the number of entries, or 0
    return vectors / torch.where(length > 0, length, 1)


def shorten(vectors: Tensor, radius: float | Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the nearest vectors of Euclidean length at most `radius`; `dim` as in `unit`."""
    length = vectors.square().sum(dim, keepdim=True).sqrt()
    return torch.where(length > radius, vectors * (radius / torch.where(length > 0, length, 1)), vectors)
