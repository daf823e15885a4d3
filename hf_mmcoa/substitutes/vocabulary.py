"""Substitutes from CLIP's own vocabulary, by nearest neighbours in its token table or by HotFlip's first-order gain.

Both propose English words only. A vocabulary also holds pieces of words, names and abbreviations, and marks do not tell
them apart (see `english`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..gradients import gradient
from ..losses import coordinate_kl
from ..models import encoding
from .english import is_english
from .source import Ranked
from .tokens import _check_tokenizer, _evaluating, _places, _whole_word, _word_marker
from .words import STOP_WORDS, split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class NeighbourCandidates:
    """The words nearest to a word in CLIP's own token-embedding table, by cosine; they need no second model.

    The table is read in every call, so the neighbours follow the current weights. The embedding of a word of several
    tokens is the mean of theirs. A word with a token that the tokenizer does not know has no neighbours.

    Args:
        model: an unwrapped dual encoder.
        tokenizer: the model's tokenizer.

    Example:
        >>> NeighbourCandidates(model, processor.tokenizer)(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    model: nn.Module = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. Takes one matrix product for all distinct words."""
        rows = zip(texts, words, strict=True)
        asked = [[_word_at(text, index).casefold() for index in indices] for text, indices in rows]
        nearest = self._nearest(list(dict.fromkeys(word for row in asked for word in row)), num_candidates)
        return [
            {index: nearest[word] for index, word in zip(indices, row, strict=True) if word in nearest}
            for indices, row in zip(words, asked, strict=True)
        ]

    def _nearest(self, words: list[str], num_candidates: int) -> dict[str, list[str]]:
        token_ids, vocabulary = self._vocabulary
        if not words or not vocabulary:
            return {}
        special = set(self.tokenizer.all_special_ids)
        pieces: Any = self.tokenizer(words, add_special_tokens=False)["input_ids"]
        tokens = {word: ids for word, ids in zip(words, pieces, strict=True) if ids and special.isdisjoint(ids)}
        if not tokens:
            return {}
        known = list(tokens)
        table = encoding.token_table(self.model).float()
        queries = F.normalize(torch.stack([table[tokens[word]].mean(0) for word in known]), dim=-1)  # (words, width)
        cosines = queries @ F.normalize(table[token_ids], dim=-1).T  # (words, vocabulary)
        return dict(zip(known, _top_words(cosines, vocabulary, known, num_candidates), strict=True))

    @cached_property
    def _vocabulary(self) -> tuple[list[int], list[str]]:
        return _vocabulary_words(self.tokenizer)


@dataclass(frozen=True, eq=False)
class HotFlipCandidates:
    """The words of CLIP's vocabulary that promise the largest KL, to first order in the embedding (arXiv:1712.06751).

    The KL from the clean text has no gradient at the clean text itself. It is therefore linearised at the text whose
    word is replaced by m, the mean of the embedding table, which stands for no word: the gain of a word v is
    (e_v - m) . dKL/de, at the first token of the replaced word.

    Args:
        model: an unwrapped dual encoder; its parameters' gradients and its mode stay unchanged.
        tokenizer: the model's tokenizer, a fast one.
        batch_size: number of words per forward and backward pass.

    Raises:
        ValueError: if the tokenizer does not return the positions of its tokens in the text.

    Example:
        >>> HotFlipCandidates(model, processor.tokenizer)(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    model: nn.Module = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    batch_size: int = field(default=256, repr=False)

    def __post_init__(self) -> None:
        _check_tokenizer(self.tokenizer)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. Every word takes one row of a batch, forward and backward."""
        ranked: Ranked = [{} for _ in texts]
        token_ids, vocabulary = self._vocabulary
        asked = [row for row, indices in enumerate(words) if indices]
        if not asked or not vocabulary:
            return ranked
        table = encoding.token_table(self.model).float()
        attacked = [unicodedata.normalize("NFC", texts[row]) for row in asked]
        encoded = encoding.tokenize(self.model, self.tokenizer, attacked, truncation=True, offsets=True)
        offsets = encoded.pop("offset_mapping").tolist()
        all_places = _places(attacked, [words[row] for row in asked], offsets)
        special = torch.tensor(self.tokenizer.all_special_ids, device=table.device)
        is_special = torch.isin(encoded["input_ids"], special).tolist()
        # CLIP's tokenizer maps an unknown word to the end-of-text token. Its id still decides where the text is pooled
        # when its embedding is replaced, so the gradient there says nothing about a substitute.
        places = [
            (line, word, pieces)
            for (line, word), pieces in all_places.items()
            if not any(is_special[line][piece] for piece in pieces)
        ]
        mean = table.mean(0)
        moves = table[token_ids] - mean  # (vocabulary, width)
        with _evaluating(self.model):
            for start in range(0, len(places), self.batch_size):
                rows = places[start : start + self.batch_size]
                gains = self._gradients(encoded, rows, mean) @ moves.T  # (rows, vocabulary)
                originals = [_word_at(texts[asked[line]], word).casefold() for line, word, _ in rows]
                found = _top_words(gains, vocabulary, originals, num_candidates)
                for (line, word, _), proposed in zip(rows, found, strict=True):
                    ranked[asked[line]][word] = proposed
        return ranked

    def _gradients(self, encoded: dict[str, Tensor], rows: list[tuple[int, int, list[int]]], mean: Tensor) -> Tensor:
        """Return dKL/de at the first token of each (line, word, positions), its tokens at `mean`; (rows, width)."""
        lines = [line for line, _, _ in rows]
        input_ids, mask = encoded["input_ids"][lines], encoded["attention_mask"][lines]
        with torch.no_grad():
            clean = encoding.text_embeds(self.model, input_ids, mask)
            embeds = encoding.token_embeddings(self.model, input_ids).float()  # (rows, length, width)
        for row, (_, _, positions) in enumerate(rows):
            embeds[row, positions] = mean
        grad = gradient(lambda x: coordinate_kl(clean, encoding.text_embeds(self.model, input_ids, mask, x)), embeds)
        return grad[list(range(len(rows))), [positions[0] for _, _, positions in rows]]

    @cached_property
    def _vocabulary(self) -> tuple[list[int], list[str]]:
        return _vocabulary_words(self.tokenizer)


def _word_at(text: str, index: int) -> str:
    start, end = split_words(text)[index]
    return unicodedata.normalize("NFC", text[start:end])


def _vocabulary_words(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[str]]:
    """Return ids and words, by id, of the tokens that are English words and no stop words."""
    marker, special = _word_marker(tokenizer), set(tokenizer.all_special_ids)
    by_id = sorted((index, _whole_word(token, marker)) for token, index in tokenizer.get_vocab().items())
    words = {
        index: word
        for index, word in by_id
        if index not in special and word.casefold() not in STOP_WORDS and is_english(word)
    }
    return list(words), list(words.values())


def _top_words(scores: Tensor, vocabulary: list[str], originals: list[str], num_candidates: int) -> list[list[str]]:
    """Return the best words of each row of scores (rows, vocabulary), without the row's original word."""
    # One more than needed, since the original may be among them.
    top = scores.topk(min(num_candidates + 1, len(vocabulary))).indices.tolist()
    found = [[vocabulary[column] for column in columns] for columns in top]
    return [
        [word for word in row if word.casefold() != original][:num_candidates]
        for row, original in zip(found, originals, strict=True)
    ]
