"""Find the files of a data set: in a local folder, in the Hub's cache or on the Hub."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .benchmarks import Benchmark, Source, all_benchmarks
from .hub_files import NoNetworkError, download, list_repository
from .layout import Files, folder_layout, layout_of


def locate(
    row: Benchmark, split: str, data_dir: str | os.PathLike[str] | None, streaming: bool
) -> tuple[Source, str, Files]:
    """Find the files of a row's data set; download them where `data_dir` is None and nothing is streamed.

    Returns:
        The source to read, its root (a folder or an hf:// address), and the files of each of its splits in use.

    Raises:
        ValueError: if the row has no such split.
        FileNotFoundError: if files are missing and cannot be downloaded.
        PermissionError: if the repository is gated and no token with access is set.
    """
    sources = [source for source in row.sources if source.hub_splits(split)]
    if not sources:
        raise ValueError(f"`split`: {row.name} has no split {split!r}; it has {', '.join(_offered(row.sources))}.")
    if data_dir is not None:
        return _locate_in_folder(row, sources, split, Path(data_dir))
    if sources[0] is not row.sources[0]:
        warnings.warn(
            f"{row.name}: {row.sources[0].hub_id} has no split {split!r}; using {sources[0].hub_id} instead.",
            UserWarning,
            stacklevel=3,
        )
    problems: list[str] = []
    cached = False  # once there is known to be no network, the fallbacks are looked for in the cache only
    for source in sources:
        if source.format == "embedded":
            return source, source.hub_id, {}
        globs = [source.files[hub_split] for hub_split in source.hub_splits(split)]
        try:
            if source.format == "idx":
                found = _search([Path(folder) for folder in source.local_dirs], source, split)
                if found is None:
                    raise FileNotFoundError(
                        f"{', '.join(globs)} looked for in {', '.join(source.local_dirs)}; {source.notes}"
                    )
                root, files = found
            elif streaming:
                root = f"hf://datasets/{source.hub_id}" + (f"@{source.revision}" if source.revision else "")
                files = {s: [f"{root}/{source.files[s]}"] for s in source.hub_splits(split)}
            else:
                extra = ["README.md", *([source.names_file] if source.names_file else [])]
                hint = " ".join(f"Open copy: {other.hub_id}." for other in row.sources if not other.gated)
                root = download(source.hub_id, source.revision, [*globs, *extra], source.gated, hint, cached)
                found = _search([Path(root)], source, split)
                if found is None:
                    raise FileNotFoundError(f"{', '.join(globs)} of {source.hub_id}, looked for in {root}")
                files = found[1]
        except FileNotFoundError as error:
            problems.append(str(error))
            cached = isinstance(error, NoNetworkError)
            continue
        if problems:
            warnings.warn(f"{row.name}: using {source.hub_id} instead; {problems[-1]}", UserWarning, stacklevel=3)
        return source, root, files
    raise FileNotFoundError(
        f"{row.name}, split {split!r}: files are missing: " + "; ".join(problems) + ". "
        "Give `data_dir`, a folder with these files laid out as in the repository, or run once with a network."
    )


def _offered(sources: Iterable[Source]) -> list[str]:
    return sorted({split for source in sources for split in (*source.splits, *source.files)})


def _search(folders: Sequence[Path], source: Source, split: str) -> tuple[str, Files] | None:
    """Find the first folder in which every glob of the split matches a file; return it with those files."""
    for folder in folders:
        files = {s: sorted(map(str, folder.glob(source.files[s]))) for s in source.hub_splits(split)}
        if all(files.values()):
            return str(folder), files
    return None


def _locate_in_folder(row: Benchmark, sources: Sequence[Source], split: str, folder: Path) -> tuple[Source, str, Files]:
    for source in sources:
        if source.format == "embedded":
            return source, source.hub_id, {}
        found = _search([folder, folder / source.hub_id, folder / row.name], source, split)
        if found is not None:
            return source, *found
    for candidate in (folder / row.name, folder):  # another layout than the Hub's: class folders, saved data sets, ...
        if not candidate.is_dir():
            continue
        layout, files = folder_layout(candidate)
        named = ((split,), tuple(split.split("+")), *(source.hub_splits(split) for source in sources))
        own = next((parts for parts in named if all(part in files for part in parts)), None)
        if own is not None:
            hub_splits = sources[0].hub_splits(split)
            expected = [sources[0].counts.get(s) for s in hub_splits]
            counts: dict[str, int] = {}
            if len(own) == 1 and None not in expected:
                counts = {own[0]: sum(filter(None, expected))}
            elif len(own) == len(hub_splits):
                counts = {part: rows for part, rows in zip(own, expected, strict=True) if rows is not None}
            splits = {**layout.splits, split: own}
            return replace(layout, splits=splits, counts=counts, licence=sources[0].licence), str(candidate), files
    globs = dict.fromkeys(source.files[s] for source in sources for s in source.hub_splits(split))
    raise FileNotFoundError(
        f"{row.name}, split {split!r}: files are missing. No file matches {' or '.join(globs)} in {folder}, "
        f"{', '.join(str(folder / source.hub_id) for source in sources)} or {folder / row.name}. "
        "Lay `data_dir` out like the repository."
    )


def locate_unregistered(
    name: str, split: str, data_dir: str | os.PathLike[str] | None, streaming: bool
) -> tuple[Source, str, Files]:
    """Find the files of a data set without a row: a folder, or any repository of the Hub.

    Returns:
        As `locate`. The source is made from the names of the files.

    Raises:
        ValueError: if `name` is no benchmark, folder or Hub id, or the data have no such split.
        FileNotFoundError: if the folder or repository does not exist or holds no data, or cannot be downloaded.
        PermissionError: if the repository is gated and no token with access is set.
    """
    folder = Path(name if data_dir is None else data_dir).expanduser()
    if data_dir is not None and (folder / name).is_dir():
        folder = folder / name
    if folder.is_dir():
        layout, files = folder_layout(folder)
        if layout.format == "saved" and not layout.splits:  # saved without the name of its split
            layout, files = replace(layout, splits={split: (split,)}), {split: []}
        return _checked_layout(layout, split, str(folder)), str(folder), files
    if data_dir is not None:
        raise FileNotFoundError(f"`data_dir`: {folder} is not a folder.")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        known = [row.name for row in all_benchmarks()]
        close = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"`name`: {name!r} is no benchmark, no folder and no Hub id (owner/name). {hint}Known: {', '.join(known)}."
        )
    layout, files = layout_of(list_repository(name))
    layout = replace(_checked_layout(layout, split, name), hub_id=name)
    # Class folders are numbered over all splits: a class that one split lacks would otherwise shift its labels.
    wanted = files if layout.format == "imagefolder" else {s: files[s] for s in layout.hub_splits(split)}
    if streaming:
        root = f"hf://datasets/{name}"
        return layout, root, {s: [f"{root}/{path}" for path in paths] for s, paths in wanted.items()}
    patterns = [path for paths in wanted.values() for path in paths]
    root = download(name, None, [*patterns, "README.md", "classnames.txt"], gated=False)
    return layout, root, {s: [str(Path(root) / path) for path in paths] for s, paths in wanted.items()}


def _checked_layout(layout: Source, split: str, where: str) -> Source:
    if not layout.splits:
        raise FileNotFoundError(f"{where} holds no image, parquet, tar, idx or `save_to_disk` files.")
    if not layout.hub_splits(split):
        raise ValueError(f"`split`: {where} has no split {split!r}; it has {', '.join(_offered([layout]))}.")
    return layout
