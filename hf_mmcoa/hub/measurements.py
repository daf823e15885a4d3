"""The result files that were measured on a checkpoint, recognised by the fingerprint of its weights.

A card must show numbers of the weights beside it. Every result file carries the fingerprint of the weights that were
measured, so a file that is left over from an earlier training, or was copied from elsewhere, is detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..file_names import PICTURE_FILE, RESULTS_FOLDER, ROBUSTNESS_FILE
from ..report.gallery import gallery_path
from ..report.load import named_path, read_results
from ..report.table import setting_differences
from ..report.task_table import TaskTable
from ..report.task_tables import task_table

_Loaded = tuple[str, Path, dict[str, Any]]  # name of a column, file, result


@dataclass(frozen=True, kw_only=True)
class Section:
    """Results under one threat model on the same samples, by name.

    Args:
        columns: name -> result, in the order in which they were read.
        own: name of the result that was measured on the checkpoint.
    """

    columns: dict[str, dict[str, Any]]
    own: str

    @property
    def result(self) -> dict[str, Any]:
        """Return the checkpoint's own result."""
        return self.columns[self.own]


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The measurements of a checkpoint.

    Args:
        sections: one for each threat model and data set.
        tables: of retrieval and of test-time defences, measured on the checkpoint.
        files: path in the repository -> the file there, for all files that the results come from.
        left_out: a message for each file of the folder that is not used, with the reason.
    """

    sections: list[Section] = field(default_factory=list)
    tables: list[TaskTable] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def measurements(folder: Path, given: Sequence[str | Path], fingerprints: set[str]) -> Measurements:
    """Read the results of a checkpoint, with those that they may be compared with.

    Args:
        folder: the checkpoint's folder; its `robustness.json` and `results/*.json` are read if no files are given.
        given: result files, or "NAME=FILE" to name a column. Each must be usable.
        fingerprints: fingerprints of the checkpoint's weights.

    Raises:
        FileNotFoundError: if a given file is missing.
        ValueError: if a given file is no result, or holds neither a result on these weights nor one that is comparable
            to such a result.
    """
    loaded: list[_Loaded] = []
    left_out: list[str] = []
    tables: dict[Path, TaskTable] = {}
    for one in given or sorted(folder.glob(ROBUSTNESS_FILE)) + sorted((folder / RESULTS_FOLDER).glob("*.json")):
        name, file = named_path(one)
        if file.name.endswith(".gallery.json"):
            continue
        try:
            if (found_table := task_table(file, name)) is not None:
                weights, table = found_table
                if weights not in fingerprints:
                    raise ValueError(f"{file} was measured on other weights than those in {folder}.")
                tables[file] = table
                continue
            found = read_results(file)
        except (ValueError, OSError) as error:
            if given:
                raise
            left_out.append(str(error))
            continue
        known = [result for _, _, result in loaded]  # robustness.json repeats results/before.json
        loaded += [
            (" ".join(filter(None, (name, key))), file, result) for key, result in found.items() if result not in known
        ]
    sections = [section for group in _groups(loaded) if (section := _section(group, fingerprints))]
    used = [result for section in sections for result in section.columns.values()]
    files = {_place(folder, file): file for file in tables}
    for file in dict.fromkeys(file for _, file, _ in loaded):
        if any(result in used for _, source, result in loaded if source == file):
            place = _place(folder, file)
            if files.setdefault(place, file) != file:
                raise ValueError(f"{files[place]} and {file} would both be {place} in the repository: rename one.")
            if (gallery := gallery_path(file)).is_file():
                files[gallery_path(place).as_posix()] = gallery
            if place == ROBUSTNESS_FILE and (picture := file.with_name(PICTURE_FILE)).is_file():
                files[PICTURE_FILE] = picture
            continue
        problem = f"{file} was measured on other weights than those in {folder}"
        if given:
            raise ValueError(
                f"{problem}: no fingerprint in it is {' or '.join(sorted(fingerprints))}. Measure these weights with "
                f"`hf-mmcoa evaluate --model {folder}`."
            )
        left_out.append(f"{problem}: it is left out.")
    return Measurements(sections=sections, tables=list(tables.values()), files=files, left_out=left_out)


def _groups(loaded: Sequence[_Loaded]) -> list[list[tuple[str, dict[str, Any]]]]:
    groups: list[list[tuple[str, dict[str, Any]]]] = []
    for name, _, result in loaded:
        group = next((group for group in groups if not setting_differences(group[0][1], result)), None)
        if group is None:
            groups.append(group := [])
        group.append((name, result))
    return groups


def _section(group: Sequence[tuple[str, dict[str, Any]]], fingerprints: set[str]) -> Section | None:
    """Return the results of one setting as a section, or None if none was measured on the checkpoint."""
    columns: dict[str, dict[str, Any]] = {}
    own = None
    for name, result in group:
        is_own = result.get("fingerprints", {}).get("model") in fingerprints
        name = name or ("this checkpoint" if is_own else str(result.get("model", "another model")))
        if name in columns:
            name = f"{name}, seed {result['seed']} ({len(columns) + 1})"
        columns[name] = result
        own = own or (name if is_own else None)
    return None if own is None else Section(columns=columns, own=own)


def _place(folder: Path, file: Path) -> str:
    """Return the path of a result file in the repository: that in the folder, or one in `results/` for other files."""
    inside = file.resolve().is_relative_to(folder.resolve())
    return file.resolve().relative_to(folder.resolve()).as_posix() if inside else f"{RESULTS_FOLDER}/{file.name}"
