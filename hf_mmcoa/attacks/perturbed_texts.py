"""Text attacks of all kinds (words, characters, families, token embeddings) behind one call.

`BertAttack`, `LevenshteinAttack` and `FamilyAttack` write other texts, `TextEmbeddingPGD` shifts token embeddings.
Training and evaluation treat them alike: they pass texts and a `TextVictim` to a `TextAttacker` and get
`PerturbedTexts`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..models import encoding
from ..models.encoder import DualEncoder
from .contracts import TextAttack, TextEncoder
from .family_attack import FamilyAttack
from .levenshtein import LevenshteinAttack
from .text_embedding import TextEmbeddingPGD


@dataclass(frozen=True)
class PerturbedTexts:
    """The result of a text attack.

    Args:
        kind: name of the attack.
        sources: texts before the attack.
        texts: texts after the attack, in the same order.
        shift: perturbation added to their token embeddings, (texts, length, width); None if only the texts changed.
    """

    kind: str
    sources: list[str]
    texts: list[str]
    shift: Tensor | None = None

    def features(self, encoder: DualEncoder) -> Tensor:
        """Return un-normalised features of the perturbed texts, (texts, dim)."""
        ids = encoder.tokenize(self.texts, truncation=True)["input_ids"]
        shifted = None if self.shift is None else encoding.token_embeddings(encoder.model, ids) + self.shift
        return encoding.text_features(encoder.model, ids, inputs_embeds=shifted)

    def longest_shift(self, encoder: DualEncoder) -> float:
        """Return how far a token was moved at most, in mean row norms of the token table; 0 if none was."""
        if self.shift is None:
            return 0.0
        return float(self.shift.norm(dim=-1).amax() / encoding.token_table(encoder.model).float().norm(dim=-1).mean())


@dataclass(frozen=True, kw_only=True)
class TextVictim:
    """The attacked model, and the references that each attack moves texts away from.

    Args:
        encoder: the attacked model, unwrapped.
        encode: maps texts to unit embeddings (texts, dim), without gradient; used by the word attack.
        distance_encode: maps texts to the embeddings in which the attacks on characters and by families measure
            distance, (texts, dim).
        reference_encode: maps texts to the embeddings that these two move them away from, those of the frozen teacher
            in LEAF; `distance_encode` of the clean texts when None.
        embedding_loss: maps unit embeddings of all texts (texts, dim) to the loss of the embedding attack, (texts,).
        generator: returns the random generator of an attack, given its kind.
        precision: returns the context in which the model runs, such as autocast.
    """

    encoder: DualEncoder
    encode: TextEncoder
    distance_encode: TextEncoder
    embedding_loss: Callable[[Tensor], Tensor]
    generator: Callable[[str], torch.Generator]
    reference_encode: TextEncoder | None = None
    precision: Callable[[], AbstractContextManager[object]] = nullcontext


class TextAttacker(Protocol):
    """A text attack of any kind."""

    def __call__(self, texts: list[str], victim: TextVictim) -> PerturbedTexts:
        """Attack N distinct texts."""


@dataclass(frozen=True)
class WordAttacker:
    """Substitute words with `BertAttack` or any other `TextAttack`."""

    attack: TextAttack
    kind: str = "words"

    def __call__(self, texts: list[str], victim: TextVictim) -> PerturbedTexts:
        """Attack as in `TextAttacker`."""
        return PerturbedTexts(self.kind, texts, self.attack(texts, victim.encode))


@dataclass(frozen=True)
class DistanceAttacker:
    """Move texts away from their clean embeddings, with `LevenshteinAttack` (characters) or `FamilyAttack`."""

    attack: LevenshteinAttack | FamilyAttack

    def __call__(self, texts: list[str], victim: TextVictim) -> PerturbedTexts:
        """Attack as in `TextAttacker`."""
        kind = self.attack.changes
        generator = torch.Generator().manual_seed(victim.generator(kind).initial_seed())  # drawn on the CPU
        found = self.attack(
            texts, victim.distance_encode, generator=generator, reference_encode=victim.reference_encode
        )
        return PerturbedTexts(kind, texts, found)


@dataclass(frozen=True)
class EmbeddingAttacker:
    """Perturb token embeddings with `TextEmbeddingPGD` to increase the victim's `embedding_loss`, without any image."""

    attack: TextEmbeddingPGD
    kind: str = "embedding"

    def __call__(self, texts: list[str], victim: TextVictim) -> PerturbedTexts:
        """Attack as in `TextAttacker`."""
        model, tokens = victim.encoder.model, victim.encoder.tokenize(texts, truncation=True)
        with victim.precision():
            moved = self.attack(model, **tokens, loss_fn=victim.embedding_loss, generator=victim.generator("embedding"))
        with torch.no_grad():
            shift = moved - encoding.token_embeddings(model, tokens["input_ids"])
        return PerturbedTexts(self.kind, texts, texts, shift)


@dataclass(frozen=True)
class InTurn:
    """Attack texts first, then the token embeddings of the attacked texts."""

    first: TextAttacker
    second: TextAttacker
    kind: str

    def __call__(self, texts: list[str], victim: TextVictim) -> PerturbedTexts:
        """Attack as in `TextAttacker`."""
        written = self.first(texts, victim).texts
        return replace(self.second(written, victim), kind=self.kind, sources=texts)
