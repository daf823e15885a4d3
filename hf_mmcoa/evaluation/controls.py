"""Random legal texts and random token embeddings, judged as attacks are: what an attack has to beat (`sanity_texts`).

They are the same for all images and drawn before the first batch, so that they cost a few texts and no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attacks.class_prompts import FixedPrompts, correct
from ..gradients import unit
from ..models import encoding
from ..models.encoder import DualEncoder

DRAWS = 4


def random_texts(pools: Sequence[Sequence[str]], generator: torch.Generator) -> list[list[str]]:
    """Return `DRAWS` lists of one legal text for each class, not the clean prompt, which comes first in its pool."""

    def draw(pool: Sequence[str]) -> str:
        return pool[0] if len(pool) == 1 else pool[1 + int(torch.randint(len(pool) - 1, (), generator=generator))]

    return [[draw(pool) for pool in pools] for _ in range(DRAWS)]


def random_embeddings(encoder: DualEncoder, texts: list[str], rho: float, generator: torch.Generator) -> Tensor:
    """Return unit embeddings of texts each of whose word tokens is moved by `rho` anywhere, (DRAWS, texts, dim)."""
    model, tokens = encoder.model, encoder.tokenize(texts, truncation=True)
    clean = encoding.token_embeddings(model, tokens["input_ids"]).float()
    length = rho * encoding.token_table(model).float().norm(dim=-1).mean()
    movable = encoding.word_positions(model, **tokens).unsqueeze(-1)
    noises = (torch.randn(clean.shape, generator=generator).to(clean.device) for _ in range(DRAWS))
    moved = (clean + length * movable * unit(noise, -1) for noise in noises)
    return torch.stack([encoding.text_embeds(model, **tokens, inputs_embeds=each) for each in moved])


def judge(drawn: Tensor, clean: FixedPrompts, image_embeds: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return how many samples are classified correctly with prompts that were drawn.

    Args:
        drawn: embeddings of the drawn prompts, (draws, C, dim).
        clean: the clean prompts.
        image_embeds: unit embeddings, (batch, dim).
        labels: own classes, (batch,).

    Returns:
        "lists": for each draw, with all its prompts; "own": with its prompt of the own class alone, under every draw.
    """
    lists, own = [], torch.ones_like(labels, dtype=torch.bool)
    rows, clean_logits = labels.unsqueeze(1), clean.logits(image_embeds, labels)
    for embeds in drawn:
        logits = FixedPrompts(embeds, clean.scale).logits(image_embeds, labels)
        lists.append(int(correct(logits, labels).sum()))
        own &= correct(clean_logits.scatter(1, rows, logits.gather(1, rows)), labels)
    return {"lists": lists, "own": int(own.sum())}
