"""Decode the rows of a data set, indexed or streamed, and collate them to batches of images in [0, 1]."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, Literal

import datasets
import numpy as np
import torch
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .columns import AUTO, Columns, refuse_transform, resolve_columns
from .fitting import fitting_for
from .images import from_array, read_image, to_rgb, to_tensor


class ImageRows(Dataset[dict[str, Any]]):
    """A `datasets.Dataset` as decoded rows `{"image", "label", "text", "row_id"}`.

    `label` and `text` are there only where the data set has such columns.

    Args:
        dataset: a map-style data set. Only the three columns below are read.
        image_column: column of images, of type `datasets.Image` or arrays; "auto" finds it (`detect_columns`).
        label_column: column of integers or booleans; None for none, "auto" for the usual names.
        text_column: column of captions, or of lists of captions; None for none, "auto" for the usual names.
        perturb_at: "native" keeps every image's own size; "model" resizes and crops to `image_size`.
        image_size: side of the model's square input, in pixels; needed for "model" only.
        image_processor: the model's, whose own resize and crop "model" then does, unless the data are a benchmark's;
            None for the benchmarks' (`resize_and_crop`) with any data.
        draw_captions: take one of several captions at random, by torch's generator, each time that a row is read, and
            not the first.
        num_captions: captions of each row, the second and further ones as `more_texts`; a row's own are repeated where
            it has fewer.

    Raises:
        ValueError: for an empty data set, a transform, a missing column or "model" without a size; when a row is read,
            for an image that cannot be decoded or a missing label or text, naming the row.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str = AUTO,
        label_column: str | None = AUTO,
        text_column: str | None = AUTO,
        perturb_at: Literal["native", "model"] = "native",
        image_size: int | None = None,
        image_processor: Any = None,
        draw_captions: bool = False,
        num_captions: int = 1,
    ) -> None:
        if isinstance(dataset, datasets.IterableDataset):
            raise ValueError("`dataset` is streamed and has no rows to index; use `ImageStream`.")
        refuse_transform(dataset)
        if len(dataset) == 0:
            raise ValueError(
                "`dataset` is empty: it has no rows. Check the split and any filter or `select` before it."
            )
        self._reader = RowReader(
            resolve_columns(dataset, image_column, label_column, text_column),
            fitting=_fitting(dataset, perturb_at, image_size, image_processor),
            draw_captions=draw_captions,
            num_captions=num_captions,
        )
        self.columns = self._reader.columns
        self._rows = self._reader.undecoded(dataset).with_format(None)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return several rows with one access to the table; torch's DataLoader calls this."""
        ids = [index + len(self) if index < 0 else index for index in map(int, indices)]
        if any(not 0 <= index < len(self) for index in ids):
            raise IndexError(f"`index` {indices} is outside the {len(self)} rows of the data set.")
        table = self._rows[ids]
        return [
            self._reader({name: column[position] for name, column in table.items()}, row_id)
            for position, row_id in enumerate(ids)
        ]


class ImageStream(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A streamed data set as rows like those of `ImageRows`; `row_id` counts the rows of the stream.

    Takes the arguments of `ImageRows`; `rows` are the stored rows, and `reader` decodes one. A training reads a
    `StreamPart` of it. Each DataLoader worker reads its own shards, so every row comes once; `row_id`
    counts per worker, so use at most one worker where `row_id` must be unique.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        image_column: str = AUTO,
        label_column: str | None = AUTO,
        text_column: str | None = AUTO,
        perturb_at: Literal["native", "model"] = "native",
        image_size: int | None = None,
        image_processor: Any = None,
        draw_captions: bool = False,
        num_captions: int = 1,
    ) -> None:
        self.reader = RowReader(
            resolve_columns(dataset, image_column, label_column, text_column),
            fitting=_fitting(dataset, perturb_at, image_size, image_processor),
            draw_captions=draw_captions,
            num_captions=num_captions,
        )
        self.columns = self.reader.columns
        self.rows = self.reader.undecoded(dataset).with_format(None)

    def __iter__(self) -> Any:
        for row_id, row in enumerate(self.rows):
            yield self.reader(row, row_id)


def _fitting(
    dataset: Any, perturb_at: str, image_size: int | None, image_processor: Any
) -> Callable[[Image.Image], Image.Image] | None:
    if perturb_at not in ("native", "model"):
        raise ValueError(f'`perturb_at` is "native" or "model", got {perturb_at!r}.')
    if perturb_at == "native":
        return None
    if image_size is None:
        raise ValueError('`perturb_at="model"` needs `image_size`, the image size of the model in pixels.')
    return fitting_for(dataset, image_size, image_processor)


