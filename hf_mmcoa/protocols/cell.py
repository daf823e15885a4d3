"""Name one entry of the table, a cell: its data set, its method, its seed and all settings that affect its result."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.benchmark_info import attach_info, describe
from ..data.load import load_benchmark
from ..io import fingerprint
from .values import candidates_path, field_values, with_numbers

UNTOUCHED = "none"  # the objective of a cell that evaluates the model without training
FULL = "full"  # in YAML and in names: all rows of the training split
KNOWN, UNSEEN, WHOLE = "known", "unseen", "whole"  # the halves of a list of substitutes, and the whole list
HELD_OUT = 0.1  # fraction of a training split held out, for model selection or to choose by
SPLIT_SEED = 0  # for held-out and drawn rows: the same in every cell, whatever its seed and its word split
KEPT, HELD = "kept", "held-out"  # as in "train[held-out]": the parts of a split, drawn once
SET_BY_CELL = ("output_dir", "objective", "seed", "resume_from_checkpoint")  # set by the cell, not by the YAML file


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set of a protocol.

    Args:
        name: name in its cells, and argument of `load_benchmark` unless `dataset` is given.
        dataset: a registered benchmark or a Hub id.
        data_dir: folder with its files, relative to the YAML file; the protocol's when None.
        train_split: split to train on; "train[kept]" is the nine tenths of it that "train[held-out]" leaves.
        test_split: split to evaluate on; nothing is ever selected on it.
        image_column: column of the images, where it has no usual name.
        label_column: column of the labels, likewise.
        text_column: column of the captions, for `task: retrieval`; of data without labels, usual names are found.
        accept_differences: load the data even if counts or names differ from the benchmark's row.
        candidates: source of substitutes for its class words; the protocol's when None.
        made_by: command that creates the folder `name` in `data_dir`, shown where it is missing.
    """

    name: str
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    text_column: str | None = None
    accept_differences: bool = False
    candidates: str | None = None
    made_by: str | None = None

    def load(self, split: str) -> Any:
        """Load one split, or one part of it, by `load_benchmark`.

        Raises:
            FileNotFoundError: if `data_dir` is missing; the message says how to create it.
        """
        whole, part = split_and_part(split)
        if self.made_by is not None and not (folder := Path(self.data_dir or ".", self.name)).is_dir():
            raise FileNotFoundError(f"`data_dir`: there is no folder {folder}. Make it: {self.made_by}")
        dataset = load_benchmark(
            self.dataset or self.name,
            split=whole,
            data_dir=self.data_dir,
            image_column=self.image_column,
            label_column=self.label_column,
            text_column=self.text_column,
            accept_differences=self.accept_differences,
        )
        if part is None:
            return dataset
        kept, held = divided(len(dataset))
        rows = held if part == HELD else kept
        return attach_info(dataset.select(rows), dataclasses.replace(describe(dataset), split=split))

    def settings(self) -> dict[str, Any]:
        """Return what affects a result. File locations do not: results carry a fingerprint of the data."""
        values = dataclasses.asdict(self)
        left_out = ["data_dir", "made_by", "candidates"]
        if self.text_column is None:  # as before there was a choice
            left_out.append("text_column")
        return {key: value for key, value in values.items() if key not in left_out}


def divided(count: int) -> tuple[list[int], list[int]]:
    """Divide the rows of a split into those that are kept and those held out; the draw is the same everywhere."""
    rows = np.random.default_rng(SPLIT_SEED).permutation(count)
    held = max(1, round(HELD_OUT * count))
    return sorted(rows[held:].tolist()), sorted(rows[:held].tolist())


