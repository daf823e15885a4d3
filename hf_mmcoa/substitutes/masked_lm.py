"""Substitutes that a masked language model predicts in place of a word (BERT-Attack, arXiv:2004.09984)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .source import Ranked
from .tokens import Places, _check_tokenizer, _evaluating, _places, _tokenize, _whole_word, _word_marker
from .words import WORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED_LM = "google-bert/bert-base-uncased"  # as in the release's BERT-Attack
# For a word of several pieces, BERT-Attack (arXiv:2004.09984) takes the top tokens of each piece and ranks at most so
# many of their combinations.
TOP_PER_PIECE = 4
MAX_COMBINATIONS = 24


@dataclass(frozen=True, repr=False, eq=False)
class MaskedLMCandidates:
    """Words that a masked language model predicts in place of a word of the unmasked text (arXiv:2004.09984).

    For a word of one token: the top `num_candidates` tokens, from which pieces of words and punctuation are then
    dropped. For a word of several pieces: the top 4 tokens of each piece are combined to single words, and the 24 most
    likely combinations are ranked by the model's perplexity of the pieces in the text.

    Args:
        model: any `AutoModelForMaskedLM`.
        tokenizer: the model's tokenizer, a fast one.
        align_to_cls: whether to read the output at the word's own position. False reads it one position to the left, as
            MMCoA's release does because it ignores the leading [CLS] token; each word then gets the candidates of its
            left neighbour.
        batch_size: number of texts per forward pass.

    Raises:
        ValueError: if the tokenizer does not return the positions of its tokens in the text.

    Example:
        >>> source = MaskedLMCandidates.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> source(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    align_to_cls: bool = True
    batch_size: int = 32

    def __post_init__(self) -> None:
        _check_tokenizer(self.tokenizer)

    @classmethod
    def from_pretrained(cls, name: str, align_to_cls: bool = True) -> MaskedLMCandidates:
        """Load a masked language model from a folder or the Hub, e.g. "bert-base-uncased", which the paper uses."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        model = AutoModelForMaskedLM.from_pretrained(name).eval()
        return cls(model, AutoTokenizer.from_pretrained(name), align_to_cls)

    def __repr__(self) -> str:
        name = getattr(self.model, "name_or_path", "") or type(self.model).__name__
        return f"MaskedLMCandidates({name!r}, align_to_cls={self.align_to_cls})"

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. A batch takes one forward pass, and more if words have several pieces."""
        ranked: Ranked = [{} for _ in texts]
        asked = [row for row, indices in enumerate(words) if indices]
        device = next(self.model.parameters(), torch.empty(0)).device
        with _evaluating(self.model), torch.no_grad():
            for start in range(0, len(asked), self.batch_size):
                rows = asked[start : start + self.batch_size]
                encoded, offsets = _tokenize(self.tokenizer, [texts[row] for row in rows], device)
                places = _places([texts[row] for row in rows], [words[row] for row in rows], offsets)
                for (line, word), found in self._propose(encoded, places, num_candidates).items():
                    ranked[rows[line]][word] = found
        return ranked

    def _propose(
        self, encoded: dict[str, Tensor], places: Places, num_candidates: int
    ) -> dict[tuple[int, int], list[str]]:
        """Propose candidates for each (line, word), given the positions of the word's pieces."""
        if not places:
            return {}
        logits = self.model(**encoded).logits  # (texts, length, vocabulary)
        lines = [line for (line, _), pieces in places.items() for _ in pieces]
        shift = 0 if self.align_to_cls else 1
        positions = [max(position - shift, 0) for pieces in places.values() for position in pieces]
        log_probs = logits[lines, positions].float().log_softmax(-1)  # (pieces, vocabulary)
        top = log_probs.topk(min(max(num_candidates, TOP_PER_PIECE), log_probs.shape[1]))
        ranks = zip(top.values.tolist(), top.indices.tolist(), strict=True)
        options = iter([list(zip(scores, tokens, strict=True)) for scores, tokens in ranks])

        ranked: dict[tuple[int, int], list[tuple[int, ...]]] = {place: [] for place in places}
        combined = []
        for place, pieces in places.items():
            here = [next(options) for _ in pieces]
            if len(pieces) == 1:
                ranked[place] = [(token,) for _, token in here[0][:num_candidates]]
            else:
                combined += [(place, tokens) for tokens in self._combine([option[:TOP_PER_PIECE] for option in here])]
        surprise = self._surprise(encoded, [(place[0], places[place], tokens) for place, tokens in combined])
        for (place, tokens), _ in sorted(zip(combined, surprise, strict=True), key=itemgetter(1)):
            ranked[place].append(tokens)
        found = {place: [self._word(tokens) for tokens in proposed] for place, proposed in ranked.items()}
        return {place: [word for word in words if word][:num_candidates] for place, words in found.items()}

    def _combine(self, options: list[list[tuple[float, int]]]) -> list[tuple[int, ...]]:
        """Combine the options (log-probability, token) of consecutive pieces to the most likely words."""
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for place, option in enumerate(options):
            fitting = [(score, token) for score, token in option if self._starts_word(token) == (place == 0)]
            longer = [(total + score, (*tokens, token)) for total, tokens in best for score, token in fitting]
            best = sorted(longer, key=itemgetter(0), reverse=True)[:MAX_COMBINATIONS]
        return [tokens for _, tokens in best]

    def _surprise(
        self, encoded: dict[str, Tensor], trials: list[tuple[int, list[int], tuple[int, ...]]]
    ) -> list[float]:
        """Return the log-perplexity of the tokens of each trial (line, positions, tokens) in the line's text."""
        surprise: list[float] = []
        for start in range(0, len(trials), self.batch_size):
            chunk = trials[start : start + self.batch_size]
            batch = {name: values[[line for line, _, _ in chunk]] for name, values in encoded.items()}
            rows = [row for row, (_, positions, _) in enumerate(chunk) for _ in positions]
            positions = [position for _, positions, _ in chunk for position in positions]
            tokens = torch.tensor(
                [token for _, _, tokens in chunk for token in tokens], device=batch["input_ids"].device
            )
            batch["input_ids"][rows, positions] = tokens
            logits = self.model(**batch).logits[rows, positions].float()  # (pieces of all trials, vocabulary)
            losses = F.cross_entropy(logits, tokens, reduction="none").split([len(tokens) for _, _, tokens in chunk])
            surprise += torch.stack([loss.mean() for loss in losses]).tolist()
        return surprise

    @cached_property
    def _marker(self) -> str:
        return _word_marker(self.tokenizer)

    def _starts_word(self, token_id: int) -> bool:
        token: Any = self.tokenizer.convert_ids_to_tokens(token_id)
        return bool(_whole_word(token, self._marker))

    def _word(self, tokens: tuple[int, ...]) -> str | None:
        """Return the word that the tokens spell, or None if they spell no single word."""
        if not self._starts_word(tokens[0]):
            return None
        pieces: Any = self.tokenizer.convert_ids_to_tokens(list(tokens))
        word = self.tokenizer.convert_tokens_to_string(pieces).strip()
        return word if WORD.fullmatch(word) else None