class RowReader:
    """Decodes raw rows of a data set to `{"image", "label", "text", "row_id"}`.

    Args:
        columns: names of the columns.
        fitting: makes every picture the model's input; None keeps its own size.
        draw_captions, num_captions: as in `ImageRows`.
    """

    def __init__(
        self,
        columns: Columns,
        fitting: Callable[[Image.Image], Image.Image] | None = None,
        draw_captions: bool = False,
        num_captions: int = 1,
    ) -> None:
        self.columns = columns
        self.draw_captions, self.num_captions = draw_captions, num_captions
        self.fitting = fitting

    def undecoded(self, dataset: Any) -> Any:
        """Return the columns in use, with images as stored bytes: only if we decode them can an error name the row."""
        used = dataset.select_columns([name for name in self.columns if name is not None])
        if used.features is not None and isinstance(used.features[self.columns.image], datasets.Image):
            used = used.cast_column(self.columns.image, datasets.Image(decode=False))
        return used

    def __call__(self, row: dict[str, Any], row_id: int) -> dict[str, Any]:
        columns = self.columns
        result: dict[str, Any] = {"image": self._picture(row[columns.image or ""], row_id)}
        if columns.label is not None:
            if row[columns.label] is None:
                raise ValueError(f"row {row_id} has no label in column {columns.label!r}; filter such rows out first.")
            if not isinstance(row[columns.label], (int, np.integer, np.bool_)):
                raise ValueError(
                    f"row {row_id} has {row[columns.label]!r} in column {columns.label!r}, not an integer; use "
                    f'`dataset.class_encode_column("{columns.label}")`.'
                )
            result["label"] = int(row[columns.label])
        if columns.text is not None:
            result["text"], *more = (self._caption(text, row_id) for text in self._chosen(row[columns.text]))
            if more:
                result["more_texts"] = more
        return {**result, "row_id": row_id}

    def _chosen(self, texts: Any) -> list[Any]:
        """Return `num_captions` of a row's captions: the first ones, or drawn ones; all of them before any twice."""
        if not isinstance(texts, list) or not texts:
            return [texts] * self.num_captions
        if self.num_captions == 1:
            return [texts[int(torch.randint(len(texts), ())) if self.draw_captions and len(texts) > 1 else 0]]
        order = torch.randperm(len(texts)).tolist() if self.draw_captions else range(len(texts))
        return list(islice(cycle([texts[place] for place in order]), self.num_captions))

    def _caption(self, text: Any, row_id: int) -> str:
        if not isinstance(text, str):
            raise ValueError(f"row {row_id} has no text in column {self.columns.text!r}, got {text!r}; filter it out.")
        return unicodedata.normalize("NFC", text)

    def _picture(self, value: Any, row_id: int) -> Tensor:
        try:
            image = _decode(value)
            return to_tensor(image if self.fitting is None else self.fitting(image))
        except Exception as error:  # Pillow's decoders and numpy raise many kinds
            path = value.get("path") if isinstance(value, dict) else None
            raise ValueError(
                f"row {row_id}: the picture {f'{path} ' if path else ''}in column {self.columns.image!r} cannot be "
                f"decoded ({type(error).__name__}: {error}). Repair it, or leave the row out with `dataset.select`."
            ) from error


def _decode(value: Any) -> Image.Image:
    """Decode the value of an image column as an upright RGB image."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise ValueError("there is none")
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, str) and not is_local_path(value):
        value = _from_the_hub(value)
    if isinstance(value, (bytes, str)):
        return read_image(value)
    return from_array(np.asarray(value))


def _from_the_hub(address: str) -> bytes:
    """Read an image that a streamed row links to. A hostile row must not make this machine open other addresses."""
    if not address.rpartition("::")[2].startswith(("hf://", f"{datasets.config.HF_ENDPOINT}/")):
        raise ValueError(f"it lies at {address}, which is not on the Hub, and is not fetched: download it first")
    with xopen(address, "rb") as file:
        content: bytes = file.read()
    return content


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate rows of `ImageRows` to one batch.

    Returns:
        `images` float32 (B, 3, H, W) in [0, 1] and `row_ids` int64 (B,); `labels` int64 (B,), `texts`, B strings, and
        `more_texts`, one list of B strings for each further caption, where the rows have them.

    Raises:
        ValueError: if the images differ in size, naming the rows.
    """
    sizes = [tuple(row["image"].shape[1:]) for row in rows]
    if len(set(sizes)) > 1:
        odd = [f"row {row['row_id']} is {h}x{w}" for row, (h, w) in zip(rows, sizes, strict=True) if (h, w) != sizes[0]]
        raise ValueError(
            f"images of one batch differ in size: row {rows[0]['row_id']} is {sizes[0][0]}x{sizes[0][1]}, "
            f"{', '.join(odd[:8])}{', ...' if len(odd) > 8 else ''}. "
            'Use perturb_at="model", which resizes all to the size of the model.'
        )
    batch: dict[str, Any] = {"images": torch.stack([row["image"] for row in rows])}
    if "label" in rows[0]:
        batch["labels"] = torch.tensor([row["label"] for row in rows], dtype=torch.long)
    if "text" in rows[0]:
        batch["texts"] = [row["text"] for row in rows]
    if "more_texts" in rows[0]:
        batch["more_texts"] = [list(texts) for texts in zip(*(row["more_texts"] for row in rows), strict=True)]
    batch["row_ids"] = torch.tensor([row["row_id"] for row in rows], dtype=torch.long)
    return batch
