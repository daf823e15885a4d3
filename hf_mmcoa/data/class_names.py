"""Readable class names, from wherever a repository keeps them, and labels that are numbered in their order."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict

from ..io import read_text
from .benchmarks import Benchmark, Source
from .hub_files import download
from .labels import read_labels
from .layout import METADATA, Files
from .prompts import clean_class_name


def readable_names(raw: Sequence[str], row: Benchmark | None = None, root: str = "") -> list[str]:
    """Return a repository's class names as words.

    Synset ids are looked up, then come the row's replacements and `clean_class_name`. Names stay distinct, as
    ClassLabel needs: where cleaned names collide, the raw names are kept if those differ; otherwise the class number is
    added, with a warning.

    Args:
        raw: the repository's names by class number.
        row: the data set's row, if it has one.
        root: folder that may hold a list of synset ids and words.

    Raises:
        ValueError: if the names are synset ids and one of them is unknown.
    """
    raw = [_composed(name) for name in raw]
    names = _synset_names(raw, root) if all(re.fullmatch(r"n\d{8}", name) for name in raw) else list(raw)
    synonyms = names != list(raw) or (row is not None and row.first_synonym)
    if row is not None:
        names = [row.rename.get(name, name) for name in names]
        for pattern, replacement in row.replace:
            names = [re.sub(pattern, replacement, name) for name in names]
    if synonyms:
        names = [name.split(",")[0] for name in names]
    names = [clean_class_name(name) for name in names]
    if row is not None and len(names) == row.num_classes:
        names = [row.by_index.get(index, name) for index, name in enumerate(names)]
    count = Counter(names)
    names = [original if count[name] > 1 else name for name, original in zip(names, raw, strict=True)]
    count = Counter(names)
    if max(count.values()) > 1:
        repeated = sorted(name for name in count if count[name] > 1)
        warnings.warn(
            f"{len(repeated)} class names stand for several classes: {', '.join(repeated[:5])}. Numbers were added.",
            UserWarning,
            stacklevel=2,
        )
    return [f"{name} {index}" if count[name] > 1 else name for index, name in enumerate(names)]


_SYNSET_LINE = re.compile(r"""(n\d{8})["']?[ \t]*[:,=]?[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^"'\n]+))""")


def _synset_names(raw: Sequence[str], root: str) -> list[str]:
    """Look up WordNet ids in `class_names.json`, then in a list of words in the repository."""
    table = _synsets()
    words = {**table["synsets"], **{old: table["synsets"][new] for old, new in table["homonyms"].items()}}
    unknown = [name for name in raw if name not in words]
    if unknown:
        for file in ("words.txt", "LOC_synset_mapping.txt", "classes.py"):
            path = Path(root) / file
            if path.is_file():  # read as text: a repository's Python is never run
                for synset, *quoted in _SYNSET_LINE.findall(read_text(path)):
                    words.setdefault(synset, next(filter(None, quoted), "").strip())
        unknown = [name for name in raw if not words.get(name)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} classes are WordNet ids without a known name: {', '.join(unknown[:5])}. Put a `words.txt` "
            f"(id, tab, name) into {root or 'the data folder'}."
        )
    return [words[name] for name in raw]


@functools.cache
def _synsets() -> dict[str, dict[str, str]]:
    """Read `class_names.json`: ImageNet-1k's synset ids with their WordNet lemmas, and 18 ids of Tiny-ImageNet that
    ImageNet-1k does not have, each with the id of ImageNet-1k that has the same word."""
    return json.loads((resources.files(__package__) / "class_names.json").read_text(encoding="utf-8"))


