"""Finished batches on disk, so that an evaluation killed at any moment goes on where it was.

A folder beside the result file: `header.json` says what is evaluated, `texts.json` holds the attacked prompts and
`batch-00007.json` the outcomes of one batch. Every file appears whole, by one `os.replace`. What is in the folder never
depends on how often the run was interrupted or on how many processes filled it.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io import differences, read_json, write_json
from .results import partial_folder


class PartialResults:
    """The folder of one evaluation; without a path nothing is stored and nothing is found.

    Args:
        output: the result file that the evaluation will write, or None.
        header: what is evaluated: equal headers, and only those, may share a folder.
        folder: another folder than that beside `output`.
    """

    def __init__(self, output: str | Path | None, header: Mapping[str, Any], folder: Path | None = None) -> None:
        self.folder = folder or (None if output is None else partial_folder(output))
        self.header: dict[str, Any] = json.loads(json.dumps(header))

    def open(self, overwrite: bool = False) -> None:
        """Create the folder, unless it is there; for the main process, before the others `check`.

        Args:
            overwrite: delete what belongs to another evaluation.
        """
        if self.folder is None:
            return
        found = self._read("header.json")
        if found is None or (overwrite and found != self.header):
            self.remove()  # files without a header belong to nobody knows what
            self.folder.mkdir(parents=True)
            write_json(self.header, self.folder / "header.json")

    def check(self) -> None:
        """Raise ValueError, naming what differs, if the folder belongs to another evaluation."""
        found = self._read("header.json")
        if self.folder is not None and found != self.header:
            raise ValueError(
                f"{self.folder} holds the unfinished evaluation of something else; then and now: "
                f"{'; '.join(header_differences(found or {}, self.header))}. "
                "Finish that one as it was begun, choose another output, or delete the folder."
            )

    def read(self, name: str) -> Any:
        """The content of a finished file, or None; a damaged file is dropped with a warning."""
        return self._read(f"{name}.json")

    def write(self, name: str, value: Any) -> None:
        """Store one finished unit of work."""
        if self.folder is not None:
            write_json(value, self.folder / f"{name}.json")

    def remove(self) -> None:
        """Delete the folder: the result file is complete."""
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)

    def _read(self, file: str) -> Any:
        if self.folder is None or not (path := self.folder / file).exists():
            return None
        try:
            return read_json(path)
        except ValueError:
            warnings.warn(
                f"{path} was cut off or damaged; it is dropped and computed again.", UserWarning, stacklevel=3
            )
            path.unlink(missing_ok=True)
            return None


def header_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two headers, one level deep: single fields of the specification are named."""
    found = []
    for key in dict.fromkeys([*then, *now]):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{difference}" for difference in differences(a, b)]
        elif a != b:
            found.append(f"{key}: {a!r} and {b!r}")
    return found