def split_and_part(split: str) -> tuple[str, str | None]:
    """Return a split's name and the part that is meant: "train[kept]" is ("train", "kept"), "test" ("test", None)."""
    found = re.fullmatch(rf"(.+)\[({KEPT}|{HELD})\]", split)
    return (found[1], found[2]) if found else (split, None)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table: an objective and its changes to the protocol's training.

    Args:
        name: name of its row.
        objective: a value of `MMCoAConfig.objective`, or "none" for the model without training.
        settings: fields of `MMCoAConfig` that override the protocol's `training`; `candidates`, the source of
            substitutes that it is trained on; and `substitutes`, "whole" to train on all of them, as MMCoA's release
            does, in place of the known half. They affect its training only: every method is evaluated under the same
            threat model, with the protocol's substitutes.

    Example:
        >>> Method.parse("mmcoa,targets=class")
        Method(name='mmcoa,targets=class', objective='mmcoa', settings={'targets': 'class'})
        >>> Method.parse("mine=mmcoa,lambda_text=0.9").folder
        'mine'
    """

    name: str
    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.search(r"\w", self.name):
            raise ValueError(f"`objectives`: the name {self.name!r} holds no letter or digit.")
        if self.objective == UNTOUCHED and self.settings:
            raise ValueError(f"`objectives`: {self.name!r} is the model as it was given and takes no settings.")
        if ours := sorted(set(self.settings) & set(SET_BY_CELL)):
            raise ValueError(f"`objectives`: {self.name!r} must not set {', '.join(ours)}: the protocol does.")

    @classmethod
    def parse(cls, text: str) -> Method:
        """Parse `OBJECTIVE,FIELD=VALUE,...` or `NAME=OBJECTIVE,FIELD=VALUE,...`, with values in YAML.

        Without a name the whole text is the name.

        Raises:
            ValueError: if a part is no `FIELD=VALUE`.
        """
        first, *others = text.split(",")
        name, named, objective = first.rpartition("=")
        return cls(name=name if named else text, objective=objective, settings=field_values(others, f"{text!r}"))

    @classmethod
    def read(cls, given: Any, folder: Path) -> Method:
        """Read a method as a YAML file has it: a text for `parse`, or `{name: ..., objective: ..., FIELD: VALUE}`.

        Raises:
            ValueError: if it is neither, or names no objective.
        """
        if isinstance(given, str):
            return cls.parse(given)
        if not isinstance(given, dict) or not isinstance(given.get("objective"), str):
            raise ValueError(f"`objectives`: expected an objective or `{{name: ..., objective: ...}}`, got {given!r}.")
        settings = with_numbers({key: value for key, value in given.items() if key not in ("name", "objective")})
        if "candidates" in settings:
            settings["candidates"] = candidates_path(str(settings["candidates"]), folder)
        name = given.get("name", ",".join([given["objective"], *(f"{key}={settings[key]}" for key in settings)]))
        return cls(name=str(name), objective=given["objective"], settings=settings)

    @property
    def folder(self) -> str:
        """Return the name in a form for names of folders."""
        return re.sub(r"[^\w.+-]+", "-", self.name)

    @property
    def trains(self) -> bool:
        """Return whether the method trains a model."""
        return self.objective != UNTOUCHED

    @property
    def training(self) -> dict[str, Any]:
        """Return the fields of `MMCoAConfig` that the method changes."""
        return {key: value for key, value in self.settings.items() if key not in ("candidates", "substitutes")}

    @property
    def candidates(self) -> str | None:
        """Return the source of substitutes that the method is trained on; None for the protocol's."""
        return self.settings.get("candidates")

    @property
    def substitutes(self) -> str:
        """Return the part of its list of substitutes that the method is trained on: "known" or "whole"."""
        return str(self.settings.get("substitutes", KNOWN))

    def to_json(self) -> str | dict[str, Any]:
        """Return the method in the form that `read` takes."""
        if not self.settings and self.name == self.objective:
            return self.name
        return {"name": self.name, "objective": self.objective, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the table.

    Args:
        data: data set that the model is evaluated on.
        train_on: data set that it is trained on; None without training.
        shots: training images per class; None for all, and without training.
        method: method of its row.
        seed: seed of the training, the few-shot draw and the random starts of the attacks.
        settings: everything that affects the result, as JSON.
        word_split: seed of the split of the substitutes into known and unseen ones.
    """

    data: Data
    train_on: Data | None
    shots: int | None
    method: Method
    seed: int
    settings: Mapping[str, Any] = field(repr=False)
    word_split: int = 0

    @property
    def trained_or_measured_on(self) -> Data:
        """Return the data set of the training, or without one that of the measurement."""
        return self.train_on or self.data

    @property
    def name(self) -> str:
        """Return the name of the cell, which is its folder; the first word split is not named in it."""
        drawn = f"seed{self.seed}" + (f"_words{self.word_split}" if self.word_split else "")
        if self.train_on is None:
            return f"{self.data.name}_{self.method.folder}_{drawn}"
        trained = self.train_on.name
        source = trained if trained == self.data.name else f"{trained}-to-{self.data.name}"
        return f"{source}_{shots_name(self.shots)}_{self.method.folder}_{drawn}"

    @property
    def training(self) -> dict[str, Any]:
        """Return all settings that determine the trained model: cells with equal ones share one training.

        The word split is one of them only if the training reads the known words.
        """
        kept = {key: self.settings[key] for key in ("model", "train_on", "shots", "objective", "seed", "training")}
        kept["candidates"] = self.settings.get("train_candidates", self.settings["candidates"])
        kept |= {"substitutes": WHOLE} if "train_substitutes" in self.settings else {}
        return kept | {key: self.settings[key] for key in ("train_word_split",) if key in self.settings}


def shots_name(shots: int | None) -> str:
    """Return "full" or, for instance, "4-shot"."""
    return FULL if shots is None else f"{shots}-shot"


def short_fingerprint(value: Any) -> str:
    """Return 8 hexadecimal digits that distinguish two folders."""
    return fingerprint(value)[:8]
