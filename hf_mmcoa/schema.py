"""Check plain values, as JSON and YAML hold them, against type annotations, and name the first part that does not fit.

The annotations are the schema: those of a dataclass, of a `TypedDict`, or any made of `int`, `float`, `str`, `bool`,
`None`, `Any`, lists, tuples, mappings, `Literal` and unions. No library that is installed anyway reads them as JSON
means them: `huggingface_hub`'s type validator takes True for an integer and no integer for a float, pydantic would be
a large dependency and converts values.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

_LONGEST = 60  # characters of a value in a message
# In words: one, and several.
_SIMPLE: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    type(None): ("nothing", "nothing"),
}


def check(value: Any, annotation: Any, name: str) -> None:
    """Check a value against an annotation.

    An `int` is no bool, a `float` may be a whole number, a tuple may be a list; a class that is none of those above
    accepts anything.

    Args:
        value: the value, of plain data.
        annotation: what it must be, as an object: texts are resolved by `typing.get_type_hints`.
        name: what to call the value in the message.

    Raises:
        ValueError: if the value or a part of it does not fit: the message names the part, what it must be and its
            value.

    Example:
        >>> check({"row_ids": [0, "1"]}, dict[str, list[int]], "result")
        Traceback (most recent call last):
        ValueError: `result['row_ids'][1]` must be a whole number, got '1'.
    """
    for misfit in _misfits(value, annotation, name):
        raise ValueError(misfit)


def check_fields(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Check those of `annotations` that `values` holds, for instance the fields of a dataclass.

    Raises:
        ValueError: as `check`.
    """
    for name, annotation in annotations.items():
        if name in values:
            check(values[name], annotation, name)


def in_words(annotation: Any, several: bool = False) -> str:
    """Return what an annotation accepts, in words.

    Example:
        >>> in_words(float | str | list[int] | None)
        'a number, text or list of whole numbers'
    """
    if annotation in _SIMPLE:
        return _SIMPLE[annotation][several]
    if annotation is Any:
        return "anything"
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else repr(args[0])
    if _is_union(origin):
        first, *others = [in_words(each, several) for each in args if each is not type(None)]
        others = [each.removeprefix("a ") for each in others]
        return " or ".join(filter(None, [", ".join([first, *others[:-1]]), *others[-1:]]))
    if _is_list(origin):
        return ("lists" if several else "a list") + (f" of {in_words(args[0], several=True)}" if args else "")
    if _is_mapping(origin):
        return ("mappings" if several else "a mapping") + (f" to {in_words(args[1], several=True)}" if args else "")
    return getattr(annotation, "__name__", str(annotation))


def _misfits(value: Any, annotation: Any, path: str) -> Iterator[str]:
    """Yield a message for each part that does not fit."""
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    wrong = f"`{path}` must be {in_words(annotation)}, got {short(value)}."
    if _is_union(origin):
        found = [next(_misfits(value, each, path), None) for each in args]
        if None not in found:
            # Of a list where a text or a list of numbers is allowed, the item that is no number.
            yield next((each for each in found if each and not each.startswith(f"`{path}`")), wrong)
    elif origin is Literal:
        if not any(type(value) is type(each) and value == each for each in args):
            yield wrong
    elif is_typeddict(origin):
        if not isinstance(value, Mapping):
            yield wrong
            return
        for key, each in get_type_hints(origin).items():
            if key in value:
                yield from _misfits(value[key], each, f"{path}[{key!r}]")
            elif key in origin.__required_keys__:
                yield f"`{path}` lacks {key!r}."
    elif _is_list(origin):
        if not isinstance(value, (list, tuple)):
            yield wrong
            return
        for index, each in enumerate(value if args else ()):
            yield from _misfits(each, args[0], f"{path}[{index}]")
    elif _is_mapping(origin):
        if not isinstance(value, Mapping):
            yield wrong
            return
        for key, each in value.items() if args else ():
            yield from _misfits(each, args[1], f"{path}[{short(key)}]")
    elif origin in _SIMPLE:
        accepted = (int, float) if origin is float else origin
        if not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool):
            yield wrong


def short(value: Any) -> str:
    """Return a value as Python writes it, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_union(origin: Any) -> bool:
    return origin in (Union, types.UnionType)


def _is_list(origin: Any) -> bool:
    return origin in (list, tuple, Sequence)


def _is_mapping(origin: Any) -> bool:
    return origin in (dict, Mapping) or is_typeddict(origin)
