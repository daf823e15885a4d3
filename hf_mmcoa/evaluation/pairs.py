"""Pairs of images and captions: read and checked, and the rank of the right answer for every query."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from ..data.columns import resolve_columns
from ..data.perturbation import perturbation_size
from ..data.rows import ImageRows
from ..models.encoder import DualEncoder

QUERIES_PER_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows, their distinct captions, and which belong together."""

    rows: ImageRows
    rows_at: Any  # the resolution of the rows, "native" or "model"
    row_ids: list[int]
    captions: list[str]
    captions_of: list[list[int]]  # by image, places in `captions`

    @property
    def images_of(self) -> list[list[int]]:
        """Return, by caption, places in `row_ids`."""
        found: list[list[int]] = [[] for _ in self.captions]
        for image, places in enumerate(self.captions_of):
            for place in places:
                found[place].append(image)
        return found


def ranks_of_best(queries: Tensor, gallery: Tensor, relevant: Sequence[Sequence[int]]) -> list[int]:
    """For each query the rank of its best-scored right answer among all wrong ones; 1 is the best, a tie is lost.

    Args:
        queries: embeddings, (queries, dim).
        gallery: embeddings, (items, dim).
        relevant: for each query the places of its right answers in the gallery.

    Example:
        >>> ranks_of_best(torch.eye(2), torch.tensor([[0.5, 0.1], [0.9, 0.1], [0.5, 0.1]]), [[0], [1, 2]])
        [3, 2]
    """
    ranks: list[int] = []
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        scores = queries[start : start + QUERIES_PER_BLOCK] @ gallery.T  # (block, items)
        ranks += ranks_of_logits(scores, relevant[start : start + QUERIES_PER_BLOCK])
    return ranks


def ranks_of_logits(scores: Tensor, relevant: Sequence[Sequence[int]]) -> list[int]:
    """Return for each query the rank of its best-scored right answer among all wrong ones; 1 is the best.

    Args:
        scores: (queries, items).
        relevant: for each query the places of its right answers.
    """
    own = own_mask(relevant, scores)
    best = scores.masked_fill(~own, float("-inf")).amax(1, keepdim=True)
    # "not behind" and not "ahead": ties and scores that are not numbers count against the model.
    return (1 + (~(scores < best) & ~own).sum(1)).tolist()


def own_against_others(logits: Tensor, own: Sequence[Sequence[int]]) -> Tensor:
    """Scores of all captions as a classification with class 0 right: (batch, M) to (batch, 1 + M).

    Column 0 holds the best of the image's own captions, the others the captions, -inf where they are its own.
    """
    mask = own_mask(own, logits)
    best = logits.masked_fill(~mask, float("-inf")).amax(1, keepdim=True)
    return torch.cat([best, logits.masked_fill(mask, float("-inf"))], 1)


def own_mask(relevant: Sequence[Sequence[int]], scores: Tensor) -> Tensor:
    """True on the right answers, of the shape of `scores`."""
    rows = [row for row, places in enumerate(relevant) for _ in places]
    columns = [place for places in relevant for place in places]
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask[rows, columns] = True
    return mask


def read_pairs(
    dataset: datasets.Dataset,
    image_column: str,
    text_column: str,
    perturb_at: Any,
    encoder: DualEncoder,
    batch_size: int,
    max_samples: int | None,
) -> Pairs:
    """Return the checked rows and captions; a row's captions are read here because `ImageRows` takes one of several."""
    for name, value, least in (("batch_size", batch_size, 1), ("max_samples", max_samples, 2)):
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    columns = resolve_columns(dataset, image_column, None, text_column)
    if columns.text is None:
        raise ValueError(
            f"`dataset` has no caption column; name it with `text_column`. It has {', '.join(dataset.column_names)}. "
            "(`load_benchmark` drops captions beside labels unless it is given `text_column` too.)"
        )
    pictures = dataset.select_columns([str(columns.image)])
    if columns.image != "image":
        pictures = pictures.rename_column(str(columns.image), "image")
    perturb_at = perturbation_size(perturb_at, pictures, encoder.image_size)
    rows = ImageRows(pictures, "image", None, None, perturb_at, encoder.image_size, encoder.image_processor)
    row_ids = list(range(len(rows)))
    if max_samples is not None and max_samples < len(row_ids):
        drawn = torch.randperm(len(row_ids), generator=torch.Generator().manual_seed(0))[:max_samples]
        row_ids = sorted(drawn.tolist())
    texts = dataset.select_columns([columns.text]).with_format(None).select(row_ids)[:][columns.text]
    places: dict[str, int] = {}
    captions_of = []
    for row, given in zip(row_ids, texts, strict=True):
        listed = given if isinstance(given, list) else [given]
        if not listed or not all(isinstance(text, str) and text.strip() for text in listed):
            raise ValueError(
                f"row {row} has no caption, or an empty one, in column {columns.text!r}: {given!r}. Filter it out."
            )
        composed = dict.fromkeys(unicodedata.normalize("NFC", text) for text in listed)  # two spellings are one caption
        captions_of.append([places.setdefault(text, len(places)) for text in composed])
    captions = list(places)
    if len(row_ids) < 2 or len(captions) < 2:
        raise ValueError(
            f"retrieval needs at least two images and two different captions, got {len(row_ids)} and {len(captions)}."
        )
    _warn_of_long_captions(captions, encoder)
    return Pairs(rows=rows, rows_at=perturb_at, row_ids=row_ids, captions=captions, captions_of=captions_of)


def _warn_of_long_captions(captions: list[str], encoder: DualEncoder) -> None:
    too_long = encoder.too_long(captions)
    if too_long:
        warnings.warn(
            f"{len(too_long)} of {len(captions)} captions are longer than the context of {encoder.context_length} "
            f"tokens and are cut off, for example {too_long[0][:80]!r}. Shorten them to silence this.",
            UserWarning,
            stacklevel=4,
        )
