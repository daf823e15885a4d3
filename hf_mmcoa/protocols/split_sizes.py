"""Find how many rows and classes a split has without a download, and whether every class has enough for its shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.benchmark_info import describe
from ..data.benchmarks import Source, find_benchmark
from ..data.labels import read_labels
from .cell import HELD, HELD_OUT, Cell, Data, split_and_part
from .protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Size:
    """Hold what is known about a split.

    Args:
        rows: number of rows; None if unknown.
        classes: number of classes; 0 if unknown.
        smallest: a number of rows that every class has at least; None if unknown.
        exact: whether some class has no more than `smallest`.
    """

    rows: int | None
    classes: int
    smallest: int | None = None
    exact: bool = False


def first_source(data: Data, split: str) -> Source | None:
    """Return the place that a split of a benchmark is loaded from; None without one."""
    row, (whole, _) = find_benchmark(data.dataset or data.name), split_and_part(split)
    return next((source for source in row.sources if source.hub_splits(whole)), None) if row else None


def split_size(data: Data, split: str) -> Size:
    """Return a split's size from the benchmark's row, or from local files."""
    row, source = find_benchmark(data.dataset or data.name), first_source(data, split)
    if row is not None and source is not None and source.format not in ("idx", "embedded") and not data.data_dir:
        whole, part = split_and_part(split)
        parts = source.hub_splits(whole)
        counts = [source.counts[part] for part in parts if part in source.counts]
        smallest = [source.smallest_class[part] for part in parts if part in source.smallest_class]
        # The smallest classes of two splits need not be the same: their sum is a lower bound.
        rows = sum(counts) if len(counts) == len(parts) else None
        if part is not None:  # how many of each class the draw takes is not known without the labels
            held = None if rows is None else max(1, round(HELD_OUT * rows))
            kept = None if rows is None or held is None else rows - held
            return Size(rows=held if part == HELD else kept, classes=row.num_classes)
        return Size(
            rows=rows,
            classes=row.num_classes,
            smallest=sum(smallest) if smallest else None,
            exact=len(smallest) == len(parts) == 1,
        )
    if row is None and data.data_dir is None:
        return Size(rows=None, classes=0)  # on the Hub: a dry run must not read it
    try:
        dataset = data.load(split)
    except (OSError, ValueError):  # the cells will report it
        return Size(rows=None, classes=0)
    if "label" not in dataset.column_names:  # captions
        return Size(rows=len(dataset), classes=0)
    classes = len(describe(dataset).class_names)
    counted = np.bincount(read_labels(dataset, "label"), minlength=classes)
    smallest_class = int(counted.min()) if classes else None
    return Size(rows=len(dataset), classes=classes, smallest=smallest_class, exact=True)


def shots_lines(protocol: Protocol, cells: Sequence[Cell]) -> list[str]:
    """Return a line for each split that shots are drawn from: whether every class has that many images."""
    wanted: dict[str, tuple[Data, int, bool]] = {}
    for cell in cells:
        if cell.train_on is not None and cell.shots is not None:
            name = f"{cell.train_on.name}/{cell.train_on.train_split}"
            selects = protocol.arguments("unused", cell.method, cell.seed).eval_strategy != "no"
            _, most, held_out = wanted.get(name, (cell.train_on, 0, False))
            wanted[name] = (cell.train_on, max(most, cell.shots), held_out or selects)
    return [
        f"{name}: {_enough(split_size(data, data.train_split), shots, held_out)}"
        for name, (data, shots, held_out) in wanted.items()
    ]


def _enough(size: Size, shots: int, held_out: bool) -> str:
    """Say whether a split has so many images of every class. Held-out rows come from any class."""
    rows = size.rows
    if rows is not None and held_out:
        rows -= max(1, round(HELD_OUT * rows))
    lost = f" after {HELD_OUT:.0%} are held out for model selection" if held_out else ""
    most = rows // size.classes if rows is not None and size.classes else None
    if size.exact and size.smallest is not None:
        most = size.smallest if most is None else min(most, size.smallest)
    if most is not None and most < shots:
        return (
            f"TOO FEW for {shots} shots: {rows:,} images of {size.classes} classes{lost}, and some class has at most "
            f"{most}. Use fewer shots, or join splits: `train_split: train+validation`"
        )
    if size.smallest is not None and size.smallest >= shots and not held_out:
        return f"enough for {shots} shots: every class has {size.smallest:,} images or more"
    if rows is None or not size.classes:
        return f"not known for {shots} shots: the number of images or classes is not"
    return (
        f"not known for {shots} shots: {rows // size.classes:,} images a class on average{lost}, but how many the "
        "smallest class has is not documented"
    )
