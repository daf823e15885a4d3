"""Shows the fields of `MMCoAConfig` in the API reference: their help is written once, in `field(metadata=...)`."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class FieldHelp(griffe.Extension):
    """A dataclass field's `metadata={"help": ...}` is its docstring, and its `default` its value."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called for every attribute that is read from the source."""
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
