"""The worst of a few texts drawn from families of perturbations: a text attack for training on many sorts of change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..families.family import TextFamily
from .contracts import TextEncoder
from .image_losses import embedding_loss


@dataclass(frozen=True, kw_only=True)
class FamilyAttack:
    """Move each text's embedding away from its clean embedding by the worst of `num_variants` drawn texts.

    Each draw takes a family with equal probability, then one of its legal texts: a large family does not crowd out a
    small one. A text stays as it is where nothing legal was drawn, or nothing drawn moves the embedding.

    Args:
        families: families of perturbations, see `hf_mmcoa.families`; in training their parts "train".
        num_variants: texts drawn per text; 0 returns the texts unchanged.

    Raises:
        ValueError: if there is no family, or the number is negative.

    Example:
        >>> from hf_mmcoa.families import text_families
        >>> attack = FamilyAttack(families=text_families("affixes"), num_variants=3)
        >>> attack(["a cat"], lambda texts: torch.tensor([[float(len(each))] for each in texts]))[0] == "a cat"
        False
    """

    changes: ClassVar[str] = "families"
    """Unit of text that the attack changes, as named in the settings."""

    families: Sequence[TextFamily]
    num_variants: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        if not self.families:
            raise ValueError("`families` is empty: give at least one family.")
        if self.num_variants < 0:
            raise ValueError(f"`num_variants` must not be negative, got {self.num_variants}.")

    def __call__(
        self,
        texts: Sequence[str],
        encode: TextEncoder,
        generator: torch.Generator | None = None,
        reference_encode: TextEncoder | None = None,
    ) -> list[str]:
        """Attack as in `TextAttack`, by squared Euclidean distance of the embeddings, as `LevenshteinAttack` does.

        Args:
            texts: any number of texts; duplicates are attacked once.
            encode: maps texts to embeddings, (texts, dim).
            generator: source of the draws, on the CPU; a fresh one seeded 0 when None.
            reference_encode: maps texts to the embeddings that they are moved away from; `encode` when None.

        Returns:
            Attacked texts, one per input and in the same order.

        Raises:
            ValueError: if `texts` is one string.
        """
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a sequence of texts, got the string {texts!r}.")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        distinct = list(dict.fromkeys(texts))
        if not distinct or self.num_variants == 0:
            return list(texts)
        trials = [[text, *drawn] for text, drawn in zip(distinct, self.draw(distinct, generator), strict=True)]
        counts = [len(own) for own in trials]
        rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)])
        with torch.no_grad():
            clean = (reference_encode or encode)(distinct)
            moved = encode([text for own in trials for text in own])
            distances = embedding_loss(moved, clean[rows.to(clean.device)]).split(counts)
        worst = [own[int(found.argmax())] for own, found in zip(trials, distances, strict=True)]
        attacked = dict(zip(distinct, worst, strict=True))
        return [attacked[text] for text in texts]

    def draw(self, texts: Sequence[str], generator: torch.Generator) -> list[list[str]]:
        """Draw up to `num_variants` distinct legal texts for each text, over all families."""
        taken = torch.randint(len(self.families), (len(texts), self.num_variants), generator=generator)
        drawn: list[dict[str, None]] = [{} for _ in texts]
        for number, family in enumerate(self.families):
            counts = (taken == number).sum(1).tolist()
            for found, new in zip(drawn, family.draws(texts, counts, generator), strict=True):
                found.update(dict.fromkeys(new))
        return [list(found) for found in drawn]

    def variants(self, texts: Sequence[str]) -> list[list[str]]:
        """List as in `EnumerableTextAttack`: the texts of all families, not only what is drawn."""
        if self.num_variants == 0:
            return [[text] for text in texts]
        listed = [family.variants(texts) for family in self.families]
        return [list(dict.fromkeys(text for pool in pools for text in pool)) for pools in zip(*listed, strict=True)]
