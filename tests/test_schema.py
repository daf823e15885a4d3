from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import pytest

from hf_mmcoa.schema import check, check_fields, in_words


class Point(TypedDict):
    x: float
    label: str | None


class Note(TypedDict, total=False):
    text: str


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (1, float),
        (True, bool),
        (None, int | None),
        ("a", Literal["a", "b"]),
        ([1, 2], list[int]),
        (["a"], tuple[str, ...]),
        (("a",), list[str]),
        ({"a": [1.5]}, Mapping[str, list[float]]),
        ("1/255", float | str),
        ({}, Note),
        ({"x": 1, "label": None}, Point),
        (object(), Any),
        (object(), pytest.MonkeyPatch),  # a class that plain data has no form for
    ],
)
def test_what_fits_is_accepted(value: Any, annotation: Any) -> None:
    check(value, annotation, "x")


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "`x` must be a whole number, got True."),
        (1.0, int, "`x` must be a whole number, got 1.0."),
        (False, float, "`x` must be a number, got False."),
        (1, bool, "`x` must be true or false, got 1."),
        (None, str, "`x` must be a text, got None."),
        ("a" * 99, int, f"`x` must be a whole number, got '{59 * 'a'}...."),
        ("c", Literal["a", "b"], "`x` must be one of a, b, got 'c'."),
        (True, Literal[1, 2], "`x` must be one of 1, 2, got True."),
        ([], Literal["a", "b"], "`x` must be one of a, b, got []."),
        ("abc", list[str], "`x` must be a list of texts, got 'abc'."),
        ([1, "b"], tuple[int, ...], "`x[1]` must be a whole number, got 'b'."),
        ([], dict[str, int], "`x` must be a mapping to whole numbers, got []."),
        ({"a": {"b": 1}}, dict[str, dict[str, str]], "`x['a']['b']` must be a text, got 1."),
        ([], float | str | None, "`x` must be a number or text, got []."),
        ({"a": 1}, str | Mapping[str, str], "`x['a']` must be a text, got 1."),
        (5, str | Mapping[str, str], "`x` must be a text or mapping to texts, got 5."),
        ("all", int | Literal["full"] | None, "`x` must be a whole number or 'full', got 'all'."),
        ([{"x": 1}], list[Point], "`x[0]` lacks 'label'."),
        ([{"x": "1", "label": ""}], list[Point], "`x[0]['x']` must be a number, got '1'."),
    ],
)
def test_the_first_part_that_does_not_fit_is_named(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(value, annotation, "x")
    assert str(caught.value) == message


def test_fields_that_are_missing_are_not_checked() -> None:
    check_fields({"a": 1, "other": object()}, {"a": int, "b": str})
    with pytest.raises(ValueError, match="`b` must be a text, got 1"):
        check_fields({"b": 1}, {"a": int, "b": str})


def test_words_of_nested_annotations() -> None:
    assert in_words(list[list[float]] | dict[str, str]) == "a list of lists of numbers or mapping to texts"