def raw_names(own: list[str] | None, column: str, row: Benchmark | None, source: Source, root: str) -> list[str] | None:
    """Return the repository's names by class number, from the first place that has readable ones.

    The places: the labels' own names, the row, the file of names, the README. Names that are numbers are returned if
    there are no others; None means that only the rows hold names, if anything does.

    Args:
        own: names of the column's ClassLabel, or its words; None if it has neither.
        column: the label column.
        row, source, root: the data set's row, if it has one, and where it was read from.
    """
    if own and not _are_numbers(own):
        lines = None if row is not None or root.startswith("hf://") else _names_file(source, root)
        if lines is not None and set(map(_composed, own)) <= set(lines):
            return lines
        if lines is not None:
            warnings.warn(
                f"classnames.txt in {root} is not used: the classes have names of their own ({', '.join(own[:3])}, "
                "...), and some are not in it. Take it away, or list those names in it, one a line.",
                UserWarning,
                stacklevel=2,
            )
        return own
    if row is not None and row.class_names:
        return list(row.class_names)
    lines = _names_file(source, root)
    if lines is not None:
        return lines
    if source.names_column is None and (Path(root) / "README.md").is_file():
        for info in DatasetInfosDict.from_directory(root).values():
            described = (info.features or {}).get(column)
            if isinstance(described, datasets.ClassLabel):
                return list(described.names)
    return own


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def own_names(feature: Any) -> list[str] | None:
    """Return the names of a ClassLabel; None for any other column, and for one without names."""
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) and feature.names else None


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def numbered(own: list[str] | None, names: list[str] | None) -> tuple[list[str] | None, list[int]]:
    """Give each of the labels' own names its class number.

    Names that are numbers follow the numbers, not their spelling: "10" comes after "2".

    Args:
        own: the labels' own names; a label is a place in this list.
        names: `own`, or other names by class number.

    Returns:
        Names by class number, and the class number of each of `own`.

    Raises:
        ValueError: if the numbers fit the names neither from 0 nor from 1.
    """
    if not own or names is None:
        return names, []
    if not _are_numbers(own):
        return names, list(range(len(own))) if names == own else [names.index(_composed(name)) for name in own]
    values = [int(name) for name in own]
    if names == own:
        places = sorted(range(len(own)), key=values.__getitem__)
        return [own[place] for place in places], [places.index(place) for place in range(len(own))]
    lowest, highest = min(values), max(values)
    start = 0 if lowest == 0 and highest < len(names) else 1 if lowest > 0 and highest == len(names) else None
    if start is None or len(set(values)) < len(values):
        raise ValueError(
            f"the classes are numbers from {lowest} to {highest} ({len(values)} of them), and there are {len(names)} "
            f"class names: they count neither from 0 to {len(names) - 1} nor from 1 to {len(names)}. Give "
            "`classnames.txt` one line for each number, or rename the classes to words."
        )
    return names, [value - start for value in values]


def _names_file(source: Source, root: str) -> list[str] | None:
    name = source.names_file or "classnames.txt"
    if root.startswith("hf://"):
        if source.names_file is None:
            return None
        path = Path(download(source.hub_id, source.revision, [name], source.gated)) / name
    else:
        path = Path(root) / name
    if not path.is_file():
        if source.names_file is None or source.format != "webdataset":
            return None
        raise FileNotFoundError(f"{name}, the class names of {source.hub_id}, is missing in {root}.")
    lines = [_composed(line.strip()) for line in read_text(path).strip().splitlines()]
    if "" in lines:
        raise ValueError(
            f"{path}: line {lines.index('') + 1} is empty, and line i names class i. Fill it, or take it out."
        )
    return lines


