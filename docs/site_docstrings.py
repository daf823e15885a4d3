"""Reads the package's docstrings for the API reference as they are meant, where griffe reads them otherwise."""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class AsMeant(griffe.Extension):
    """Fields of `MMCoAConfig` with their help, arguments that share a description, and examples as code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for everything that is read from the source."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)  # else it is prose
            obj.docstring.value = SHARED.sub(_one_by_one, text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """A dataclass field's `metadata={"help": ...}` is its docstring, and its `default` its value."""
        if attr.docstring is not None or not str(attr.value).startswith("field("):
            return
        call = ast.parse(str(attr.value), mode="eval").body
        assert isinstance(call, ast.Call)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        metadata = given.get("metadata")
        if not isinstance(metadata, ast.Dict):
            return
        for key, value in zip(metadata.keys, metadata.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "help":
                attr.docstring = griffe.Docstring(ast.literal_eval(value), parent=attr)
        if "default" in given:
            attr.value = ast.unparse(given["default"])


def _one_by_one(found: re.Match[str]) -> str:
    """`a, b: text` as one line for each."""
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
