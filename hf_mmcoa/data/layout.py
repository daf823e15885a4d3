"""Format and splits of a folder or repository without a row, recognised from the names of its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..io import read_json
from .benchmarks import Format, Source

Files = dict[str, list[str]]  # a repository's own split names to paths or hf:// addresses

_SUFFIXES: tuple[tuple[Format, tuple[str, ...]], ...] = (
    ("webdataset", (".tar",)),
    ("parquet", (".parquet",)),
    ("imagefolder", (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")),
)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # captions beside the images of an imagefolder
_SPLIT_WORD = r"(?:train|training|validation|valid|val|dev|test|testing)"
_SHARD = re.compile(r"([^/-]+)-\d{5}-of-\d{5}[^/]*$")


def folder_layout(folder: Path) -> tuple[Source, Files]:
    """Recognise the layout of a local folder.

    Returns:
        The folder as a source without a Hub id, and the absolute paths of each split's files. A data set saved without
        the name of its split has no splits.

    Raises:
        ValueError: if the files of `save_to_disk` do not hold what it writes.
    """
    if (folder / "dataset_dict.json").is_file():
        saved = _saved(folder / "dataset_dict.json").get("splits")
        if not isinstance(saved, list) or not all(isinstance(each, str) for each in saved):
            raise ValueError(f"{folder / 'dataset_dict.json'}: `splits` is {saved!r}, not a list of names.")
    elif (folder / "state.json").is_file():
        own = _saved(folder / "state.json").get("_split")
        saved = [str(own)] if own else []
    else:
        layout, files = layout_of(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
        return layout, {s: [str(folder / path) for path in paths] for s, paths in files.items()}
    return Source(hub_id="", format="saved", splits={s: (s,) for s in saved}), {s: [] for s in saved}


def _saved(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}: `save_to_disk` did not write it.")
    return content


def layout_of(paths: Sequence[str]) -> tuple[Source, Files]:
    """Recognise format and splits from the paths of all files, relative to the folder or repository.

    Returns:
        A source without a Hub id, and the paths of each split's files.
    """
    files: Files = {}
    if any("-idx3-ubyte" in path for path in paths):
        for path in paths:
            if "-ubyte" in path:
                files.setdefault("test" if Path(path).name.startswith("t10k") else "train", []).append(path)
        return Source(hub_id="", format="idx", splits={s: (s,) for s in files}), files
    found = ((kind, [p for p in paths if p.lower().endswith(suffixes)]) for kind, suffixes in _SUFFIXES)
    kind, data = next(((kind, data) for kind, data in found if data), ("parquet", []))
    if kind == "imagefolder":
        data += [path for path in paths if Path(path).name in _METADATA]
        tops = {path.partition("/")[0] if "/" in path else "" for path in data}
        by_split = all(re.fullmatch(_SPLIT_WORD, top, re.I) for top in tops)  # a class may be called "train"
        for path in data:
            files.setdefault(path.partition("/")[0] if by_split else "train", []).append(path)
    else:
        for path in data:
            shard = _SHARD.search(path)
            word = re.search(rf"(?:^|[/_.-])({_SPLIT_WORD})(?=[/_.-])", path, re.I)
            files.setdefault(shard.group(1) if shard else word.group(1) if word else "train", []).append(path)
    return Source(hub_id="", format=kind, splits={s: (s,) for s in files}), files