def names_and_labels(
    parts: Sequence[datasets.Dataset], column: str, row: Benchmark | None, source: Source, root: str, files: Files
) -> tuple[list[str], np.ndarray]:
    """Read the labels of all parts and find the classes' names.

    Args:
        parts: the repository's splits, to be concatenated.
        column: the label column, of integers, booleans or words.
        row, source, root: the data set's row, if it has one, and where it was read from.
        files: paths of the files of each split.

    Returns:
        Readable names by class number, and the labels, int64 (N,), from 0.

    Raises:
        ValueError: if a label is missing or of another type, or a class has two names.
        FileNotFoundError: if the repository's file of names is missing.
    """
    feature = parts[0].features[column]
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        texts = [text for part in parts for text in part.select_columns([column])[column]]
        if None in texts:
            raise ValueError(f"row {texts.index(None)} has no label in column {column!r}; filter such rows out first.")
        everywhere = set(texts) | set(map(str, _values_of_all_splits(source, column, files, root)))
        composed = {text: _composed(text) for text in everywhere}  # two spellings are one class
        if row is None and (unread := sorted(set(source.splits) - set(files))):
            warnings.warn(
                f"the words in column {column!r} are numbered in this split alone: {', '.join(unread)} of "
                f"{source.hub_id or root} is not on the disk. Download the whole repository and give `data_dir`, so "
                "that every split has the same classes.",
                UserWarning,
                stacklevel=4,
            )
        own = sorted(set(composed.values()))
        numbers = {name: number for number, name in enumerate(own)}
        labels = np.array([numbers[composed[text]] for text in texts], dtype=np.int64)
        names, places = numbered(own, raw_names(own, column, row, source, root))
        return readable_names(names or own, row, root), np.array(places)[labels]
    labels = np.concatenate([read_labels(part, column) for part in parts])
    if source.label_offset and labels.min() >= source.label_offset:  # a 0 means that they count from 0 after all
        labels = labels - source.label_offset
    own = own_names(feature) or []
    names, places = numbered(own, raw_names(own, column, row, source, root) or None)
    if own:
        named = (labels >= 0) & (labels < len(own))  # the others are an error of their own: `check_labels`
        labels[named] = np.array(places)[labels[named]]
    if names is not None and not own and row is None:
        everywhere = {*labels.tolist(), *map(int, _values_of_all_splits(source, column, files, root))}
        if min(everywhere) == 1 and max(everywhere) == len(names):  # they count from 1
            labels = labels - 1
    if names is None and source.names_column is not None and source.names_column in parts[0].column_names:
        texts = [text for part in parts for text in part.select_columns([source.names_column])[source.names_column]]
        by_label: dict[int, str] = {}
        for number, text in zip(labels.tolist(), texts, strict=True):
            if by_label.setdefault(number, text) != text:
                raise ValueError(
                    f"column {source.names_column!r} calls class {number} both {by_label[number]!r} and {text!r}."
                )
        size = max(row.num_classes if row is not None else 0, max(by_label) + 1)
        names = [by_label.get(number, f"unnamed {number}") for number in range(size)]
    if names is None:
        everywhere = {*labels.tolist(), *map(int, _values_of_all_splits(source, column, files, root))}
        names = [str(number) for number in range(int(max(everywhere)) + 1)]
    return readable_names(names, row, root), labels


def _values_of_all_splits(source: Source, column: str, files: Files, root: str) -> set[Any]:
    """Read the labels of every split: a class that one split lacks would otherwise shift the numbers of the others.

    Only files on the disk are read, and no tars.
    """
    values: set[Any] = set()
    if source.format == "saved":
        folders = [path for paths in files.values() for path in paths]  # empty where all were saved together
        loaded = [datasets.load_from_disk(folder) for folder in folders or [root]]
        parts = [part for each in loaded for part in (each.values() if isinstance(each, dict) else [each])]
        values.update(value for part in parts if column in part.column_names for value in part.unique(column))
    tables = [Path(path) for paths in files.values() for path in paths if path.endswith((".parquet", *METADATA))]
    for path in (table for table in tables if table.is_file()):
        if path.suffix == ".parquet" and column in pq.read_schema(path).names:
            values.update(pq.read_table(path, columns=[column])[column].unique().to_pylist())
        elif path.suffix != ".parquet":
            table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=False)
            values.update(table[column].dropna().unique().tolist() if column in table else [])
    return values - {None}


def name_differences(names: Sequence[str], row: Benchmark) -> list[str]:
    """Return how the class names differ from those that the row expects, a phrase for each difference."""
    differences = []
    if len(names) != row.num_classes:
        differences.append(f"{len(names)} classes, not {row.num_classes}")
    numbers = [name for name in names if name.isdecimal() or name.startswith("unnamed ")]
    if numbers:
        differences.append(f"{len(numbers)} classes have no name but a number ({', '.join(numbers[:3])})")
    expected = set(row.expected_names) | set(row.includes_names)
    missing = sorted(expected - set(names))
    extra = sorted(set(names) - expected) if row.expected_names else []
    if missing:
        differences.append(f"no class {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
    if extra:
        differences.append(f"unexpected class {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}")
    return differences
