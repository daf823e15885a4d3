from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from hf_mmcoa.attacks import LevenshteinAttack


@cache
def distance(left: str, right: str) -> int:
    """Levenshtein's recursion, as he wrote it."""
    if not left or not right:
        return len(left) + len(right)
    if left[0] == right[0]:
        return distance(left[1:], right[1:])
    return 1 + min(distance(left[1:], right), distance(left, right[1:]), distance(left[1:], right[1:]))


def encode(texts: list[str]) -> Tensor:
    """Something that every character and its place has a say in."""
    return torch.tensor(
        [
            [sum((at + 1) * ord(letter) ** power for at, letter in enumerate(text)) for power in (1, 0.5)]
            for text in texts
        ]
    )


def moved(text: str, adv_text: str) -> float:
    return (encode([text]) - encode([adv_text])).square().sum().item()


def test_trying_everything_finds_the_worst_of_all_single_edits() -> None:
    alphabet = "xz q"
    text = "cat"
    single = {text[:at] + letter + text[at:] for at in range(4) for letter in alphabet}
    single |= {text[:at] + letter + text[at + 1 :] for at in range(3) for letter in ["", *alphabet]}

    (adv_text,) = LevenshteinAttack(num_samples=None, num_slots=7, alphabet=alphabet)([text], encode)

    assert moved(text, adv_text) == max(moved(text, each) for each in single)
    assert set(LevenshteinAttack(alphabet=alphabet).variants([text])[0]) == single | {text}


@pytest.mark.parametrize("max_edits", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [3, None])
def test_stays_within_the_distance_and_uses_it(max_edits: int, num_samples: int | None) -> None:
    texts = ["a photo", "dog", "x"]

    adv_texts = LevenshteinAttack(max_edits=max_edits, num_samples=num_samples)(texts, encode)

    assert [distance(text, adv_text) for text, adv_text in zip(texts, adv_texts, strict=True)] == [max_edits] * 3


def test_a_blank_finds_the_slot_and_a_character_fills_it() -> None:
    """A blank matters in the second place alone, and "q" there matters more."""

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[{" ": 1.0, "q": 5.0}.get(text[1:2], 0.0)] for text in texts])

    (adv_text,) = LevenshteinAttack(num_samples=None, num_slots=1)(["cat"], encode)

    assert adv_text in ("cqt", "cqat")


def test_slots_and_characters_are_sampled() -> None:
    asked: list[list[str]] = []

    def recorded(texts: list[str]) -> Tensor:
        asked.append(list(texts))
        return encode(texts)

    attack = LevenshteinAttack(num_samples=4)
    first = attack(["a longer text"] * 2 + ["another"], recorded, torch.Generator().manual_seed(1))
    second = attack(["a longer text"] * 2 + ["another"], recorded, torch.Generator().manual_seed(2))

    clean, blanked, edited = asked[:3]
    assert clean == ["a longer text", "another"], "each distinct text once"
    assert len(blanked) == 8 and 6 <= len(edited) <= 8  # a character may leave the text as it is
    assert first[0] == first[1] and first != second


def test_no_new_dictionary_word() -> None:
    free = LevenshteinAttack(num_samples=None, num_slots=9, alphabet="r")
    bound = LevenshteinAttack(num_samples=None, num_slots=9, alphabet="r", dictionary=frozenset({"car", "cat", "rat"}))

    variants = bound.variants(["cat"])[0]

    assert {"car", "rat"} <= set(free.variants(["cat"])[0])
    assert set(free.variants(["cat"])[0]) - set(variants) == {"car", "rat"}
    assert "the cat" in bound.variants(["the cat"])[0], "the text's own words stay allowed"
    assert "the catr" in bound.variants(["the cat"])[0]


def test_keeps_the_text_where_no_edit_moves_it() -> None:
    assert LevenshteinAttack(max_edits=2)(["cat"], lambda texts: torch.ones(len(texts), 2)) == ["cat"]


HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940"


def test_no_edit_parts_a_letter_from_its_marks() -> None:
    """The word is HI N+virama D+II: three letters, each with a mark, and nothing but gaps to edit."""
    (variants,) = LevenshteinAttack(alphabet="x").variants([HINDI])
    parts = [HINDI[:2], HINDI[2:4], HINDI[4:]]
    assert variants == [HINDI, *("".join([*parts[:at], "x", *parts[at:]]) for at in range(4))]
    for seed in range(5):
        attack = LevenshteinAttack(max_edits=3, num_samples=5, alphabet="x")
        (adv_text,) = attack([HINDI], encode, torch.Generator().manual_seed(seed))
        assert all(part in adv_text for part in parts) and adv_text.count("x") == 3


def test_a_decomposed_text_is_edited_as_the_composed_one() -> None:
    attack = LevenshteinAttack(alphabet="x")
    assert attack.variants(["cafe\u0301"]) == attack.variants(["caf\u00e9"])
    assert "cafe" not in attack.variants(["cafe\u0301"])[0], "the accent alone is no character"
    guarded = LevenshteinAttack(alphabet="\u00e9", dictionary=frozenset({"caf\u00e9"}))
    assert "caf\u00e9" not in guarded.variants(["cafa"])[0]


def test_more_than_one_edit_cannot_be_listed() -> None:
    with pytest.raises(ValueError, match="`max_edits` must be at most 1"):
        LevenshteinAttack(max_edits=2).variants(["cat"])


@pytest.mark.parametrize(("name", "value"), [("max_edits", -1), ("num_samples", 0), ("num_slots", 0)])
def test_setting_out_of_range_is_an_error(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        LevenshteinAttack(**{name: value})


def test_one_string_is_an_error() -> None:
    with pytest.raises(ValueError, match="`texts` must be a sequence"):
        LevenshteinAttack()("cat", encode)
