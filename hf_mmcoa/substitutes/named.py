"""Build the source of substitutes that a configuration or a threat model names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .masked_lm import MASKED_LM, MaskedLMCandidates
from .source import CandidateSource
from .vocabulary import HotFlipCandidates, NeighbourCandidates
from .wordnet import WordNetCandidates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def candidate_source(
    name: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    masked_lm: str = MASKED_LM,
    align_to_cls: bool = True,
    wordnet_root: str | None = None,
) -> CandidateSource:
    """Build the source with that name.

    Args:
        name: "neighbours", "hotflip", "wordnet" or "masked-lm".
        model: dual encoder whose vocabulary "neighbours" and "hotflip" use.
        tokenizer: the dual encoder's tokenizer.
        masked_lm: folder or Hub id of the masked language model that "masked-lm" uses; it runs where `model` does.
        align_to_cls: see `MaskedLMCandidates`.
        wordnet_root: folder that "wordnet" reads; nltk's data when None.

    Raises:
        ValueError: if there is no source of that name.
    """
    if name == "neighbours":
        return NeighbourCandidates(model, tokenizer)
    if name == "hotflip":
        return HotFlipCandidates(model, tokenizer)
    if name == "wordnet":
        return WordNetCandidates(wordnet_root)
    if name == "masked-lm":
        source = MaskedLMCandidates.from_pretrained(masked_lm, align_to_cls=align_to_cls)
        source.model.to(next(model.parameters()).device)
        return source
    raise ValueError(f"`candidates` must be neighbours, hotflip, wordnet or masked-lm, got {name!r}.")
