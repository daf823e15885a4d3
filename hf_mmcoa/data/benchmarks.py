"""The rows of `benchmarks.yaml`: where each data set lies, its class names and prompts, and how many rows it has.

Adding a data set adds a row there and no code here.
"""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from .columns import AUTO
from .prompts import DEFAULT_TEMPLATE

_Kind = TypeVar("_Kind", "Source", "Benchmark")
Format = Literal["parquet", "webdataset", "imagefolder", "saved", "idx", "embedded"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place that a data set can be loaded from.

    Attributes:
        hub_id: Hub repository, or a word for the place if `format` is "idx" or "embedded".
        revision: commit to load; None follows the main branch.
        config: the repository's configuration that `files` belong to; for the record only.
        format: how the files are read.
        files: the repository's own split names to globs; only files that match the globs of the splits in use are
            downloaded.
        splits: our split names to the repository's; several are concatenated.
        counts: number of rows of the repository's splits, checked on load; a split that is absent is not checked.
        smallest_class: number of rows of the smallest class in the repository's splits, where it is documented; the dry
            run of a protocol checks few-shot draws by it.
        image_column, label_column: names of the columns; "auto" takes the usual names.
        names_file: text file at the top of the repository whose line i is the name of class i.
        names_column: column that holds each row's class name, where the label column has no names.
        label_offset: number of the first class in the repository.
        size_mb: size of the whole repository or configuration in megabytes; None if unknown.
        licence: licence of the data.
        gated: whether the terms must be accepted on the Hub first.
        local_dirs: folders searched before any download when no `data_dir` is given.
        notes: anything else to know; "unverified" marks what was not checked in the repository itself.
    """

    hub_id: str
    revision: str | None = None
    config: str | None = None
    format: Format = "parquet"
    files: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, int] = field(default_factory=dict)
    smallest_class: Mapping[str, int] = field(default_factory=dict)
    image_column: str = AUTO
    label_column: str = AUTO
    names_file: str | None = None
    names_column: str | None = None
    label_offset: int = 0
    size_mb: float | None = None
    licence: str = "unknown"
    gated: bool = False
    local_dirs: tuple[str, ...] = ()
    notes: str = ""

    def hub_splits(self, split: str) -> tuple[str, ...]:
        """Return the repository's splits behind `split`, one of our names or of its own, or several joined by `+`.

        Empty if it lacks one of them, or if two of them share rows.
        """
        own = {hub_split for hub_splits in self.splits.values() for hub_split in hub_splits} | set(self.files)
        found = [self.splits.get(part) or ((part,) if part in own else ()) for part in split.split("+")]
        joined = tuple(hub_split for part in found for hub_split in part)
        return joined if all(found) and len(set(joined)) == len(joined) else ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set: where it comes from and what the paper says about it.

    Attributes:
        name: the name that `load_benchmark` takes.
        sources: first choice, then fallbacks, which are used with a warning when the first is gone.
        num_classes: number of classes, checked on load.
        template: the paper's prompt.
        ensemble: key of `templates.json`, which holds OpenAI's prompt ensembles; None for no ensemble.
        perturb_at: "native" or "model", the size at which the attack budget applies (docs/methods.md, section 3).
        class_names: names by class number, for data without readable names.
        expected_names: all class names after the clean-up, in any order, checked on load; empty if not all are known.
        includes_names: class names after the clean-up that must be among the classes, checked on load.
        rename: the repository's names to better ones.
        replace: pairs of a regular expression and its replacement, applied to the repository's names before the
            clean-up.
        by_index: class names by class number, for classes to which the repository gives the same name. Used only when
            the number of classes is as expected.
        first_synonym: keep the part of each name before the first comma.
        notes: where the row departs from the paper, or the repository from what one would expect.
    """

    name: str
    sources: tuple[Source, ...]
    num_classes: int
    template: str = DEFAULT_TEMPLATE
    ensemble: str | None = None
    perturb_at: Literal["native", "model"] = "model"
    class_names: tuple[str, ...] = ()
    expected_names: tuple[str, ...] = ()
    includes_names: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    replace: tuple[tuple[str, str], ...] = ()
    by_index: Mapping[int, str] = field(default_factory=dict)
    first_synonym: bool = False
    notes: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt ensemble, at least one template."""
        return (self.template,) if self.ensemble is None else tuple(ensembles()[self.ensemble])


@functools.cache
def ensembles() -> dict[str, list[str]]:
    """Read `templates.json`: the prompt ensembles of OpenAI's CLIP as CLIP_benchmark 1.6.2 (MIT) lists them."""
    return json.loads((resources.files(__package__) / "templates.json").read_text(encoding="utf-8"))


def parse_benchmarks(text: str) -> tuple[Benchmark, ...]:
    """Parse the rows of a text like `benchmarks.yaml`.

    Raises:
        ValueError: naming the row and the field, if a field is unknown, missing or of the wrong type.
    """
    return tuple(map(_benchmark, yaml.safe_load(text)))


_TYPES = {kind: typing.get_type_hints(kind) for kind in (Source, Benchmark)}


def _benchmark(values: dict[str, Any]) -> Benchmark:
    where = f"benchmark {values.get('name')!r}"
    sources = tuple(
        _build(Source, each, f"{where}, source {each.get('hub_id')!r}") for each in values.pop("sources", ())
    )
    return _build(Benchmark, {**values, "sources": sources} if sources else values, where)


def _build(kind: type[_Kind], values: Mapping[str, Any], where: str) -> _Kind:
    known = {each.name: each for each in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(known)}.")
    required = [name for name, each in known.items() if each.default is each.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: the field {missing[0]!r} is missing.")
    frozen = {name: _frozen(value) for name, value in values.items()}
    for name, value in frozen.items():
        if not _fits(value, _TYPES[kind][name]):
            raise ValueError(f"{where}: the field {name!r} is {values[name]!r}, not of type {known[name].type}.")
    return kind(**frozen)


def _frozen(value: Any) -> Any:
    """Return `value` with tuples in place of its lists."""
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _fits(value: Any, wanted: Any) -> bool:
    """Return whether `value` is of the type `wanted`, one of those that the fields above have."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return value in inner
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in inner)
    if origin is tuple:
        same = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(same) and all(map(_fits, value, same))
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if wanted is float:
        return type(value) in (int, float)
    return type(value) is wanted  # a bool is an int to `isinstance`


@functools.cache
def all_benchmarks() -> tuple[Benchmark, ...]:
    """Read `benchmarks.yaml`, once: that takes some 30 milliseconds."""
    return parse_benchmarks((resources.files(__package__) / "benchmarks.yaml").read_text(encoding="utf-8"))


BENCHMARKS: tuple[Benchmark, ...]  # read on first use, by `__getattr__`


def find_benchmark(name: str) -> Benchmark | None:
    """Return the row of that name or Hub id, or None if no row has it.

    Case, `-`, `_` and spaces do not count in names: CIFAR-10 is cifar10. Found by the Hub id of one of its sources, the
    row has that source only.
    """

    def key(text: str) -> str:
        return re.sub(r"[-_ ]", "", text.lower())

    for row in all_benchmarks():
        if key(row.name) == key(name):
            return row
        for source in row.sources:
            if source.hub_id == name:
                return replace(row, sources=(source,))
    return None


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "BENCHMARKS":
            return all_benchmarks()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
