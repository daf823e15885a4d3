"""Where the replacement words of a text attack come from: a masked language model, CLIP's vocabulary, WordNet, a table.

A source proposes, ranked; what no attack may use (stop words, the word itself, other classes' names) is dropped in one
place, `bert_attack`. Every source answers for many texts in one call, so that a model behind it runs in batches. A
source over a whole vocabulary leaves out pieces of words, stop words and the word itself before it counts to k, because
there they would crowd out everything else; the masked language model counts first and drops after, as BERT-Attack does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import encoding
from .pgd import gradient
from .words import STOP_WORDS, WORD, split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED_LM = "google-bert/bert-base-uncased"  # BERT-Attack, as the release runs it
TOP_PER_PIECE = 4  # BERT-Attack, arXiv:2004.09984: for a word of several pieces, the top 4 of each,
MAX_COMBINATIONS = 24  # and at most 24 of their combinations

Ranked = list[dict[int, list[str]]]
Places = dict[tuple[int, int], list[int]]  # (line of the batch, word) -> positions of the word's tokens


class CandidateSource(Protocol):
    """Anything that proposes replacements for words."""

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """Replacements for words `words[i]` (numbers in the order of `split_words`) of `texts[i]`.

        Returns:
            For each text a dictionary from word number to at most `num_candidates` replacements, best first. A word
            without any may be left out.
        """


def coordinate_kl(embeds: Tensor, other_embeds: Tensor) -> Tensor:
    """KL(softmax a || softmax b) over the coordinates of each row of two embeddings (texts, dim): (texts,), float32.

    Unit vectors have flat softmaxes and KLs of about 1e-5, of which float32 sums lose percents: it sums in float64.
    """
    wide = torch.float32 if embeds.device.type == "mps" else torch.float64  # Apple's accelerator has no float64
    log_p, log_q = embeds.to(wide).log_softmax(-1), other_embeds.to(wide).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).float()


@dataclass(frozen=True, repr=False, eq=False)
class MaskedLMCandidates:
    """What a masked language model expects at the word's place in the unmasked text (BERT-Attack, arXiv:2004.09984).

    The top `num_candidates` tokens, then without pieces of words and signs. For a word of several pieces: the top 4 per
    piece, combined to single words, the 24 most likely combinations, ranked by the model's perplexity of the pieces in
    the text.

    Args:
        model: any `AutoModelForMaskedLM`.
        tokenizer: its tokenizer, a fast one.
        align_to_cls: read the output at the word's own position. False reads one position to the left, so that each
            word gets its left neighbour's candidates: MMCoA's release does, it forgets the [CLS] token in front.
        batch_size: texts per forward.

    Raises:
        ValueError: if the tokenizer cannot say where its tokens lie in the text.

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
        """A folder or Hub id of a masked language model, e.g. "bert-base-uncased" (the paper's)."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        model = AutoModelForMaskedLM.from_pretrained(name).eval()
        return cls(model, AutoTokenizer.from_pretrained(name), align_to_cls)

    def __repr__(self) -> str:
        name = getattr(self.model, "name_or_path", "") or type(self.model).__name__
        return f"MaskedLMCandidates({name!r}, align_to_cls={self.align_to_cls})"

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. One batched forward, and a second one for the words of several pieces."""
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
        """Candidates of each (line, word), given the positions of the word's pieces."""
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
        """The most likely words that the options (log-probability, token) of consecutive pieces make."""
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for place, option in enumerate(options):
            fitting = [(score, token) for score, token in option if self._starts_word(token) == (place == 0)]
            longer = [(total + score, (*tokens, token)) for total, tokens in best for score, token in fitting]
            best = sorted(longer, key=itemgetter(0), reverse=True)[:MAX_COMBINATIONS]
        return [tokens for _, tokens in best]

    def _surprise(
        self, encoded: dict[str, Tensor], trials: list[tuple[int, list[int], tuple[int, ...]]]
    ) -> list[float]:
        """Log-perplexity of the tokens of each trial (line, positions, tokens), put there into the line's text."""
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
        """The word that the tokens make, or None if they make none."""
        if not self._starts_word(tokens[0]):
            return None
        pieces: Any = self.tokenizer.convert_ids_to_tokens(list(tokens))
        word = self.tokenizer.convert_tokens_to_string(pieces).strip()
        return word if WORD.fullmatch(word) else None


