"""Projected gradient descent on token embeddings: all that a substitution inside the ball could do, without a model of
language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import encoding
from ..encoding import word_positions
from .pgd import gradient


@dataclass(frozen=True, kw_only=True)
class TextEmbeddingPGD:
    """Raise a per-text loss by moving each word's token embedding inside an l2 ball (METHODS: text-embedding attack).

    Only word positions move: never BOS, the end-of-text token or the padding behind it. Lengths are given in units of
    the embedding table's mean row norm, so that one `rho` means the same for every model.

    Args:
        rho: radius per token, in mean row norms of the table. 1 reaches about as far as a neighbouring word.
        step_size: length of a step in the same unit; `2.5 * rho / num_steps` when None (Madry et al.,
            arXiv:1706.06083).
        num_steps: gradient steps.

    Raises:
        ValueError: if a setting is negative.
    """

    rho: float = 1.0
    step_size: float | None = None
    num_steps: int = 10

    def __post_init__(self) -> None:
        for name in ("rho", "step_size", "num_steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")

    def __call__(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        loss_fn: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Attack a batch of texts.

        Args:
            model: an unwrapped dual encoder.
            input_ids: (texts, length), padded on the right.
            attention_mask: 1 on tokens, 0 on padding, (texts, length).
            loss_fn: unit text embeddings (texts, dim) to what to increase, (texts,).

        Returns:
            Perturbed token embeddings, detached, (texts, length, width): the `inputs_embeds` of `encoding.text_embeds`.
        """
        with torch.no_grad():
            clean = encoding.token_embeddings(model, input_ids).float()
        unit = encoding.token_table(model).float().norm(dim=-1).mean()
        movable = word_positions(model, input_ids, attention_mask).unsqueeze(-1)  # (texts, length, 1)
        radius, step_size = (
            self.rho * unit,
            unit * (self.step_size if self.step_size is not None else self._default_step()),
        )
        delta = torch.zeros_like(clean)
        if self.rho == 0:
            return clean
        for _ in range(self.num_steps):
            grad = gradient(
                lambda embeds: loss_fn(encoding.text_embeds(model, input_ids, attention_mask, embeds)), clean + delta
            )
            delta = delta + step_size * movable * grad / grad.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            delta = delta * (radius / delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        return clean + delta

    def _default_step(self) -> float:
        return 2.5 * self.rho / max(self.num_steps, 1)
