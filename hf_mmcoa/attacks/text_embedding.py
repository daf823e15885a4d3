"""Projected gradient descent on token embeddings: it covers all word substitutions inside the ball, fluent or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..gradients import shorten, unit, value_and_gradient
from ..models import encoding
from ..models.encoding import word_positions


@dataclass(frozen=True, kw_only=True)
class TextEmbeddingPGD:
    """Increase a per-text loss by moving token embeddings inside an l2 ball (docs/methods.md, section 4).

    Only word positions move, never BOS, the end-of-text token or the padding after it. Lengths are given in units of
    the embedding table's mean row norm, so that the same `rho` is comparable between models.

    The attack returns the visited point of largest loss, the clean embeddings included. It starts at a random point of
    the ball: a loss such as the distance from the clean text is stationary at the clean embeddings, where the first
    step would only follow rounding errors of the gradient.

    Args:
        rho: radius per token, in mean row norms of the table. 1 is about the distance to a neighbouring word.
        step_size: length of a step in the same unit; `2.5 * rho / num_steps` when None (Madry et al.,
            arXiv:1706.06083).
        num_steps: gradient steps per start.
        random_start: start at a point of the ball drawn uniformly in direction and radius instead of at the clean
            embeddings.
        restarts: number of runs, each from its own start.

    Raises:
        ValueError: if a setting is negative, `restarts` is 0, or there are several without a random start.
    """

    rho: float = 1.0
    step_size: float | None = None
    num_steps: int = 10
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        for name in ("rho", "step_size", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        if self.restarts < 1:
            raise ValueError(f"`restarts` must be at least 1, got {self.restarts}.")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"`restarts={self.restarts}` without `random_start` would run one attack several times.")

    def __call__(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        loss_fn: Callable[[Tensor], Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attack a batch of texts.

        Args:
            model: an unwrapped dual encoder.
            input_ids: token ids, padded on the right, (texts, length).
            attention_mask: 1 on tokens, 0 on padding, (texts, length).
            loss_fn: maps unit text embeddings (texts, dim) to the loss to increase, (texts,).
            generator: source of the random starts, on the model's device; a fresh one seeded 0 when None.

        Returns:
            Perturbed token embeddings, detached, (texts, length, width): the `inputs_embeds` of `encoding.text_embeds`.
        """
        with torch.no_grad():
            clean = encoding.token_embeddings(model, input_ids).float()
        if self.rho == 0 or self.num_steps == 0:
            return clean
        if generator is None:
            generator = torch.Generator(clean.device).manual_seed(0)
        unit_length = encoding.token_table(model).float().norm(dim=-1).mean()
        radius, step_size = self.rho * unit_length, self._step_size * unit_length
        movable = word_positions(model, input_ids, attention_mask).unsqueeze(-1)  # (texts, length, 1)

        def loss_at(embeds: Tensor) -> Tensor:
            return loss_fn(encoding.text_embeds(model, input_ids, attention_mask, embeds))

        best, best_loss = clean, torch.full((len(clean),), float("-inf"), device=clean.device)

        def keep(embeds: Tensor, loss: Tensor) -> None:
            nonlocal best, best_loss
            better = loss > best_loss
            best = torch.where(better.view(-1, 1, 1), embeds, best)
            best_loss = torch.where(better, loss, best_loss)

        with torch.no_grad():
            keep(clean, loss_at(clean))
        for _ in range(self.restarts):
            delta = torch.zeros_like(clean)
            if self.random_start:
                delta = radius * movable * _random_in_ball(clean, generator)
            for _ in range(self.num_steps):
                loss, grad = value_and_gradient(loss_at, clean + delta)
                keep(clean + delta, loss)
                delta = shorten(delta + step_size * movable * unit(grad, -1), radius, -1)
            with torch.no_grad():
                keep(clean + delta, loss_at(clean + delta))
        return best

    @property
    def _step_size(self) -> float:
        return self.step_size if self.step_size is not None else 2.5 * self.rho / max(self.num_steps, 1)


def _random_in_ball(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a vector in the unit ball for each token, uniform in direction and radius, (texts, length, width)."""
    noise = torch.randn(like.shape, generator=generator, device=like.device)
    radius = torch.rand(like.shape[:-1], generator=generator, device=like.device).unsqueeze(-1)
    return radius * unit(noise, -1)
