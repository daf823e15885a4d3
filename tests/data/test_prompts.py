from __future__ import annotations

import warnings

import pytest

from hf_mmcoa.data.prompts import DEFAULT_TEMPLATE, class_prompts, clean_class_name


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Red_Panda", "red panda"),
        ("polka-dotted", "polka dotted"),
        ("T-shirt/top", "t shirt top"),
        ("  hippeastrum \t bloom ", "hippeastrum bloom"),
        ("a_-_b", "a b"),
        ("São_Tomé", "são tomé"),
    ],
)
def test_clean_class_name(name: str, clean: str) -> None:
    assert clean_class_name(name) == clean


def test_prompts_use_the_papers_template_without_a_full_stop() -> None:
    assert DEFAULT_TEMPLATE == "This is a photo of a {}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert class_prompts(["Red_Panda", "cat"]) == ["This is a photo of a red panda", "This is a photo of a cat"]


def test_names_stay_as_they_are_without_clean_up() -> None:
    assert class_prompts(["F-16A/B"], template="{}!", clean=False) == ["F-16A/B!"]


def test_other_braces_and_percent_signs_are_plain_text() -> None:
    assert class_prompts(["x"], template="{0} 100% {} {c}") == ["{0} 100% x {c}"]


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{c}"])
def test_template_without_exactly_one_place_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        class_prompts(["cat"], template=template)


@pytest.mark.parametrize("names", [[], "cat", ["_-/"]])
def test_no_names_or_empty_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="class_names"):
        class_prompts(names)


def test_collisions_are_named_and_counted_in_one_warning() -> None:
    with pytest.warns(UserWarning) as caught:
        prompts = class_prompts(["Red_Panda", "cat", "red-panda", "dog", "Dog"])
    assert prompts[0] == prompts[2] and len(prompts) == 5
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "3 distinct prompts for 5 classes" in message and "4 classes" in message
    for part in ("'Red_Panda' (0) = 'red-panda' (2)", "'dog' (3) = 'Dog' (4)"):
        assert part in message
    assert "cat" not in message
    assert caught[0].filename == __file__  # points at the caller


def test_many_collisions_name_five_groups_and_count_the_rest() -> None:
    names = [f"class{i}" for i in range(7)] + [f"Class{i}" for i in range(7)]
    with pytest.warns(UserWarning, match="7 distinct prompts for 14 classes.*and 2 more groups"):
        class_prompts(names)


def test_decomposed_names_and_templates_are_composed() -> None:
    assert clean_class_name("Cafe\u0301") == clean_class_name("CAF\u00c9") == "caf\u00e9"
    assert class_prompts(["cafe\u0301"], "pla\u0302t: {}") == ["pl\u00e2t: caf\u00e9"]
    assert class_prompts(["cafe"], "{}\u0301", clean=False) == ["caf\u00e9"], "also where name and template meet"
    with pytest.warns(UserWarning, match="1 distinct prompts for 2 classes"):
        class_prompts(["caf\u00e9", "cafe\u0301"], clean=False)
