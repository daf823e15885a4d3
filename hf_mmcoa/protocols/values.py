"""Values as a YAML file or a command line gives them, for the fields of a protocol."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..config import MMCoAConfig
from ..io import parse_yaml

# By annotation: what a YAML file may give for a field that has no reader of its own, and in words.
_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "str | None": ((str, type(None)), "a text"),
    "int": (int, "a whole number"),
    "int | None": ((int, type(None)), "a whole number"),
    "bool": (bool, "true or false"),
}


def field_values(given: Sequence[str], where: str) -> dict[str, Any]:
    """FIELD=VALUE texts as a YAML file would hold them.

    Raises:
        ValueError: if one has no "=", or a field is there twice.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name or name in values:
            raise ValueError(f"{where}: expected each FIELD=VALUE once, got {one!r}.")
        values[name] = parse_yaml(value, f"{where}: the value of {name}")
    return _numbers(values)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 1e-3 as text, for it has no point; people mean the number."""
    return {
        key: float(value) if isinstance(value, str) and re.fullmatch(r"\d+e[+-]?\d+", value, re.I) else value
        for key, value in values.items()
    }


def _candidates_path(given: str, folder: Path) -> str:
    return str(folder / given) if given.endswith(".json") else given


def _check_fields(values: Mapping[str, Any], kind: type, what: str) -> None:
    known = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{what} has no field {', '.join(unknown)}; it has {', '.join(known)}.")
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        wanted, words = _TYPES.get(str(each.type), (object, ""))
        value = values.get(each.name, each.default)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool and wanted is not object):
            raise ValueError(f"{what}: `{each.name}` must be {words}, got {value!r}.")


def _check_training(given: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, naming the field, if a number or a switch of the configuration is given as something else."""
    # Not the fields' own types: transformers' argument parser writes into those.
    bases = [vars(base).get("__annotations__", {}) for base in reversed(MMCoAConfig.__mro__)]
    for name, kind in {name: kind for own in bases for name, kind in own.items()}.items():
        annotation = getattr(kind, "__name__", kind)  # transformers annotates with types, we with texts
        wanted, words = {**_TYPES, "float": ((int, float), "a number")}.get(str(annotation), (object, ""))
        value = given.get(name)
        if value is not None and (
            not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (int, float))
        ):
            raise ValueError(f"{where}: `{name}` must be {words}, got {value!r}.")


def _choices(name: str) -> tuple[str, ...]:
    """The values of a `Literal` field of the configuration."""
    return get_args(get_type_hints(MMCoAConfig)[name])
