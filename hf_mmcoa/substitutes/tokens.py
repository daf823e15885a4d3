"""Find the tokens of a text's words, and the whole words of a tokenizer's vocabulary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .words import split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Places = dict[tuple[int, int], list[int]]  # (line of the batch, word) -> positions of the word's tokens


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"`tokenizer` must be a fast one, got {type(tokenizer).__name__}: words are found by their position in "
            "the text. Load it with AutoTokenizer.from_pretrained."
        )


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], device: torch.device
) -> tuple[dict[str, Tensor], list[list[tuple[int, int]]]]:
    """Tokenize texts, padded on the right to the longest; return ids and mask, and each token's span in its text."""
    encoded = tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=tokenizer.model_max_length < 10**9,  # transformers writes "no limit" as 1e30
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets: Any = encoded.pop("offset_mapping")
    return {name: values.to(device) for name, values in encoded.items()}, offsets.tolist()


def _places(texts: list[str], words: list[Sequence[int]], offsets: list[list[tuple[int, int]]]) -> Places:
    """Find the positions of each word's tokens, by (line, word); a word that truncation cut off is left out."""
    places = {}
    for line, (text, indices) in enumerate(zip(texts, words, strict=True)):
        spans = split_words(text)
        for index in indices:
            start, end = spans[index]
            pieces = [place for place, (first, last) in enumerate(offsets[line]) if first < end and last > start]
            if pieces:
                places[line, index] = pieces
    return places


def _word_marker(tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the mark by which a vocabulary tells words from pieces: `</w>` (CLIP), `##` (WordPiece), `▁` or `Ġ`.

    Returns:
        The mark; "" if no token has one.
    """
    vocabulary = tokenizer.get_vocab()
    counts = {
        "</w>": sum(token.endswith("</w>") for token in vocabulary),
        **{marker: sum(token.startswith(marker) for token in vocabulary) for marker in ("##", "▁", "Ġ")},
    }
    marker = max(counts, key=lambda each: counts[each])
    return marker if counts[marker] else ""


def _whole_word(token: str, marker: str) -> str:
    """Return the letters of a token that may be a whole word, or "" if its mark says that it is a piece of one."""
    if marker == "##":
        return "" if token.startswith(marker) else token
    if marker == "</w>":
        return token.removesuffix(marker) if token.endswith(marker) else ""
    return token.removeprefix(marker) if token.startswith(marker) else ""


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode for the block; restore every module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
