"""Format and splits of a folder or repository without a row, recognised from the names of its files."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..io import read_json
from .benchmarks import Format, Source

Files = dict[str, list[str]]  # a repository's own split names to paths or hf:// addresses

_SUFFIXES: tuple[tuple[Format, tuple[str, ...]], ...] = (
    ("webdataset", (".tar",)),
    ("parquet", (".parquet",)),
    ("imagefolder", (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")),
)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # captions or labels of an imagefolder
_WORDS = r"train|training|validation|valid|val|dev|test|testing"
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")
_NUMBER = re.compile(r"(?:(?:^|[-_.])(?:part|shard|chunk))?[-_.]?\d*$")  # at the end of a shard's name
_NAMED = 5  # an error or a warning names this many files


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
    elif parts := _saved_apart(folder):
        splits = {part.name: (part.name,) for part in parts}
        return Source(hub_id="", format="saved", splits=splits), {part.name: [str(part)] for part in parts}
    else:
        layout, files = layout_of(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
        return layout, {s: [str(folder / path) for path in paths] for s, paths in files.items()}
    return Source(hub_id="", format="saved", splits={s: (s,) for s in saved}), {s: [] for s in saved}


def _saved_apart(folder: Path) -> list[Path]:
    """Return the subfolders into which `save_to_disk` wrote one split each."""
    return sorted(
        file.parent for file in folder.glob("[!.]*/state.json") if (file.parent / "dataset_info.json").is_file()
    )


def _saved(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}: `save_to_disk` did not write it.")
    return content


def layout_of(paths: Sequence[str]) -> tuple[Source, Files]:
    """Recognise format and splits from the paths of all files, relative to the folder or repository.

    Hidden files are left out. Once one folder or file is named like a split, the others are splits of their own names,
    or left out with a warning; without any such name, all files are "train".

    Returns:
        A source without a Hub id, and the paths of each split's files.

    Raises:
        ValueError: if folders of pictures cannot be told apart as splits and classes.
    """
    paths = [path for path in paths if not _is_hidden(path)]
    files: Files = {}
    if any("-idx3-ubyte" in path for path in paths):
        for path in paths:
            if "-ubyte" in path:
                files.setdefault("test" if Path(path).name.startswith("t10k") else "train", []).append(path)
        return Source(hub_id="", format="idx", splits={s: (s,) for s in files}), files
    found: dict[Format, list[str]] = {
        kind: [p for p in paths if p.lower().endswith(suffixes) and PurePosixPath(p).name not in METADATA]
        for kind, suffixes in _SUFFIXES
    }
    organised: dict[Format, bool] = {
        "webdataset": _table_splits(found["webdataset"]) is not None,
        "parquet": _table_splits(found["parquet"]) is not None,
        "imagefolder": len({path.rpartition("/")[0] for path in found["imagefolder"]}) > 1,
    }
    # A loose table beside class folders is none of the data, and a loose picture beside tables illustrates them.
    kinds = [kind for kind in found if found[kind]] or ["parquet"]
    chosen: Format = next((kind for kind in kinds if organised[kind]), kinds[0])
    others = [kind for kind in found if kind != chosen and (organised[kind] or kind != "imagefolder")]
    left_out = [path for kind in others for path in found[kind]]
    data = found[chosen]
    if chosen == "imagefolder":
        files, loose = _picture_splits(data + [path for path in paths if PurePosixPath(path).name in METADATA])
        left_out += loose
        _check_depths(files)
    else:
        files = _table_splits(data) or ({"train": data} if data else {})
    _warn_of_left_out(left_out)
    return Source(hub_id="", format=chosen, splits={s: (s,) for s in files}), files


def splits_with_classes(files: Files, split: str) -> Files:
    """Return the splits whose classes are numbered together: those with a usual name, and the one asked for.

    A class that one of them lacks would otherwise shift the numbers of the others. A further folder must not add its
    classes to them.
    """
    return {name: paths for name, paths in files.items() if name == split or _is_exact(name)}


def have_class_folders(files: Files) -> bool:
    """Return whether the folders of these splits are classes: pictures lie equally deep, in several folders of a split.

    `datasets` looks at one split at a time, and gives no labels to one whose pictures are all of one class.
    """
    pictures = {name: [path for path in paths if not path.endswith(METADATA)] for name, paths in files.items()}
    if pictures != files:
        return False  # metadata may hold the labels
    folders = {name: {path.rpartition("/")[0] for path in paths} for name, paths in pictures.items()}
    depths = {folder.count("/") for found in folders.values() for folder in found}
    return len(depths) == 1 and any(len(found) > 1 for found in folders.values())


def _split_word(name: str) -> str | None:
    """Return the usual name of a split that `name` is, begins with or ends in: "train" for "cifar10-train".

    Example:
        >>> _split_word("train2017"), _split_word("test_images"), _split_word("training-wheels"), _split_word("contest")
        ('train', 'test', 'training', None)
    """
    found = re.fullmatch(rf"(?:.*[-_. ])?({_WORDS})\d*|({_WORDS})[-_. ].*", name, re.I)
    return None if found is None else (found.group(1) or found.group(2)).lower()


def _is_exact(name: str) -> bool:
    return re.fullmatch(_WORDS, name, re.I) is not None


def _split_names(units: Iterable[str]) -> dict[str, str]:
    """Name the split of each unit, a folder or a file without its number.

    A unit that only begins with or ends in a usual name has that name if no other unit has a claim to it.
    """
    distinct = sorted(set(units))
    claims = Counter(_split_word(unit) for unit in distinct)
    return {
        unit: word if (word := _split_word(unit)) and not _is_exact(unit) and claims[word] == 1 else unit
        for unit in distinct
    }


def _picture_splits(paths: Sequence[str]) -> tuple[Files, list[str]]:
    """Divide pictures and their metadata files into splits; return the splits and what belongs to none.

    Raises:
        ValueError: if several folders hold splits.
    """
    top = _split_folder(paths)
    with_metadata = any(PurePosixPath(path).name in METADATA for path in paths)
    if top is None:
        loose = [] if with_metadata else [path for path in paths if "/" not in path]
        if len(loose) == len(paths):
            return {"train": list(paths)}, []
        return {"train": [path for path in paths if path not in set(loose)]}, loose
    units: Files = {}
    left_out = []
    for path in paths:
        unit, slash, _ = path[len(top) :].partition("/")
        if path.startswith(top) and slash:
            units.setdefault(unit, []).append(path)
        else:
            left_out.append(path)
    depths = {path.count("/") for unit in units if _split_word(unit) for path in units[unit]}
    names = _split_names(units)
    files: Files = {}
    for unit, members in units.items():
        described = any(PurePosixPath(path).name in METADATA for path in members)
        for path in members:
            classed = path.count("/") > top.count("/") + 1 and (_split_word(unit) or path.count("/") in depths)
            if described or classed:
                files.setdefault(names[unit], []).append(path)
            else:
                left_out.append(path)
    if not files:
        raise ValueError(
            f"the splits {', '.join(units)} hold pictures without class folders ({left_out[0]}) and no metadata file. "
            "Put the pictures into a folder for each class, or a `metadata.csv` into each split."
        )
    return files, left_out


def _split_folder(paths: Sequence[str]) -> str | None:
    """Return the folder whose subfolders are splits, with a slash unless it is the top; None if there is none.

    A class may be called "train": a split holds class folders or a metadata file, or lies beside another split.
    """
    children: dict[str, dict[str, bool]] = {}
    for path in paths:
        parts = path.split("/")
        for depth, child in enumerate(parts[:-1]):
            deep = len(parts) > depth + 2 or parts[-1] in METADATA
            siblings = children.setdefault("".join(f"{part}/" for part in parts[:depth]), {})
            siblings[child] = siblings.get(child, False) or deep

    def holds_splits(folder: str) -> bool:
        exact = [child for child in children[folder] if _is_exact(child)]
        return (
            any(deep and _split_word(child) for child, deep in children[folder].items())
            or len({_split_word(child) for child in exact}) > 1
            or (folder == "" and len(exact) == len(children[folder]))
        )

    found = [folder for folder in children if holds_splits(folder)]
    shallowest = [folder for folder in found if folder.count("/") == min(each.count("/") for each in found)]
    if len(shallowest) > 1:
        raise ValueError(
            f"several folders hold splits: {', '.join(each[:-1] for each in shallowest[:_NAMED])}. Name one of them as "
            "the data set, or lay the pictures out as split/class/picture."
        )
    return shallowest[0] if shallowest else None


def _table_splits(paths: Sequence[str]) -> Files | None:
    """Divide tables or tars into splits by their names or folders; None if no name says one."""
    units: dict[str, str] = {}
    by_folder = False
    for path in paths:
        *folders, file = path.split("/")
        shard = _SHARD.fullmatch(file)
        stem = shard.group(1) if shard else _NUMBER.sub("", file[: file.rindex(".")])
        exact = [name for name in (stem, *reversed(folders)) if _is_exact(name)]
        close = [name for name in (stem, *reversed(folders)) if _split_word(name)]
        unit = next(iter(exact or close), stem if shard else "")
        units[path] = unit
        by_folder = by_folder or (bool(unit) and unit != stem)
    if not any(units.values()):
        return None
    for path in (path for path in paths if not units[path]):
        *folders, file = path.split("/")
        stem = _NUMBER.sub("", file[: file.rindex(".")])
        units[path] = folders[-1] if folders and (by_folder or not stem) else stem or file
    names = _split_names(units.values())
    files: Files = {}
    for path in paths:
        files.setdefault(names[units[path]], []).append(path)
    return files


def _check_depths(files: Files) -> None:
    """Raise ValueError if class folders lie at differing depths: which folder names the class is not clear then."""
    paths = [path for members in files.values() for path in members]
    if any(PurePosixPath(path).name in METADATA for path in paths):
        return
    first = {path.count("/"): path for path in reversed(paths)}
    if len(first) > 1:
        shallow, deep = first[min(first)], first[max(first)]
        raise ValueError(
            f"pictures lie at differing depths: {shallow} and {deep}. A picture's class is the folder that holds it, "
            "so put all pictures of a class directly into its folder, or write a `metadata.csv`."
        )


def _warn_of_left_out(paths: Sequence[str]) -> None:
    if paths:
        rest = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        warnings.warn(
            f"{len(paths)} files belong to no split and are left out: {', '.join(paths[:_NAMED])}{rest}. Move them "
            "into the folder of a split and class, or elsewhere, to silence this.",
            UserWarning,
            stacklevel=5,
        )


def _is_hidden(path: str) -> bool:
    """Return whether a file is one that programs leave behind: `._0.png`, `.ipynb_checkpoints/`, `__MACOSX/`."""
    *folders, file = path.split("/")
    return file.startswith(".") or any(folder.startswith((".", "__")) for folder in folders)
