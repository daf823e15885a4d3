"""A published table as a specification: models, data, attack and the numbers, with the place where each was read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from ..attacks.settings import IMAGE_ATTACKS, pixels
from ..evaluation.threat_model import ThreatModel
from ..io import parse_yaml, read_yaml
from .values import check_values, with_numbers

PUBLISHED = files(__package__).joinpath("published")
CLEAN = "clean"
MEAN = "mean"  # of all data sets of the table

EXAMPLE = """\
title: Robust CLIPs on two data sets
read: {numbers: "README.md of owner/code at 0a1b2c3, table 1"}
models: {ours: owner/robust-clip}
data: [{name: cifar10}, {name: pets, templates: [pets]}]
threat_model: {preset: quick}
samples: {clean: all, attacked: 1000}
numbers:
  - {model: ours, clean: 70.1, 1/255: 41.3}                   # the mean of all data sets
  - {model: ours, data: pets, clean: 80.2, 1/255: 50.4}
"""


@dataclass(frozen=True, kw_only=True)
class PublishedData:
    """One data set of a published table.

    Args:
        name: its name in the table.
        dataset: a registered benchmark, a Hub id or a folder; the name itself without it.
        split: split that was scored.
        templates: as `hf-mmcoa evaluate --templates` takes them; empty for the benchmark's own prompt.
        threat_model: fields that differ from the table's.
    """

    name: str
    dataset: str = ""
    split: str = "test"
    templates: tuple[str, ...] = ()
    threat_model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PublishedNumber:
    """One number of a published table.

    Args:
        model: name of the model in the table.
        data: name of the data set in the table, or "mean".
        epsilon: radius of the attack as the table writes it, "2/255"; None for clean accuracy.
        percent: the number.
    """

    model: str
    data: str
    epsilon: str | None
    percent: float


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A published table and how it was measured, as far as that could be read.

    Args:
        name: name of the file.
        title: what the table is.
        read: fact -> where it was read.
        models: name in the table -> folder, Hub id or `robust:NAME`.
        base: model that a file of weights given in the place of one of them was trained from.
        data: the data sets that a mean is over.
        threat_model: `preset` and fields of `ThreatModel`, as `hf-mmcoa evaluate --threat_model` takes them.
        samples: "clean" and "attacked" -> number of samples of each data set, or "all".
        decimals: digits after the point of the numbers.
        numbers: the numbers.
        differences: what remains different between the published measurement and ours.
        unknown: what could not be read.
    """

    name: str
    title: str
    read: Mapping[str, str]
    models: Mapping[str, str]
    base: str | None = None
    data: tuple[PublishedData, ...]
    threat_model: Mapping[str, Any]
    samples: Mapping[str, int | str]
    decimals: int = 1
    numbers: tuple[PublishedNumber, ...]
    differences: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def epsilons(self) -> list[str]:
        """Return the radii of the table, each once."""
        return list(dict.fromkeys(one.epsilon for one in self.numbers if one.epsilon is not None))

    def published_samples(self, epsilon: str | None) -> int | None:
        """Return the samples of each data set that numbers are published on; None for all that it has."""
        given = self.samples[CLEAN if epsilon is None else "attacked"]
        return None if given == "all" else int(given)

    def data_of(self, number: PublishedNumber) -> list[PublishedData]:
        """Return the data sets that a number is measured on."""
        return [one for one in self.data if number.data in (MEAN, one.name)]

    def evaluate_words(self, data: PublishedData, models: Sequence[str], epsilons: Sequence[str]) -> list[str]:
        """Return the options of the `hf-mmcoa evaluate` that measures the table's numbers on a data set.

        Args:
            data: one of `data`.
            models: where the models lie.
            epsilons: radii; none for clean accuracy alone.
        """
        words = ["--model", *models, "--dataset", data.dataset or data.name]
        words += ["--split", data.split] if data.split != "test" else []
        words += ["--attacks", "image" if epsilons else "clean"]
        for name, value in {**self.threat_model, **data.threat_model}.items():
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        words += ["--epsilon", *epsilons] if epsilons else []
        return words + (["--templates", *data.templates] if data.templates else [])


_NO_OPTION = ("candidates", "templates")  # fields of a threat model that are options of another form
_IN_FILES: dict[str, Any] = {
    "read": Mapping[str, str],
    "models": Mapping[str, str],
    "data": list[Any],
    "samples": Mapping[str, int | str],
    "numbers": list[Mapping[str, float | str]],
    "differences": list[str],
    "unknown": list[str],
}


def published_tables() -> list[str]:
    """Return the names of the tables that come with the package."""
    return sorted(each.name.removesuffix(".yaml") for each in PUBLISHED.iterdir() if each.name.endswith(".yaml"))


