"""A process reads its own rows of a stream once a pass, and a resumed one goes on in the middle of a shard."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from hf_mmcoa.data.rows import ImageStream, RowReader, collate
from hf_mmcoa.data.stream_part import StreamPart

ROWS = 24


def stream(shards: int = 4, shuffled: bool = True) -> ImageStream:
    """Rows whose label is their number; their picture is not looked at."""
    pixels = [[[[number] * 3] * 2] * 2 for number in range(ROWS)]
    rows = datasets.Dataset.from_dict({"image": pixels, "label": list(range(ROWS))})
    rows = rows.cast_column("image", datasets.Array3D((2, 2, 3), "uint8"))
    iterable = rows.to_iterable_dataset(num_shards=shards)
    return ImageStream(iterable.shuffle(seed=3, buffer_size=5) if shuffled else iterable)


def labels(part: StreamPart, number: int) -> list[int]:
    return [row["label"] for row in islice(part, number)]


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_reads_its_own_shards_and_every_row_comes_once_a_pass(processes: int) -> None:
    each = ROWS // processes
    read = [labels(StreamPart(stream(), process, processes), 2 * each) for process in range(processes)]
    for first in (0, each):
        assert sorted(label for part in read for label in part[first : first + each]) == list(range(ROWS))
    assert all(part[:each] != part[each:] for part in read), "a shuffled stream has another order in the next pass"
    shards = {label // 6 for label in labels(StreamPart(stream(shuffled=False), 0, 2), 12)}  # of six rows each
    assert len(shards) == 2


def test_shards_that_cannot_be_divided_are_shared_row_by_row_and_it_is_said() -> None:
    with pytest.warns(UserWarning, match="the 3 shards of the stream cannot be divided among 2 processes"):
        first = labels(StreamPart(stream(shards=3), 0, 2), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # process 0 has said it
        second = labels(StreamPart(stream(shards=3), 1, 2), 12)
        StreamPart(stream(shards=4), 0, 2)
    assert sorted(first + second) == list(range(ROWS))


def test_row_ids_are_different_on_every_process() -> None:
    ids = [row["row_id"] for process in range(2) for row in islice(StreamPart(stream(), process, 2), 12)]
    assert sorted(ids) == list(range(ROWS))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Labels of the rows that are decoded."""
    found: list[int] = []
    read = RowReader.__call__

    def noted(self: RowReader, row: dict[str, Any], row_id: int) -> dict[str, Any]:
        found.append(row["label"])
        return read(self, row, row_id)

    monkeypatch.setattr(RowReader, "__call__", noted)
    return found


@pytest.mark.parametrize("batches", [1, 5, 8])  # of three rows: within a shard, at its end, within the second pass
def test_skipped_batches_are_read_and_not_decoded(decoded: list[int], batches: int) -> None:
    whole = [row["label"] for row in islice(StreamPart(stream(), 1, 2), 30)]
    decoded.clear()
    resumed = list(islice(StreamPart(stream(), 1, 2, skipped_batches=batches, batch_size=3), 30))
    left_out = 3 * batches
    assert [row.get("label") for row in resumed] == [None] * left_out + whole[left_out:]
    assert decoded == whole[left_out:]
    assert collate(resumed[:3])["images"].numel() == 0  # nobody can train on them


@pytest.mark.slow
@pytest.mark.parametrize("batches", [3, 4])
def test_workers_skip_what_they_would_have_read(batches: int) -> None:
    def read(skipped: int) -> list[list[int]]:
        part = StreamPart(stream(), 0, 2, skipped_batches=skipped, batch_size=3)
        loader = DataLoader(part, 3, collate_fn=collate, num_workers=2)
        return [batch["labels"].tolist() if "labels" in batch else [] for batch in islice(loader, 8)]

    whole, resumed = read(0), read(batches)
    assert resumed == [[]] * batches + whole[batches:]
    assert sorted(label for batch in whole[:4] for label in batch) == sorted(
        label for batch in whole[4:] for label in batch
    )


def test_an_empty_stream_ends() -> None:
    def nothing() -> Iterator[dict[str, Any]]:
        yield from ()

    features = datasets.Features({"image": datasets.Array3D((2, 2, 3), "uint8"), "label": datasets.Value("int64")})
    empty = ImageStream(datasets.IterableDataset.from_generator(nothing, features=features))
    assert list(StreamPart(empty)) == [] and torch.utils.data.get_worker_info() is None