@dataclass(frozen=True, eq=False)
class NeighbourCandidates:
    """The words nearest to a word in CLIP's own token-embedding table, by cosine: no second model, nothing to download.

    The table is read in every call, so the neighbours are those of the weights as they are. A word of several tokens
    stands at the mean of their embeddings; a word that holds a token unknown to the tokenizer has no neighbours.

    Args:
        model: an unwrapped dual encoder.
        tokenizer: its tokenizer.

    Example:
        >>> NeighbourCandidates(model, processor.tokenizer)(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    model: nn.Module = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. One matrix product for all distinct words."""
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

    The KL from the clean text has no gradient at the clean text itself. It is therefore linearised where the word is
    replaced by the mean m of the embedding table, a word that says nothing: gain of v = (e_v - m) . dKL/de, at the
    word's first token.

    Args:
        model: an unwrapped dual encoder; its parameters' gradients and its mode stay as they are.
        tokenizer: its tokenizer, a fast one.
        batch_size: words per forward and backward.

    Raises:
        ValueError: if the tokenizer cannot say where its tokens lie in the text.

    Example:
        >>> HotFlipCandidates(model, processor.tokenizer)(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    model: nn.Module = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    batch_size: int = field(default=256, repr=False)

    def __post_init__(self) -> None:
        _check_tokenizer(self.tokenizer)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`. One row of a batch for every word asked for, forward and backward."""
        ranked: Ranked = [{} for _ in texts]
        token_ids, vocabulary = self._vocabulary
        asked = [row for row, indices in enumerate(words) if indices]
        if not asked or not vocabulary:
            return ranked
        table = encoding.token_table(self.model).float()
        attacked = [texts[row] for row in asked]
        encoded = encoding.tokenize(self.model, self.tokenizer, attacked, truncation=True, offsets=True)
        offsets = encoded.pop("offset_mapping").tolist()
        all_places = _places(attacked, [words[row] for row in asked], offsets)
        special = torch.tensor(self.tokenizer.all_special_ids, device=table.device)
        is_special = torch.isin(encoded["input_ids"], special).tolist()
        # An unknown word is CLIP's end-of-text token: pooling stops there, whatever stands in its place.
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
        """dKL/de at the first token of each (line, word, positions), the word standing at `mean`; (rows, width)."""
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


@dataclass(frozen=True)
class WordNetCandidates:
    """Synonyms of a word, then its hyponyms, over all its senses in WordNet's order; single words only. Needs `nltk`.

    Args:
        root: folder with WordNet's own files, e.g. Debian's "/usr/share/wordnet"; None reads nltk's data.

    Raises:
        ImportError: on first use, if nltk is missing.
        LookupError: on first use, if the data is missing; the text says where it is had.

    Example:
        >>> WordNetCandidates()(["a photo of a dog"], [[4]], 10)  # doctest: +SKIP
    """

    root: str | None = None

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        return [
            {index: self._relatives(_word_at(text, index))[:num_candidates] for index in indices}
            for text, indices in zip(texts, words, strict=True)
        ]

    def _relatives(self, word: str) -> list[str]:
        synsets = self._wordnet.synsets(word)
        # nltk gives hyponyms in the order of a hash that every process draws anew; offsets are WordNet's own order.
        hyponyms = (sorted(synset.hyponyms(), key=lambda each: each.offset()) for synset in synsets)
        relatives = [*synsets, *(each for found in hyponyms for each in found)]
        lemmas = dict.fromkeys(lemma for synset in relatives for lemma in synset.lemma_names())
        return [lemma for lemma in lemmas if WORD.fullmatch(lemma) and lemma.casefold() != word.casefold()]

    @cached_property
    def _wordnet(self) -> Any:
        try:
            from nltk.corpus import wordnet
        except ImportError as error:
            raise ImportError("WordNetCandidates reads WordNet through nltk: `pip install nltk`.") from error
        try:
            if self.root is not None:
                return _read_wordnet(self.root)
            wordnet.ensure_loaded()
            return wordnet
        except (LookupError, OSError) as error:
            raise LookupError(
                f"no WordNet in {self.root or 'the data folders of nltk'!r}. "
                'Run nltk.download("wordnet"), or install Debian\'s wordnet-base and give root="/usr/share/wordnet".'
            ) from error


@dataclass(frozen=True, repr=False)
class SynonymTable:
    """A given list of substitutes for each word, in order of preference; upper and lower case are the same.

    Args:
        synonyms: word -> its substitutes; kept as `table`, a tuple of pairs, so that tables can be hashed.

    Raises:
        ValueError: if a key is not one word or comes twice, a substitute is no text, or one is listed more than once:
            an attacked text must keep its meaning, so no substitute may stand for two words.

    Example:
        >>> SynonymTable({"zero": ("nought", "nil"), "one": ("unity",)})(["a photo of a Zero"], [[4]], 10)
        [{4: ['nought', 'nil']}]
    """

    synonyms: InitVar[Mapping[str, Sequence[str]]]
    table: tuple[tuple[str, tuple[str, ...]], ...] = field(init=False)

    def __post_init__(self, synonyms: Mapping[str, Sequence[str]]) -> None:
        for word, substitutes in synonyms.items():
            if not WORD.fullmatch(word):
                raise ValueError(f"`synonyms` has the key {word!r}; only single words are looked up.")
            if isinstance(substitutes, str) or not all(WORD.search(substitute) for substitute in substitutes):
                raise ValueError(f"`synonyms` of {word!r} must be a sequence of words, got {substitutes!r}.")
        table = tuple((word.casefold(), tuple(substitutes)) for word, substitutes in synonyms.items())
        _raise_if_repeated([word for word, _ in table], "has keys that differ in case only")
        _raise_if_repeated([each.casefold() for _, listed in table for each in listed], "lists words more than once")
        object.__setattr__(self, "table", table)

    def __call__(self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int) -> Ranked:
        """See `CandidateSource`."""
        table = dict(self.table)
        return [
            {index: list(table.get(_word_at(text, index).casefold(), ())[:num_candidates]) for index in indices}
            for text, indices in zip(texts, words, strict=True)
        ]

    def __repr__(self) -> str:
        digest = hashlib.sha256(str(self.table).encode()).hexdigest()[:8]  # tells two tables apart in a result file
        substitutes = sum(len(listed) for _, listed in self.table)
        return f"SynonymTable({len(self.table)} words, {substitutes} substitutes, {digest})"

    def split(self, seed: int) -> tuple[SynonymTable, SynonymTable]:
        """Each word's substitutes drawn into two halves, known and unseen; the known one is never the smaller.

        The draw of one word does not depend on the other words of the table.
        """
        known, unseen = {}, {}
        for word, listed in self.table:
            drawn = random.Random(f"{seed} {word}").sample(listed, (len(listed) + 1) // 2)
            known[word] = [each for each in listed if each in drawn]
            unseen[word] = [each for each in listed if each not in drawn]
        return SynonymTable(known), SynonymTable(unseen)


def _raise_if_repeated(words: list[str], what: str) -> None:
    repeated = sorted(word for word, times in Counter(words).items() if times > 1)
    if repeated:
        raise ValueError(f"`synonyms` {what}: {', '.join(repeated)}. Keep each in one place.")


def _word_at(text: str, index: int) -> str:
    start, end = split_words(text)[index]
    return text[start:end]


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"`tokenizer` must be a fast one, got {type(tokenizer).__name__}: words are found by their place in the "
            "text. Load it with AutoTokenizer.from_pretrained."
        )


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], device: torch.device
) -> tuple[dict[str, Tensor], list[list[tuple[int, int]]]]:
    """Token ids and mask padded on the right to the longest text, and each token's span in its text."""
    encoded = tokenizer(
        texts,
        padding=True,
        padding_side="right",
        truncation=tokenizer.model_max_length < 10**9,  # tokenizers made by hand have no limit, written as 1e30
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets: Any = encoded.pop("offset_mapping")
    return {name: values.to(device) for name, values in encoded.items()}, offsets.tolist()


def _places(texts: list[str], words: list[Sequence[int]], offsets: list[list[tuple[int, int]]]) -> Places:
    """Positions of each asked word's tokens, by (line, word); a word cut off at the end of the context has none."""
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
    """How a vocabulary tells words from pieces: CLIP's `</w>`, WordPiece's `##`, `▁`, `Ġ`; "" where all are words."""
    vocabulary = tokenizer.get_vocab()
    counts = {
        "</w>": sum(token.endswith("</w>") for token in vocabulary),
        **{marker: sum(token.startswith(marker) for token in vocabulary) for marker in ("##", "▁", "Ġ")},
    }
    marker = max(counts, key=lambda each: counts[each])
    return marker if counts[marker] else ""


def _whole_word(token: str, marker: str) -> str:
    """The word that a token stands for, or "" for a piece that only continues one."""
    if marker == "##":
        return "" if token.startswith(marker) else token
    if marker == "</w>":
        return token.removesuffix(marker) if token.endswith(marker) else ""
    return token.removeprefix(marker) if token.startswith(marker) else ""


def _vocabulary_words(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[str]]:
    """Ids and words of the tokens that are whole words of ASCII letters and no stop words, by id."""
    marker, special = _word_marker(tokenizer), set(tokenizer.all_special_ids)
    by_id = sorted((index, _whole_word(token, marker)) for token, index in tokenizer.get_vocab().items())
    # Byte-level vocabularies write other alphabets in stand-in letters; ASCII letters stand for themselves.
    words = {
        index: word
        for index, word in by_id
        if word.isascii() and word.isalpha() and word.casefold() not in STOP_WORDS and index not in special
    }
    return list(words), list(words.values())


def _top_words(scores: Tensor, vocabulary: list[str], originals: list[str], num_candidates: int) -> list[list[str]]:
    """The best words of each row of scores (rows, vocabulary), without the row's original word."""
    # One more than asked for: the original may be among them.
    top = scores.topk(min(num_candidates + 1, len(vocabulary))).indices.tolist()
    found = [[vocabulary[column] for column in columns] for columns in top]
    return [
        [word for word in row if word.casefold() != original][:num_candidates]
        for row, original in zip(found, originals, strict=True)
    ]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off while the block runs; every module's own mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _read_wordnet(root: str) -> Any:
    """nltk's reader on a folder that nltk did not install."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """Debian leaves out two files: one only names lexicographers' files, the other serves other languages."""

        def open(self, file: str) -> Any:
            if file == "lexnames" and not Path(root, file).exists():
                return io.StringIO("".join(f"{number:02d}\tunnamed\t0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            return None

    if not Path(root, "data.noun").exists():
        raise LookupError(f"{root} holds no data.noun")
    if root not in nltk.data.path:
        nltk.data.path.append(root)  # nltk 3.10 opens nothing outside the folders listed here
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(root, None)


def candidate_source(
    name: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    masked_lm: str = MASKED_LM,
    align_to_cls: bool = True,
) -> CandidateSource:
    """The source that a configuration or a threat model names: "neighbours", "hotflip", "wordnet" or "masked-lm".

    Args:
        name: of the source.
        model: the dual encoder whose vocabulary "neighbours" and "hotflip" draw on.
        tokenizer: its tokenizer.
        masked_lm: folder or Hub id of the masked language model of "masked-lm".
        align_to_cls: see `MaskedLMCandidates`.

    Raises:
        ValueError: if there is no source of that name.
    """
    if name == "neighbours":
        return NeighbourCandidates(model, tokenizer)
    if name == "hotflip":
        return HotFlipCandidates(model, tokenizer)
    if name == "wordnet":
        return WordNetCandidates()
    if name == "masked-lm":
        return MaskedLMCandidates.from_pretrained(masked_lm, align_to_cls=align_to_cls)
    raise ValueError(f"`candidates` must be neighbours, hotflip, wordnet or masked-lm, got {name!r}.")
