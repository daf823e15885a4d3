"""The names of the options of `hf-mmcoa train`, read from source: a mistyped one is reported without importing torch.

`TrainingArguments` takes seconds to import. Its fields, and those of our configuration, stand in files to be read.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..attacks.settings import AttackSettings
from ..protocols.run_arguments import RunArguments

_FILES = (("transformers", "training_args.py"), ("hf_mmcoa", "config.py"))


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
    ours = [field.name for each in (AttackSettings, RunArguments) for field in dataclasses.fields(each)]
    names = {"config", "help", *ours}
    for package, file in _FILES:
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            return []
        try:
            tree = ast.parse(Path(found.submodule_search_locations[0], file).read_text(encoding="utf-8"))
        except (OSError, SyntaxError):
            return []
        fields = (each.target for each in ast.walk(tree) if isinstance(each, ast.AnnAssign))
        names |= {target.id for target in fields if isinstance(target, ast.Name)}
    return sorted(names)