def read_table(name_or_yaml: str | Path) -> PublishedTable:
    """Read a published table by name, or from a YAML file.

    Raises:
        ValueError: if there is no such table or file, or a field is wrong; the message names it.
    """
    known, path = published_tables(), Path(name_or_yaml)
    if str(name_or_yaml) in known:
        text = PUBLISHED.joinpath(f"{name_or_yaml}.yaml").read_text(encoding="utf-8")
        content = parse_yaml(text, str(name_or_yaml))
    elif path.is_file():
        content = read_yaml(path)
    else:
        raise ValueError(f"{str(name_or_yaml)!r} is no published table ({', '.join(known)}) and no YAML file.")
    try:
        return _table(content, path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name_or_yaml}: {error} For example:\n\n{EXAMPLE}") from error


def _table(content: Any, name: str) -> PublishedTable:
    if not isinstance(content, dict):
        raise ValueError(f"expected `field: value` lines, got {type(content).__name__}.")
    annotations = {**get_type_hints(PublishedTable), **_IN_FILES}
    del annotations["name"]
    check_values(content, annotations, "a published table")
    optional = ("base", "decimals", "differences", "unknown")
    if missing := [each for each in annotations if each not in content and each not in optional]:
        raise ValueError(f"it lacks {', '.join(missing)}.")
    data = tuple(_data(one) for one in content["data"])
    if not data or len({one.name for one in data}) < len(data):
        raise ValueError("`data` needs at least one data set, each once.")
    samples = content["samples"]
    for kind in (CLEAN, "attacked"):
        if (given := samples.get(kind)) != "all" and (not isinstance(given, int) or given < 1):
            raise ValueError(f"`samples` needs a number of at least 1, or all, for {kind}, got {given!r}.")
    threat_model = with_numbers(content["threat_model"])
    for one in data:
        _check_threat_model({**threat_model, **one.threat_model})
    numbers = tuple(number for row in content["numbers"] for number in _numbers(row, content["models"], data))
    if not numbers:
        raise ValueError("`numbers` is empty: a table has at least one number.")
    lists = {key: tuple(content.get(key, ())) for key in ("differences", "unknown")}
    return PublishedTable(
        **{**content, **lists, "name": name, "data": data, "threat_model": threat_model, "numbers": numbers}
    )


def _data(given: Any) -> PublishedData:
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, dict) or "name" not in values:
        raise ValueError(f"`data`: expected a data set's name or `{{name: ...}}`, got {given!r}.")
    check_values(values, get_type_hints(PublishedData), f"data set {values['name']!r}")
    templates = tuple(values.get("templates", ()))
    return PublishedData(**{**values, "templates": templates})


def _check_threat_model(values: Mapping[str, Any]) -> None:
    if "epsilon" in values:
        raise ValueError("`threat_model` holds an epsilon: the numbers have theirs.")
    if without := [name for name, value in values.items() if isinstance(value, bool) or name in _NO_OPTION]:
        raise ValueError(f"`threat_model` holds {', '.join(without)}, which `hf-mmcoa evaluate` has no option for.")
    fields = {name: value for name, value in values.items() if name != "preset"}
    if unknown := [name for name in fields.get("image_attacks", ()) if name not in IMAGE_ATTACKS]:
        raise ValueError(f"`image_attacks`: unknown {', '.join(unknown)}; choose from {', '.join(IMAGE_ATTACKS)}.")
    ThreatModel.preset(values.get("preset", "standard"), **fields)


def _numbers(row: Mapping[str, Any], models: Mapping[str, str], data: Sequence[PublishedData]) -> list[PublishedNumber]:
    model, over = str(row.get("model")), row.get("data", MEAN)
    if model not in models:
        raise ValueError(f"`numbers`: there is no model {model!r}; the table has {', '.join(models)}.")
    if over not in (MEAN, *(one.name for one in data)):
        raise ValueError(f"`numbers`: there is no data set {over!r}; the table has {', '.join(d.name for d in data)}.")
    numbers = []
    for key, percent in row.items():
        if key in ("model", "data"):
            continue
        if key != CLEAN and (not re.fullmatch(r"[\d./]+", key) or not 0 < pixels(key, key) <= 1):
            raise ValueError(f"`numbers`: {key!r} is neither clean nor a radius such as 4/255.")
        if not isinstance(percent, (int, float)) or not 0 <= percent <= 100:
            raise ValueError(f"`numbers`: {model}, {key} must be a percentage, got {percent!r}.")
        numbers.append(PublishedNumber(model=model, data=over, epsilon=None if key == CLEAN else key, percent=percent))
    return numbers
