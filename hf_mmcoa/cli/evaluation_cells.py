"""The cells of one `hf-mmcoa evaluate`: every model on every data set at every epsilon, each with a result file."""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.threat_model import ThreatModel
from .measurement_arguments import threat_model


@dataclass(frozen=True)
class Cell:
    """One evaluation; `output` is its result file, or None."""

    model: str
    dataset: str
    threat_model: ThreatModel = field(hash=False)
    output: str | None

    @property
    def epsilon(self) -> str:
        """Return the radius as people write it: "4/255", or "0.15"."""
        from ..report.conditions import fraction

        return fraction(self.threat_model.pixel_radius)

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}, epsilon {self.epsilon}"


def cells_of(args: argparse.Namespace) -> list[Cell]:
    """Return the cells that the arguments ask for, those of one model in a row.

    With several, or if `--output` is a folder that exists, the files lie in that folder and are called
    MODEL_DATASET_EPSILON.json.

    Raises:
        ValueError: if a model, data set or epsilon is given twice, `--output` is a file for several cells, or the
            threat model is wrong.
    """
    specs = []
    for epsilon in args.epsilon or [None]:
        specs.append(threat_model(argparse.Namespace(**{**vars(args), "epsilon": epsilon})))
    given = {"model": args.model, "dataset": args.dataset, "epsilon": [spec.pixel_radius for spec in specs]}
    for option, values in given.items():
        if twice := [value for value, times in Counter(values).items() if times > 1]:
            raise ValueError(f"`--{option}` names {twice[0]} twice: give each once.")
    chosen = list(itertools.product(args.model, args.dataset, specs))
    folder = Path(args.output) if args.output else None
    if len(chosen) == 1 and (folder is None or not folder.is_dir()):
        return [Cell(*chosen[0], args.output)]
    if folder is not None and not folder.is_dir() and (folder.exists() or folder.suffix == ".json"):
        raise ValueError(f"`--output {folder}` is one file, and there are {len(chosen)} results: name a folder.")
    models, datasets = _names(args.model), _names(args.dataset)
    cells = []
    for model, dataset, spec in chosen:
        cell = Cell(model, dataset, spec, None)
        split = "" if args.split == "test" else f"-{_plain(args.split)}"
        norm = "" if spec.norm == "linf" else f"{spec.norm}-"
        name = f"{models[model]}_{datasets[dataset]}{split}_{norm}eps{cell.epsilon.replace('/', '-')}.json"
        cells.append(Cell(model, dataset, spec, None if folder is None else str(folder / name)))
    if len({cell.output for cell in cells}) < len(cells) and folder is not None:
        raise ValueError("`--epsilon` has values that differ by less than a result's name tells: evaluate them apart.")
    return cells


def _names(given: Sequence[str]) -> dict[str, str]:
    """Return a name for files of each path or Hub id: the last part, and the parts before where these are alike."""
    parts = {one: [_plain(part) for part in Path(one).parts if _plain(part)] for one in given}
    parts = {one: found if not Path(one).exists() else found[-1:] for one, found in parts.items()}
    names = {one: "-".join(found) for one, found in parts.items()}
    alike = {name for name, times in Counter(names.values()).items() if times > 1}
    whole = {one: _plain("-".join(Path(one).absolute().parts)) for one in given}
    return {one: whole[one] if name in alike else name for one, name in names.items()}


def _plain(text: str) -> str:
    """Return text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")


def table_of_cells(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Return a table for a terminal: a row per cell, a column per threat, in percent with the 95% interval."""
    from ..io import printable
    from ..report.table import accuracies, accuracy_estimate, main_columns

    columns = main_columns(accuracies(list(results.values())))
    rows = [["model", "data", "epsilon", *columns.values()]]
    for cell, result in results.items():
        numbers = []
        for name in columns:
            one = accuracy_estimate([result], name) if name in result else None
            numbers.append(f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" if one else "-")
        shown = (Path(cell.model).name, Path(cell.dataset).name, cell.epsilon)
        rows.append([*(" ".join(printable(text).split()) for text in shown), *numbers])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, range(len(row)), strict=True) for row in rows)
    return "\n".join(
        "  ".join(text.ljust(width) if at < 3 else text.rjust(width) for text, width, at in line).rstrip()
        for line in lines
    )
