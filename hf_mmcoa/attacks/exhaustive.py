"""Exact text adversaries over finite pools of legal texts (docs/methods.md, section 9): `own`, `all` and `shared`.

A text's embedding does not depend on the image, so every legal text is encoded once and the worst one is looked up. The
classes do not interact: "every prompt at its worst for this image" is a maximum per class, not a product over classes.

Memory: the embeddings of all distinct texts, (texts, dim) in float32 (a million texts of CLIP ViT-B/32 are 2 GB), plus
blocks of at most `BLOCK` scores, about 200 MB, plus a few (samples, classes) tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .contracts import EnumerableTextAttack, TextEncoder
from .enumeration import BEAM_WIDTH, MAX_TEXTS, Harm, LegalTexts, legal_texts
from .shared_choice import SharedChoice, choose_shared_texts

BLOCK = 2**23  # scores at a time
SHOWN = 20_000  # texts: some seconds of a small encoder


class EncodedTexts:
    """Texts and their embeddings; each distinct text is encoded once, whatever the number of pools that hold it.

    Args:
        encode: texts to unit embeddings, (texts, dim): `DualEncoder.encode_texts`.
        batch_size: texts per call of `encode`. They go there in alphabetical order, so that texts of one batch begin
            alike and the encoder computes their shared beginning once.
        progress: label of the progress bar that is shown from `SHOWN` texts on; None shows none.
    """

    def __init__(self, encode: TextEncoder, batch_size: int = 256, progress: str | None = None) -> None:
        self._encode, self._batch_size, self._progress = encode, batch_size, progress
        self._row_of: dict[str, int] = {}
        self._embeds: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of texts encoded so far: the attack's queries."""
        return len(self._row_of)

    @property
    def texts(self) -> Set[str]:
        """Return the texts encoded so far."""
        return self._row_of.keys()

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Return the row of each text in `embeds`, (texts,); texts that are new are encoded first."""
        self._add(sorted(set(texts) - self._row_of.keys()))
        return torch.tensor([self._row_of[text] for text in texts], dtype=torch.long)

    @property
    def embeds(self) -> Tensor:
        """Return the embeddings of all texts, (texts, dim), float32."""
        if self._embeds is None:
            raise ValueError("no text has been encoded yet.")
        return self._embeds

    def _add(self, texts: list[str]) -> None:
        if not texts:
            return
        known = len(self)
        table = self._embeds
        starts = tqdm(
            range(0, len(texts), self._batch_size),
            desc=self._progress,
            unit="batch",
            disable=self._progress is None or len(texts) < SHOWN,
        )
        with torch.no_grad():
            for start in starts:
                batch = texts[start : start + self._batch_size]
                embeds = self._encode(batch).detach()
                if embeds.ndim != 2 or len(embeds) != len(batch):
                    raise ValueError(
                        f"`encode` must give one row per text, ({len(batch)}, dim), got shape {tuple(embeds.shape)}."
                    )
                if start == 0:
                    table = embeds.new_empty(known + len(texts), embeds.shape[1], dtype=torch.float32)
                    if self._embeds is not None:
                        table[:known] = self._embeds
                table[known + start : known + start + len(batch)] = embeds  # type: ignore[index]
        self._embeds = table
        self._row_of.update((text, known + index) for index, text in enumerate(texts))


class Scores:
    """Cosines between N images and the texts of C pools, computed in blocks.

    Accumulated in float64 and rounded to float32: an image and a text then have one score, in whatever block it is
    computed, so that a text in two pools ties with itself.

    Args:
        image_embeds: unit embeddings, (N, dim).
        labels: own class, (N,).
        encoded: the texts' embeddings.
        pools: the legal texts of each class, the clean prompt first, C pools.
    """

    def __init__(
        self, image_embeds: Tensor, labels: Tensor, encoded: EncodedTexts, pools: Sequence[Sequence[str]]
    ) -> None:
        self.sizes = [len(pool) for pool in pools]
        encoded.rows([text for pool in pools for text in pool])  # all new texts in one alphabetical order
        self._rows = [encoded.rows(pool) for pool in pools]
        # Apple's GPUs have no float64.
        device = torch.device("cpu") if encoded.embeds.device.type == "mps" else encoded.embeds.device
        self._embeds = encoded.embeds.to(device)
        self._images = image_embeds.detach().to(device, torch.float64)
        self.labels = labels.to(device)

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def of_pool(self, pool: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the scores of one class's texts: the number of the first text, and (N, texts of the block)."""
        step = max(1, BLOCK // self.num_samples)
        for start in range(0, self.sizes[pool], step):
            yield start, self._of_rows(self._rows[pool][start : start + step])

    def of_choices(self, choices: Tensor) -> Tensor:
        """Return the scores of one text per class, (N, C), given its number in each pool, (C,)."""
        rows = [own[index] for own, index in zip(self._rows, choices.tolist(), strict=True)]
        return self._of_rows(torch.stack(rows))

    def _of_rows(self, rows: Tensor) -> Tensor:
        texts = self._embeds[rows.to(self._embeds.device)].double()
        return (self._images @ texts.T).float()


@dataclass(frozen=True)
class TextAdversary:
    """The outcome of one adversary of the class prompts.

    Args:
        robust: which samples are still classified correctly, (N,). A tie or a non-finite score is a misclassification.
        margins: score of the own class minus the highest other one, cosines, (N,); not positive where misclassified.
        choices: the text chosen for each class, as its number in the class's pool, (N, C).
        search: how the texts were chosen from the pools: "exhaustive", or "coordinate descent from n starts".
    """

    robust: Tensor
    margins: Tensor
    choices: Tensor
    search: str = "exhaustive"

    @property
    def accuracy(self) -> float:
        """Fraction of samples still classified correctly."""
        return float(self.robust.double().mean())


@dataclass(frozen=True)
class TextRobustness:
    """Robustness to the three adversaries on the same pools; a sample robust under `all` is so under the other two.

    Args:
        own: only the true class's prompt changes, chosen for the image.
        all: every class's prompt, chosen for the image: the ceiling.
        shared: every class's prompt, one choice for all images. Where the search is no exhaustive one, the true
            accuracy may be lower.
        pools: the legal texts of each class, the clean prompt first.
        search: how the pools were filled: "exhaustive", or "beam of n texts".
        num_texts: distinct texts encoded, those of a beam search included: the attack's queries.
        findings: what was odd about the pools, each `{"check", "passed", "detail"}` as in `evaluation.sanity`.
    """

    own: TextAdversary
    all: TextAdversary
    shared: TextAdversary
    pools: tuple[tuple[str, ...], ...]
    search: str
    num_texts: int
    findings: tuple[dict[str, Any], ...] = ()

    @property
    def pool_sizes(self) -> tuple[int, ...]:
        """Number of legal texts of each class, its clean prompt included."""
        return tuple(len(pool) for pool in self.pools)

    def prompts(self, adversary: str, sample: int) -> list[str]:
        """Return the C prompts under which a sample is judged by the adversary "own", "all" or "shared"."""
        if adversary not in ("own", "all", "shared"):
            raise ValueError(f'`adversary` must be "own", "all" or "shared", got {adversary!r}.')
        choices = getattr(self, adversary).choices[sample].tolist()
        return [pool[index] for pool, index in zip(self.pools, choices, strict=True)]


def attack_prompts(
    text_attack: EnumerableTextAttack,
    prompts: Sequence[str],
    encode: TextEncoder,
    image_embeds: Tensor,
    labels: Tensor,
    *,
    max_texts: int = MAX_TEXTS,
    beam_width: int = BEAM_WIDTH,
    num_random_starts: int = 3,
    seed: int = 0,
) -> TextRobustness:
    """Attack class prompts with everything that a text attack may write.

    Args:
        text_attack: lists the texts within its budget: `BertAttack`, `LevenshteinAttack`.
        prompts: clean prompts, C of them.
        encode: texts to unit embeddings, (texts, dim).
        image_embeds: unit embeddings, (N, dim).
        labels: own class, (N,).
        max_texts: limit on the number of texts, see `legal_texts`.
        beam_width: texts that a beam search extends, where two changes are too many to list.
        num_random_starts: of the search for the `shared` choice, beside the clean and the worst-margin one.
        seed: of the random starts.

    Raises:
        ValueError: if the texts are more than `max_texts`, or an argument has a wrong shape or range.
    """
    _check(prompts, image_embeds, labels)
    encoded = EncodedTexts(encode)
    harm = harm_to_images(encoded, image_embeds, labels)
    legal = legal_texts(text_attack, prompts, max_texts=max_texts, harm=harm, beam_width=beam_width)
    return attack_pools(legal, encoded, image_embeds, labels, num_random_starts=num_random_starts, seed=seed)


def harm_to_images(encoded: EncodedTexts, image_embeds: Tensor, labels: Tensor) -> Harm:
    """Return what a beam search goes by: how unlike the class's own images a text is, and how like the others'.

    Args:
        encoded: encodes the texts that it does not hold yet.
        image_embeds: unit embeddings, (N, dim).
        labels: own class, (N,).
    """

    def harm(index: int, texts: list[str]) -> Tensor:
        scores = Scores(image_embeds, labels, encoded, [texts])
        own = scores.labels == index
        parts = [torch.stack([_mean(-part[own]), _mean(part[~own])]) for _, part in scores.of_pool(0)]
        return torch.cat(parts, dim=1)

    return harm


def attack_pools(
    legal: LegalTexts | Sequence[Sequence[str]],
    encoded: EncodedTexts,
    image_embeds: Tensor,
    labels: Tensor,
    *,
    num_random_starts: int = 3,
    seed: int = 0,
) -> TextRobustness:
    """Find the worst texts of given pools for every sample.

    Args:
        legal: what `legal_texts` gives, or the pools themselves, C of them, each with its clean prompt first.
        encoded: encodes the texts that it does not hold yet.
        image_embeds: unit embeddings, (N, dim).
        labels: own class, (N,).
        num_random_starts, seed: see `attack_prompts`.

    Raises:
        ValueError: if an argument has a wrong shape or range, or a pool is empty.
    """
    if not isinstance(legal, LegalTexts):
        legal = LegalTexts(pools=tuple(tuple(dict.fromkeys(pool)) for pool in legal))
    _check(legal.pools, image_embeds, labels)
    for index, pool in enumerate(legal.pools):
        if not pool:
            raise ValueError(f"the pool of class {index} is empty: it holds at least the clean prompt.")
    scores = Scores(image_embeds, labels, encoded, legal.pools)
    own, every, bounds = _worst_per_sample(scores)
    found = choose_shared_texts(scores, num_random_starts=num_random_starts, seed=seed)
    shared = _judge_shared(scores, found, *bounds)
    device = labels.device  # that of the caller
    own, every, shared = (
        replace(each, robust=each.robust.to(device), margins=each.margins.to(device), choices=each.choices.to(device))
        for each in (own, every, shared)
    )
    return TextRobustness(
        own=own,
        all=every,
        shared=shared,
        pools=legal.pools,
        search=legal.search,
        num_texts=len(encoded),
        findings=legal.findings,
    )


def _worst_per_sample(scores: Scores) -> tuple[TextAdversary, TextAdversary, tuple[Tensor, Tensor]]:
    """Return the outcomes of `own` and `all`, and the bounds of the scores: lowest own (N,), highest (N, C)."""
    labels, samples, classes = scores.labels, scores.num_samples, len(scores.sizes)
    lowest = torch.full((samples,), float("inf"), device=labels.device)
    lowest_at = torch.zeros(samples, dtype=torch.int32, device=labels.device)
    highest = torch.full((samples, classes), float("-inf"), device=labels.device)
    highest_at = torch.zeros(samples, classes, dtype=torch.int32, device=labels.device)
    clean = torch.empty_like(highest)
    for index in range(classes):
        rows = (labels == index).nonzero().squeeze(1)
        for start, part in scores.of_pool(index):
            finite = part.isfinite()
            above = torch.where(finite, part, float("inf"))
            if start == 0:
                clean[:, index] = above[:, 0]
            value, at = above.max(1)
            better = value > highest[:, index]
            highest[:, index] = torch.where(better, value, highest[:, index])
            highest_at[:, index] = torch.where(better, (at + start).int(), highest_at[:, index])
            if len(rows):
                value, at = torch.where(finite[rows], part[rows], float("-inf")).min(1)
                better = value < lowest[rows]
                lowest[rows] = torch.where(better, value, lowest[rows])
                lowest_at[rows] = torch.where(better, (at + start).int(), lowest_at[rows])
    column = labels.unsqueeze(1)
    own_choices = torch.zeros_like(highest_at).scatter_(1, column, lowest_at.unsqueeze(1))
    all_choices = highest_at.scatter(1, column, lowest_at.unsqueeze(1))
    own, every = (
        _judged(lowest, _highest_other(others, labels), choices)
        for others, choices in ((clean, own_choices), (highest, all_choices))
    )
    return own, every, (lowest, highest)


def _judge_shared(scores: Scores, found: SharedChoice, lowest: Tensor, highest: Tensor) -> TextAdversary:
    chosen = scores.of_choices(found.choices)
    own = chosen.gather(1, scores.labels.unsqueeze(1)).squeeze(1)
    own = torch.where(own.isfinite(), own, float("-inf"))
    others = torch.where(chosen.isfinite(), chosen, float("inf"))
    # One text's score lies within its pool's, whatever a block's rounding: robust under all is robust under shared.
    own, others = torch.maximum(own, lowest), torch.minimum(others, highest)
    choices = found.choices.int().to(scores.labels.device).expand(scores.num_samples, -1)
    return replace(_judged(own, _highest_other(others, scores.labels), choices), search=found.search)


def _judged(own: Tensor, rivals: Tensor, choices: Tensor) -> TextAdversary:
    return TextAdversary(robust=own > rivals, margins=own - rivals, choices=choices)


def _highest_other(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the highest score of the classes that are not the own one, (N, C) to (N,)."""
    return scores.scatter(1, labels.unsqueeze(1), float("-inf")).amax(1)


def _mean(scores: Tensor) -> Tensor:
    """Return the mean over samples, (texts,); 0 without samples, and the largest harm where it is not finite."""
    means = scores.sum(0) / max(len(scores), 1)
    return torch.where(means.isfinite(), means, 2.0)


def _check(classes: Sequence[Any], image_embeds: Tensor, labels: Tensor) -> None:
    if isinstance(classes, str) or len(classes) < 2:
        raise ValueError(f"at least two classes are needed to tell apart, got {classes!r}.")
    if image_embeds.ndim != 2 or len(image_embeds) == 0:
        raise ValueError(f"`image_embeds` must be (samples, dim) and not empty, got {tuple(image_embeds.shape)}.")
    if labels.shape != image_embeds.shape[:1]:
        raise ValueError(f"`labels` must be ({len(image_embeds)},), one per image, got {tuple(labels.shape)}.")
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise ValueError(f"`labels` must lie in [0, {len(classes)}), got {int(labels.min())} to {int(labels.max())}.")
