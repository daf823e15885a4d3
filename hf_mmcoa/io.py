"""Read JSON, YAML and text that may come from anywhere, and write files in one step.

Results, configurations and specifications are passed between people, so a file may be broken or hostile. Reading one
returns plain values or raises one ValueError that names the file and its fault; it never needs gigabytes and prints
nothing that controls a terminal. `docs/security.md` states the guarantees.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 64 * 2**20  # the largest results are galleries, of a few megabytes
MAX_YAML_BYTES = 2**20  # people write these files
MAX_DEPTH = 50  # far below Python's recursion limit, for all code that later walks over a value
MAX_YAML_VALUES = 100_000  # a small file may expand to a huge value by its aliases


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is larger than `max_bytes`, or is not UTF-8.
    """
    with Path(path).open("rb") as file:
        content = file.read(max_bytes + 1)  # its stated size would not do: a device has none
    if len(content) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes / 2**20:g} MB, and no such file needs to be.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text (byte {content[error.start]:#x} at {error.start}): save it as UTF-8."
        ) from error


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file; see `parse_json`.

    Raises:
        OSError: if it cannot be opened.
        ValueError: see `read_text` and `parse_json`; the message names the file.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, name: str) -> Any:
    """Return the value of a JSON text; stricter than `json.loads`.

    Raises:
        ValueError: naming `name`: if it is no JSON, is nested deeper than `MAX_DEPTH`, or holds NaN, infinity, a number
            beyond a float's range or half of a surrogate pair, which is no Unicode.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply.") from None
    except ValueError as error:  # also an integer of thousands of digits
        raise ValueError(f"{name} is no complete JSON file ({error}).") from error
    _check_plain(value, name, len(text))
    return value


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file; see `parse_yaml`.

    Raises:
        OSError: if it cannot be opened.
        ValueError: see `read_text` and `parse_yaml`; the message names the file.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Return the value of a YAML text, read by `yaml.safe_load`, which builds no objects; it must fit into JSON.

    Infinity is accepted, since some training arguments take it; callers that need a finite number check for it.

    Raises:
        ValueError: naming `name`: if it is no YAML, is nested deeper than `MAX_DEPTH` or within itself, stands for more
            than `MAX_YAML_VALUES` values, or holds NaN, a date, bytes, or a key that is no text.
    """
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply.") from None
    except Exception as error:  # beside YAMLError whatever the constructors of numbers, dates and tags raise
        raise ValueError(f"{name} is no YAML ({error}).") from error
    _check_plain(value, name, MAX_YAML_VALUES)
    return value


def printable(text: str) -> str:
    """Return `text` with control characters (but line feed and tab), direction marks and lone surrogates escaped.

    Terminals obey control characters, all viewers obey direction marks, and a lone surrogate cannot be written to a
    file.

    Example:
        >>> printable("cat" + chr(27) + "[2J" + chr(0x202E))
        'cat\\\\x1b[2J\\\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode("ascii") for each in text
    )


def _check_plain(value: Any, name: str, max_values: int) -> None:
    """Raise ValueError unless `value` is made of JSON's types and neither too deep nor too large."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > max_values + 1:
            raise ValueError(f"{name} is nested too deeply or too large: its aliases may refer to each other.")
        if isinstance(each, dict):
            if wrong := [key for key in each if not isinstance(key, str)]:
                raise ValueError(f"{name} holds the key {wrong[0]!r}, which is no text: put it in quotes.")
            waiting += [(key, depth + 1) for key in each]
            waiting += [(one, depth + 1) for one in each.values()]
        elif isinstance(each, list):
            waiting += [(one, depth + 1) for one in each]
        elif isinstance(each, str):
            if not each.isascii():
                _check_unicode(each, name)
        elif isinstance(each, float) and math.isnan(each):
            raise ValueError(f"{name} holds NaN, which is no number.")
        elif each is not None and not isinstance(each, (bool, int, float)):
            raise ValueError(f"{name} holds a {type(each).__name__}, {each!r}: put it in quotes if it is a text.")


def _check_unicode(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds {text!r}, which is no Unicode text.") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:30]} is beyond the range of a number")
    return value


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits of a JSON value's SHA-256, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_bytes(content: bytes, path: str | Path) -> None:
    """Write a file in one step: an interrupted writer leaves the old file, or none, and never a part of the new one.

    Args:
        content: what the file is to hold.
        path: the file; its folder is created if need be.

    Raises:
        OSError: if it cannot be written; the old file is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # in the same folder: a rename across disks is a copy
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch(folder: Path, file: str = "*") -> None:
    """Remove what `write_bytes` left half-written in a folder when its process was killed.

    Args:
        folder: need not exist.
        file: the file that was to be written, or a pattern of `Path.glob`; "**/*" is every file below the folder.
    """
    import psutil

    for scratch in folder.glob(f"{file}.*.tmp"):
        process = scratch.name.split(".")[-2]
        if not process.isdecimal() or not scratch.is_file():
            continue
        # In a container the process before often had the number that this one has, which is not writing now.
        if int(process) == os.getpid() or not psutil.pid_exists(int(process)):
            scratch.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write a UTF-8 text file in one step, and remove what a killed writer of it left; see `write_bytes`."""
    remove_scratch(Path(path).parent, glob.escape(Path(path).name))
    write_bytes(text.encode("utf-8"), path)


def write_json(value: Any, path: str | Path) -> None:
    """Write a JSON file in one step; see `write_bytes`.

    Raises:
        ValueError: if `value` holds NaN or infinity, which JSON has no form for.
    """
    write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", path)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the entries in which two flat dictionaries differ, as texts for an error message."""
    keys = [*one, *(key for key in other if key not in one)]
    return [f"{key}: {one.get(key)!r} and {other.get(key)!r}" for key in keys if one.get(key) != other.get(key)]
