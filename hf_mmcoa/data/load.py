"""Load a data set: locate its files, read them, name its classes, and compare it with its row."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets

from .benchmark_info import BenchmarkInfo, attach_info
from .benchmarks import Benchmark, Source, find_benchmark
from .class_names import name_differences, names_and_labels, numbered, own_names, raw_names, readable_names
from .columns import AUTO, Columns, resolve_columns
from .few_shot import few_shot_indices
from .labels import check_labels, read_labels
from .layout import Files
from .locate import locate, locate_unregistered
from .prompts import DEFAULT_TEMPLATE
from .read import read_split

_ARRAYS = (datasets.Array2D, datasets.Array3D, datasets.List, datasets.LargeList)


def load_benchmark(
    name: str,
    split: str = "test",
    shots: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    streaming: bool = False,
    accept_differences: bool = False,
) -> Any:
    """Load a data set with columns `image` and `label`, a ClassLabel with readable names.

    A column `text` comes beside them if `text_column` is given, and in place of `label` if the data have captions only.

    Args:
        name: a name of `BENCHMARKS`, a Hub id, or a local folder (class folders, parquet files, webdataset tars, idx
            files, or what `save_to_disk` wrote).
        split: "train", "validation", "test" or "all" where the row has it, or the repository's own name of a split;
            several are joined by `+`: "train+validation".
        shots: number of images to keep of every class, drawn by `seed` (`few_shot_indices`); None keeps all.
        seed: seed of the draw; without `shots` it has no effect.
        data_dir: folder with the repository's files laid out as on the Hub, or a folder of such folders named by Hub id
            or by `name`. Nothing is downloaded then.
        image_column, label_column, text_column: names that override the row's columns, or the usual names for data
            without a row.
        streaming: return an `IterableDataset` that reads as it goes; counts are not checked.
        accept_differences: load data whose counts or names differ from the row. `describe(...).differences` says how.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` with `streaming`. `describe` returns its prompt, ensemble,
        `perturb_at` and the rest.

    Raises:
        ValueError: for an unknown name, split or column, data that differ from the row, labels outside the classes.
        FileNotFoundError: if files are missing and cannot be downloaded; says which, and where they are looked for.
        PermissionError: if the repository is gated and no token with access is set.

    Example:
        >>> from hf_mmcoa.data import describe, load_benchmark
        >>> dataset = load_benchmark("digits", split="test")
        >>> describe(dataset).template
        'This is a photo of a {}'
    """
    if streaming and shots is not None:
        raise ValueError("`shots` needs the whole split: use `streaming=False`.")
    row = find_benchmark(name)
    if row is not None:
        source, root, files = locate(row, split, data_dir, streaming)
    else:
        source, root, files = locate_unregistered(name, split, data_dir, streaming)
    info = BenchmarkInfo(
        name=name if row is None else row.name,
        source=root if data_dir is not None or source.format == "idx" or row is None else source.hub_id,
        revision=None if data_dir is not None else source.revision,
        split=split,
        template=DEFAULT_TEMPLATE if row is None else row.template,
        templates=(DEFAULT_TEMPLATE,) if row is None else row.templates,
        perturb_at="model" if row is None else row.perturb_at,
        licence=source.licence,
    )
    parts = [read_split(source, hub_split, root, files, streaming) for hub_split in source.hub_splits(split)]
    columns = resolve_columns(
        parts[0],
        image_column or source.image_column,
        label_column or source.label_column,
        text_column or (AUTO if row is None else None),
    )
    if columns.label is None and columns.text is None:
        raise ValueError(
            f"{info.source} has neither labels nor texts in a column of a usual name; name one with `label_column` or "
            f"`text_column`. It has {', '.join(parts[0].column_names)}."
        )
    if columns.label is not None and text_column is None:
        columns = columns._replace(text=None)
    if streaming:
        return attach_info(_as_stream(parts, columns, row, source, root), info)
    dataset, differences = _as_dataset(parts, columns, row, source, root, files, split)
    if differences and not accept_differences:
        raise ValueError(
            f"{info.name}, split {split!r}, read from {info.source}, differs from its row: {'; '.join(differences)}. "
            "Pass `accept_differences=True` to use it as it is; the result then says so."
        )
    info = replace(info, differences=tuple(differences))
    if shots is not None:
        if columns.label is None:
            raise ValueError(f"`shots={shots}` needs labels, and {info.source} has captions only.")
        names = dataset.features["label"].names
        row_ids = few_shot_indices(read_labels(dataset, "label"), shots, seed, names)
        dataset = dataset.select(row_ids)
        info = replace(info, shots=shots, seed=seed, row_ids=tuple(row_ids))
    return attach_info(dataset, info)


def _as_dataset(
    parts: Sequence[datasets.Dataset],
    columns: Columns,
    row: Benchmark | None,
    source: Source,
    root: str,
    files: Files,
    split: str,
) -> tuple[datasets.Dataset, list[str]]:
    """Join the parts to one data set with our columns; return it and how it differs from the row."""
    differences = [
        f"{hub_split!r} has {len(part):,} rows, not {source.counts[hub_split]:,}"
        for hub_split, part in zip(source.hub_splits(split), parts, strict=True)
        if len(part) != source.counts.get(hub_split, len(part))
    ]
    if sum(map(len, parts)) == 0:
        raise ValueError(f"split {split!r} of {root} is empty.")
    kept = [name for name in (columns.image, columns.text) if name is not None]
    dataset = datasets.concatenate_datasets([part.select_columns(kept) for part in parts])
    dataset = _with_our_columns(dataset, columns)
    if columns.label is None:
        return dataset, differences
    names, labels = names_and_labels(parts, columns.label, row, source, root, files)
    if row is not None:
        differences += name_differences(names, row)
    elif all(name.isdecimal() for name in names):
        warnings.warn(
            f"class names are numbers ({', '.join(names[:3])}, ...), and so will the prompts' words be. Put a "
            f"`classnames.txt`, one name per line, into {root}.",
            UserWarning,
            stacklevel=4,
        )
    # A new column beside the stored table: a cast of the old one would write every image again.
    dataset = dataset.add_column("label", labels, feature=datasets.ClassLabel(names=names))
    dataset = dataset.select_columns(["image", "label", *(["text"] if columns.text else [])])
    check_labels(dataset, "label", len(names))
    return dataset, differences


def _as_stream(parts: Sequence[Any], columns: Columns, row: Benchmark | None, source: Source, root: str) -> Any:
    """Join streamed parts to one stream with our columns."""
    kept = [name for name in columns if name is not None]
    stream = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(list(parts))
    stream = stream.select_columns(kept)
    if stream.features is None:
        stream = stream._resolve_features()
    if columns.label is None:
        return _with_our_columns(stream, columns)
    own = own_names(stream.features[columns.label])
    raw, places = numbered(own, raw_names(own, columns.label, row, source, root))
    if raw is None or places != list(range(len(places))):
        raise ValueError(
            f"streaming: {source.hub_id or root} keeps its class names in the rows, or numbers its classes in another "
            "order than theirs; use `streaming=False`."
        )
    names = readable_names(raw, row, root)
    # `label_offset` is not needed here: the one repository that counts from 1 keeps its names in the rows.
    stream = _with_our_columns(stream, columns)
    stream = stream.rename_column(columns.label, "label") if columns.label != "label" else stream
    return stream.cast_column("label", datasets.ClassLabel(names=names))


def _with_our_columns(dataset: Any, columns: Columns) -> Any:
    """Rename the image and text columns to `image` and `text`, and let the former hold images, or arrays as before."""
    new_names = {columns.image: "image", columns.text: "text"}
    dataset = dataset.rename_columns({old: new for old, new in new_names.items() if old is not None and old != new})
    if isinstance(dataset.features["image"], (datasets.Image, *_ARRAYS)):
        return dataset  # `from_array` reads arrays; the cast refuses most of them and wraps integers above 255
    return dataset.cast_column("image", datasets.Image())
