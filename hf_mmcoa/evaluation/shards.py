"""An evaluation in jobs that know nothing of each other: each computes every n-th batch, and one merges them.

A job keeps its batches in a folder of its own, as an interrupted evaluation keeps its own. To merge means to put all of
them where an interrupted evaluation has them, and to go on: the file is the one that a single job would have written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .partial import PartialResults, header_differences
from .results import partial_folder

MERGE = "merge"


@dataclass(frozen=True)
class Shard:
    """Stand for a part of an evaluation, or for the merging of all parts.

    Args:
        number: from 1 to `count`; None merges.
        count: of the parts.
    """

    number: int | None
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Return what "3/8" (the third of eight) or "merge/8" stands for.

        Raises:
            ValueError: if it stands for nothing.
        """
        found = re.fullmatch(rf"({MERGE}|[0-9]+)/([0-9]+)", text.strip())
        if found:
            number, count = (None if part == MERGE else int(part) for part in found.groups())
            if count and (number is None or 1 <= number <= count):
                return cls(number, count)
        raise ValueError(
            f'`shard` is a part and how many there are, from "1/8" to "8/8", and then "merge/8", got {text!r}.'
        )

    def __str__(self) -> str:
        return f"{self.number or MERGE}/{self.count}"

    def batches(self, num_batches: int) -> range:
        """Return the batches of a part; all of them where parts are merged."""
        return range(num_batches) if self.number is None else range(self.number - 1, num_batches, self.count)

    def partial(self, output: str | Path, header: Mapping[str, Any], number: int | None = None) -> PartialResults:
        """Return what is stored of this part, or of another."""
        name = f"{Path(output).name}.shard-{number or self.number}-of-{self.count}"
        return PartialResults(output, header, partial_folder(output).with_name(name))

    def check(self, output: str | Path, header: Mapping[str, Any], num_batches: int) -> None:
        """Raise ValueError if a part is missing or unfinished, or is of another evaluation, or has other texts."""
        problems, texts = [], None
        for number in range(1, self.count + 1):
            part = self.partial(output, header, number)
            if (found := part.read("header")) is None:
                problems.append(f"{number}/{self.count} is missing")
                continue
            if differing := header_differences(found, part.header):
                problems.append(f"{number}/{self.count} is of another evaluation ({'; '.join(differing)[:300]})")
                continue
            batches = Shard(number, self.count).batches(num_batches)
            if left := [index for index in batches if part.read(batch_name(index)) is None]:
                problems.append(f"{number}/{self.count} lacks {len(left)} of its {len(batches)} batches")
            if texts is not None and part.read("texts") not in (None, texts):
                problems.append(f"{number}/{self.count} attacked other texts than the parts before")
            texts = texts if texts is not None else part.read("texts")
        if problems:
            raise ValueError(
                f"the parts of {output} cannot be merged: {', '.join(problems)}. Give the commands of these parts "
                "again, with the options of the others (and `overwrite` where one is of another evaluation)."
            )

    def fill(self, partial: PartialResults, output: str | Path, num_batches: int) -> None:
        """Store what all parts computed, after `check`, as if one run had been interrupted after its last batch."""
        for number in range(1, self.count + 1):
            part = self.partial(output, partial.header, number)
            partial.write("texts", part.read("texts"))
            for index in Shard(number, self.count).batches(num_batches):
                partial.write(batch_name(index), part.read(batch_name(index)))

    def remove(self, output: str | Path) -> None:
        """Delete the folders of all parts."""
        for number in range(1, self.count + 1):
            self.partial(output, {}, number).remove()


def batch_name(index: int) -> str:
    """Return what the record of a batch is stored as."""
    return f"batch-{index:05d}"
