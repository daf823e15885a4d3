"""The local counterpart of a push: the same files in a folder, and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from ..file_names import CARD_FILE
from ..io import write_bytes


def write_folder(files: Mapping[str, Path | bytes], target: Path, replaced: tuple[str, ...]) -> None:
    """Write files into a folder, each in one step, the card last; files of other kinds that lie there stay.

    Args:
        files: path in the folder -> its content, a file or bytes.
        target: the folder, created if need be.
        replaced: patterns of files that an earlier call may have left, and that are deleted unless they are in `files`.
    """
    there = [path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()]
    for name in there:
        if name not in files and any(fnmatch(name, pattern) for pattern in replaced):
            (target / name).unlink()
    for name in sorted(files, key=lambda name: (name == CARD_FILE, name)):
        content = files[name]
        write_bytes(content if isinstance(content, bytes) else content.read_bytes(), target / name)


def is_path(target: str) -> bool:
    """Return whether the target of a push is written as a path and no repository's id: "./out", "/data/out", "~/out".

    Example:
        >>> is_path("./robust-clip"), is_path("owner/robust-clip")
        (True, False)
    """
    return target.startswith(("/", "./", "../", "~", ".\\")) or target in (".", "..") or target.count("/") > 1
