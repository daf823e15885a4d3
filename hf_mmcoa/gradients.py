"""Gradients for attacks: with respect to the attack's input alone, and safe to normalise however small they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(loss_fn: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the gradient of `value_and_gradient` alone, of the shape of `inputs`."""
    return value_and_gradient(loss_fn, inputs)[1]


def value_and_gradient(loss_fn: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each sample, and the gradient of its sum with respect to `inputs` alone.

    The weights get no gradient. It also works inside `torch.no_grad()`.

    Args:
        loss_fn: maps inputs to one loss per sample, (batch,).
        inputs: (batch, ...), of a floating type.

    Returns:
        The detached losses, (batch,), and the gradient, of the shape of `inputs`.

    Raises:
        ValueError: if `loss_fn` does not return one value per row of `inputs`.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        loss = loss_fn(inputs)
        if loss.shape != inputs.shape[:1]:
            raise ValueError(
                f"`loss_fn` must return one value per sample, ({len(inputs)},), got shape {tuple(loss.shape)}."
            )
        (grad,) = torch.autograd.grad(loss.sum(), inputs)
    return loss.detach(), grad


def unit(vectors: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the vectors scaled to Euclidean length 1, however short they are; only exact zeros stay zero.

    If the softmax is saturated, gradients are 1e-20 or smaller, and their squares are zero in float32. So each vector
    is divided by its largest magnitude before its length is computed.

    Args:
        vectors: of any shape.
        dim: the dimension or dimensions along which one vector lies.
    """
    largest = vectors.abs().amax(dim, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1)
    length = vectors.square().sum(dim, keepdim=True).sqrt()  # 0, or from 1 to the square root of the number of entries
    return vectors / torch.where(length > 0, length, 1)


def shorten(vectors: Tensor, radius: float | Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the vectors, with those longer than `radius` scaled down to that Euclidean length.

    Args:
        vectors: of any shape.
        radius: largest length allowed; a tensor must broadcast to the vectors.
        dim: see `unit`.
    """
    length = vectors.square().sum(dim, keepdim=True).sqrt()
    return torch.where(length > radius, vectors * (radius / torch.where(length > 0, length, 1)), vectors)
