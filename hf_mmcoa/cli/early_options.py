"""The options of `hf-mmcoa train`, read from source: a wrong one is reported without importing torch.

`TrainingArguments` takes seconds to import. Its fields, and those of our configuration, stand in files to be read.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..attacks.settings import AttackSettings
from ..protocols.run_arguments import RunArguments

_FILES = (("transformers", "training_args.py"), ("hf_mmcoa", "config.py"))
_NUMBERS: Mapping[str, type[int] | type[float]] = MappingProxyType(
    {"int": int, "int | None": int, "float": float, "float | None": float}
)


def mistyped(argv: Sequence[str]) -> str | None:
    """Return what to say of words that are no option, or None if all may be: argparse takes beginnings of names too.

    Args:
        argv: the words after `hf-mmcoa train`.
    """
    words = argv[: argv.index("--")] if "--" in argv else argv
    names = [word.removeprefix("--").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    known = option_names()
    wrong = [name for name in names if not any(one.startswith(name.removeprefix("no_")) for one in known)]
    return unknown_options(wrong, known) if known and wrong else None


def unknown_options(names: Sequence[str], known: Collection[str]) -> str:
    """Return a message that names unknown options with the nearest known ones."""
    nearest = {name: difflib.get_close_matches(name, known, 1) for name in names}
    return "unknown options " + ", ".join(
        f"{name} (did you mean {found[0]}?)" if found else name for name, found in nearest.items()
    )


def option_names() -> list[str]:
    """Return all names without the `no_` of switches, and more that are none; no name if a file cannot be read."""
    types = _types()
    return sorted({"config", "help", *types}) if types else []


def no_number(argv: Sequence[str]) -> str | None:
    """Return what to say of the first option whose value is not the number that it wants, or None.

    Args:
        argv: the words after `hf-mmcoa train`. Abbreviated options are left to argparse.
    """
    types = _types()
    for name, value in _values(argv).items():
        if number := _NUMBERS.get(types.get(name, "")):
            try:
                number(value)
            except ValueError:
                return f"argument --{name}: invalid {number.__name__} value: {value!r}"
    return None


def check_attack_settings(argv: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise a ValueError for an attack setting out of range, as the configuration would.

    Args:
        argv: the words after `hf-mmcoa train`, whose numbers are numbers.
        given: options of the `--config` file, which those of the command line override.
    """
    types = {each.name: str(each.type) for each in dataclasses.fields(AttackSettings)}
    # Switches may stand without a value, and `candidates` may be a table's name too.
    known = {name: kind for name, kind in types.items() if kind != "bool" and name != "candidates"}
    ours = {name: _NUMBERS.get(known[name], str)(value) for name, value in _values(argv).items() if name in known}
    others = {name: value for name, value in given.items() if name in known}
    try:
        AttackSettings(**others)
    except ValueError:
        return  # the file is at fault, and is named later
    AttackSettings(**others | ours)


def _values(argv: Sequence[str]) -> dict[str, str]:
    """Return the values of options that are given as `--name value` or `--name=value`; the last of each counts."""
    found: dict[str, str] = {}
    for word, following in pairwise([*argv, "--"]):
        if word == "--":
            break
        if word.startswith("--"):
            name, separator, value = word.removeprefix("--").partition("=")
            if separator or not following.startswith("--"):
                found[name.replace("-", "_")] = value if separator else following
    return found


@cache
def _types() -> Mapping[str, str]:
    """Return what is written behind the name of each option, such as "int | None"; nothing if a file cannot be read."""
    ours = [field for each in (AttackSettings, RunArguments) for field in dataclasses.fields(each)]
    types = {field.name: str(field.type) for field in ours}
    for package, file in _FILES:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            return {}
        try:
            tree = ast.parse(Path(found.submodule_search_locations[0], file).read_text(encoding="utf-8"))
        except (OSError, SyntaxError):
            return {}
        for each in ast.walk(tree):
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                types.setdefault(each.target.id, ast.unparse(each.annotation))
    return types
