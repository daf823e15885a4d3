"""What one process of a training reads of a stream: its own shards, pass after pass, from any batch on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info

from .rows import ImageStream


class StreamPart(IterableDataset[dict[str, Any]]):
    """Read the rows of a stream that one process of several trains on, again and again; a shuffled one in a new order.

    Every row of the process comes once in each pass. Where shards can be divided among the processes, a process opens
    its own alone; otherwise each reads all rows and decodes its own.

    Args:
        stream: the whole stream.
        process: number of this process.
        processes: how many share the stream.
        skipped_batches: a resumed training has trained on so many. Their rows are read and not decoded, and empty
            images come in their place.
        batch_size: rows of a batch.

    Warns:
        UserWarning: if the shards cannot be divided among the processes.
    """

    def __init__(
        self, stream: ImageStream, process: int = 0, processes: int = 1, skipped_batches: int = 0, batch_size: int = 1
    ) -> None:
        self.skipped_batches, self.batch_size = skipped_batches, batch_size
        self._read, self._process, self._processes = stream.reader, process, processes
        if processes > 1 and stream.rows.num_shards % processes and process == 0:
            warnings.warn(
                f"the {stream.rows.num_shards} shards of the stream cannot be divided among {processes} processes: "
                "each reads all rows and decodes its own. Store it in a multiple of as many files, or train with "
                "another number of processes, to read only what is needed.",
                UserWarning,
                stacklevel=2,
            )
        self._rows = split_dataset_by_node(stream.rows, process, processes) if processes > 1 else stream.rows

    @property
    def num_shards(self) -> int:
        """Return how many shards this process reads; more workers of a loader than that have nothing to do."""
        return int(self._rows.num_shards)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        part, parts = self._process * workers + number, self._processes * workers
        # Workers make batches in turn.
        skipped = self.batch_size * len(range(number, self.skipped_batches, workers))
        for number_of_pass in count():
            rows = copy.deepcopy(self._rows)  # all workers share one epoch number, and are not in the same pass
            rows.set_epoch(number_of_pass)
            place = -1
            for place, row in enumerate(rows):
                if skipped:
                    skipped -= 1
                    yield {"image": torch.empty(3, 0, 0), "row_id": -1}
                else:
                    yield self._read(row, place * parts + part)
            if place < 0:
                return
