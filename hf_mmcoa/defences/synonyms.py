"""Read a prompt as all of its known synonyms at once: the sets that other defences here are built from too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks.contracts import TextEncoder


def synonym_sets(prompts: Sequence[str], known: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return for every prompt and every known rewording of it the texts of its class, the prompt first.

    Args:
        prompts: one a class.
        known: rewordings of each class's prompt, the same order; a class may have none.

    Raises:
        ValueError: if the two differ in length.

    Example:
        >>> synonym_sets(["a zero", "a one"], [["a nil"], []])
        {'a zero': ('a zero', 'a nil'), 'a nil': ('a zero', 'a nil'), 'a one': ('a one',)}
    """
    if len(prompts) != len(known):
        raise ValueError(f"`known` has {len(known)} lists for {len(prompts)} `prompts`: give one a class.")
    classes = [tuple(dict.fromkeys((prompt, *more))) for prompt, more in zip(prompts, known, strict=True)]
    return {text: synonyms for synonyms in classes for text in synonyms}


class SynonymEnsemble:
    """Embed a text as the normalised mean of its synonyms; a text without known synonyms as itself.

    The defender expands the text that arrives, clean or attacked. An attacker who writes a known synonym changes
    nothing, and one who writes an unknown text meets the plain encoder for this class and ensembles for all others.
    (To let the attacker change one text of a list that the defender has written would be no attack: who knows which
    class a list stands for needs no text of the attacker's.)

    Args:
        encode: texts to unit embeddings, (texts, dim): `DualEncoder.encode_texts`.
        sets: synonyms of a text, itself among them, as of `synonym_sets`.

    Example:
        >>> ensemble = SynonymEnsemble(encoder.encode_texts, synonym_sets(prompts, known))  # doctest: +SKIP
        >>> ensemble(["a photo of a nil"])  # the embedding of "a photo of a zero"  # doctest: +SKIP
    """

    def __init__(self, encode: TextEncoder, sets: Mapping[str, Sequence[str]]) -> None:
        self._encode, self._sets = encode, sets

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the unit embeddings of texts, (texts, dim), without gradient."""
        read = [tuple(self._sets.get(text, (text,))) for text in texts]
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for synonyms in read for text in synonyms))}
        with torch.no_grad():
            embeds = self._encode(list(row_of))
        means = {synonyms: embeds[[row_of[text] for text in synonyms]].mean(0) for synonyms in dict.fromkeys(read)}
        return F.normalize(torch.stack([means[synonyms] for synonyms in read]), dim=-1)
