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
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict

from ..io import read_text
from .benchmarks import Benchmark, Source
from .hub_files import download
from .labels import read_labels
from .layout import Files
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
    raw = [unicodedata.normalize("NFC", name) for name in raw]
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


def raw_names(feature: Any, column: str, row: Benchmark | None, source: Source, root: str) -> list[str] | None:
    """Return the repository's names by class number, from the first place that has readable ones.

    The places: the column's ClassLabel, the row, the file of names, the README. Names that are numbers are returned if
    there are no others; None means that only the rows hold names, if anything does.
    """
    own = list(feature.names) if isinstance(feature, datasets.ClassLabel) and feature.names else None
    if own and not all(name.isdigit() for name in own):
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
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


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
        everywhere = set(texts) | _words_of_all_splits(source, column, files)
        if None in everywhere:
            raise ValueError(f"row {texts.index(None)} has no label in column {column!r}; filter such rows out first.")
        composed = {text: unicodedata.normalize("NFC", text) for text in everywhere}  # two spellings are one class
        raw = sorted(set(composed.values()))
        numbers = {name: number for number, name in enumerate(raw)}
        return readable_names(raw, row, root), np.array([numbers[composed[text]] for text in texts], dtype=np.int64)
    labels = np.concatenate([read_labels(part, column) for part in parts])
    if source.label_offset and labels.min() >= source.label_offset:  # a 0 means that they count from 0 after all
        labels = labels - source.label_offset
    names = raw_names(feature, column, row, source, root)
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
        names = [str(number) for number in range(int(labels.max()) + 1)]
    return readable_names(names, row, root), labels


def _words_of_all_splits(source: Source, column: str, files: Files) -> set[str]:
    """Read the labels of every split: a class that one split lacks would otherwise shift the numbers of the others."""
    if source.format != "parquet":
        return set()
    return {
        text
        for paths in files.values()
        for path in paths
        if Path(path).is_file() and column in pq.read_schema(path).names
        for text in pq.read_table(path, columns=[column])[column].unique().to_pylist()
    }


def name_differences(names: Sequence[str], row: Benchmark) -> list[str]:
    """Return how the class names differ from those that the row expects, a phrase for each difference."""
    differences = []
    if len(names) != row.num_classes:
        differences.append(f"{len(names)} classes, not {row.num_classes}")
    numbers = [name for name in names if name.isdigit() or name.startswith("unnamed ")]
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
