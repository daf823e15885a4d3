"""Texts that may replace each class prompt, embedded once: the text side of multimodal attacks.

A text's embedding does not depend on the image, so an exact search over inner products finds the worst texts for an
image. With a pool per prompt, this search costs one matrix product per step of an image attack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.encoder import DualEncoder
from .contracts import EnumerableTextAttack


class PromptPools:
    """Pools of C prompts, each with the clean prompt first.

    Args:
        prompts: clean prompts, C texts.
        text_attack: attack that lists the possible replacements of each prompt.
        encoder: the model under attack.
    """

    def __init__(self, prompts: Sequence[str], text_attack: EnumerableTextAttack, encoder: DualEncoder) -> None:
        self.texts = text_attack.variants(list(prompts))
        self._encoder = encoder
        longest = max(map(len, self.texts))
        starts = [0, *torch.tensor([len(pool) for pool in self.texts]).cumsum(0).tolist()]
        # Shorter pools are padded with their clean prompt, which changes no minimum and no maximum.
        places = [
            [start + index if index < len(pool) else start for index in range(longest)]
            for start, pool in zip(starts, self.texts, strict=False)
        ]
        with torch.no_grad():
            embeds = encoder.encode_texts([text for pool in self.texts for text in pool])
        self._embeds, self._places = embeds, torch.tensor(places, device=embeds.device)  # (texts, dim), (C, longest)

    def logits(self, image_embeds: Tensor) -> Tensor:
        """Return the logits `s I P^T` of all texts of all pools, (batch, C, longest pool), differentiable."""
        scale = self._encoder.logit_scale.detach()
        return (scale * image_embeds @ self._embeds.T)[:, self._places]

    def worst_logits(self, image_embeds: Tensor, labels: Tensor, others: bool) -> Tensor:
        """Return the logits under the worst texts, (batch, C): the true class's lowest, the others' highest.

        Args:
            image_embeds: unit embeddings, (batch, dim).
            labels: true classes, (batch,).
            others: attack the other classes' prompts too; if False, their clean prompts are used.
        """
        logits = self.logits(image_embeds)
        own = F.one_hot(labels, logits.shape[1]).bool()
        return torch.where(own, logits.amin(-1), logits.amax(-1) if others else logits[..., 0])

    def worst_prompts(self, image_embeds: Tensor, labels: Tensor, others: bool) -> list[list[str]]:
        """Return the texts that give `worst_logits`: one prompt per class for each sample."""
        logits = self.logits(image_embeds.detach())
        own = F.one_hot(labels, logits.shape[1]).bool()
        highest = logits.argmax(-1) if others else torch.zeros_like(own, dtype=torch.long)
        chosen = torch.where(own, logits.argmin(-1), highest)
        # Past the end of a pool, its places repeat the clean prompt.
        return [
            [pool[index] if index < len(pool) else pool[0] for pool, index in zip(self.texts, row, strict=True)]
            for row in chosen.tolist()
        ]
