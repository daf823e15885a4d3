"""Read and check the fields of a protocol as a YAML file or a command line gives them."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..config import MMCoAConfig
from ..io import parse_yaml
from ..schema import check_fields


def field_values(given: Sequence[str], where: str) -> dict[str, Any]:
    """Return the values of FIELD=VALUE texts, as a YAML file would hold them.

    Args:
        given: the texts.
        where: what to call their source in a message.

    Raises:
        ValueError: if a text has no "=", or a field is given twice.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name or name in values:
            raise ValueError(f"{where}: expected each FIELD=VALUE once, got {one!r}.")
        values[name] = parse_yaml(value, f"{where}: the value of {name}")
    return with_numbers(values)


def with_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with texts such as "1e-3" as numbers: YAML 1.1 reads them as texts, since they have no point."""
    return {
        key: float(value) if isinstance(value, str) and re.fullmatch(r"\d+e[+-]?\d+", value, re.I) else value
        for key, value in values.items()
    }


def candidates_path(given: str, folder: Path) -> str:
    """Return the path, relative to `folder`, of a JSON file of substitutes; the name of a source as it is."""
    return str(folder / given) if given.endswith(".json") else given


def check_values(values: Mapping[str, Any], annotations: Mapping[str, Any], what: str) -> None:
    """Check that `values` holds no other fields than `annotations`, and values of their types.

    Raises:
        ValueError: naming `what` and the field.
    """
    if unknown := sorted(set(values) - set(annotations)):
        nearest = dict.fromkeys(found for name in unknown for found in difflib.get_close_matches(name, annotations, 1))
        meant = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise ValueError(f"{what} has no field {', '.join(unknown)}; it has {', '.join(annotations)}.{meant}")
    _check_fields(values, annotations, what)


def check_training(given: Mapping[str, Any], where: str) -> None:
    """Check the types of training arguments.

    None is left to the configuration, which has defaults for it, and so are choices: its own messages say more.

    Raises:
        ValueError: naming `where` and the field.
    """
    annotations = {
        name: annotation for name, annotation in _training_types().items() if get_origin(annotation) is not Literal
    }
    _check_fields({name: value for name, value in given.items() if value is not None}, annotations, where)


def choices(name: str) -> tuple[str, ...]:
    """Return the values of a `Literal` field of `MMCoAConfig`."""
    return get_args(_training_types()[name])


def _check_fields(values: Mapping[str, Any], annotations: Mapping[str, Any], where: str) -> None:
    try:
        check_fields(values, annotations)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@functools.cache
def _training_types() -> dict[str, Any]:
    # Not the types of the dataclass's fields, which transformers' argument parser overwrites.
    return get_type_hints(MMCoAConfig)
