"""Names of a package that are imported when they are first used (PEP 562).

Importing a module imports every package above it. Packages that import torch at once would make `hf-mmcoa --help` take
seconds, so those that the command line passes through use this instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its names when they are first used.

    A submodule is an attribute as well, imported when it is first used. A name must differ from every submodule's:
    importing the submodule would replace it.

    Args:
        package: `__name__` of the package.
        names: the public names by the module that defines them, relative to the package (".pgd": ["PGD"]). The package
            imports the same names under `TYPE_CHECKING`, for type checkers and documentation.
    """
    module_of = {name: module for module, listed in names.items() for name in listed}

    def get(name: str) -> Any:
        if name in module_of:
            value = getattr(import_module(module_of[name], package), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)  # the next use finds it without this function
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return get, list_names
