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
        """Prepare the docstring of anything that is read from the source."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)  # else it is prose
            obj.docstring.value = SHARED.sub(_one_by_one, text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Take a dataclass field's help as its docstring, and its default as its value."""
        if attr.docstring is not None or not str(attr.value).startswith(("field(", "_setting(")):
            return
        call = ast.parse(str(attr.value), mode="eval").body
        assert isinstance(call, ast.Call)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if str(attr.value).startswith("_setting("):  # of AttackSettings: default, help
            given["default"], help_text = call.args
            attr.docstring = griffe.Docstring(ast.literal_eval(help_text), parent=attr)
        metadata = given.get("metadata")
        if isinstance(metadata, ast.Dict):
            for key, value in zip(metadata.keys, metadata.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help":
                    attr.docstring = griffe.Docstring(ast.literal_eval(value), parent=attr)
        if attr.docstring is not None and "default" in given:
            attr.value = ast.unparse(given["default"])

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Give `MMCoAConfig` the fields that `with_attack_settings` adds, which cannot be read from its source."""
        if pkg.name != "hf_mmcoa":
            return
        config, settings = pkg["config.MMCoAConfig"], pkg["attacks.settings.AttackSettings"]
        changed = next(each for each in config.decorators if "with_attack_settings" in str(each.value))
        call = ast.parse(str(changed.value), mode="eval").body
        assert isinstance(call, ast.Call)
        defaults = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        for name, field in settings.attributes.items():
            if name in config.members or field.docstring is None or "property" in field.labels:
                continue
            config.set_member(name, _copy(field, defaults.get(name, str(field.value))))


def _copy(field: griffe.Attribute, default: str) -> griffe.Attribute:
    """Return a field for another class, with its help and annotation."""
    copy = griffe.Attribute(
        field.name, value=default, annotation=field.annotation, lineno=field.lineno, endlineno=field.endlineno
    )
    copy.labels |= field.labels
    assert field.docstring is not None
    copy.docstring = griffe.Docstring(field.docstring.value, parent=copy)
    return copy


def _one_by_one(found: re.Match[str]) -> str:
    """`a, b: text` as one line for each."""
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
