"""Words keep their places: what is between them survives, and a difference is reported word by word."""

from __future__ import annotations

import pytest

from hf_mmcoa.substitutes import words
from hf_mmcoa.substitutes.words import (
    STOP_WORDS,
    changed_words,
    count_changes,
    phrases_around,
    replace_word,
    split_words,
)


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


def test_split_words_leaves_out_punctuation_and_keeps_apostrophes_and_digits():
    assert words_of("  It's a red-hot, 3rd_class café!") == ["It's", "a", "red", "hot", "3rd", "class", "café"]
    assert words_of("'quoted' -- ...") == ["quoted"]
    assert words_of("rock''n") == ["rock", "n"]
    assert split_words("a, bc") == [(0, 1), (3, 5)]


DECOMPOSED = "cafe\u0301"


@pytest.mark.parametrize(
    "word",
    [
        DECOMPOSED,
        "\u0939\u093f\u0928\u094d\u0926\u0940",  # "Hindi" in Devanagari: its vowel signs compose with no letter
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, a joiner inside
        "\u0e17\u0e35\u0e48",  # Thai, two marks on one letter
    ],
)
def test_combining_marks_stay_in_their_word(word):
    assert words_of(f"a {word}, {word}!") == ["a", word, word]
    assert replace_word(f"a {word}!", 1, "dog") == "a dog!"
    assert changed_words(f"a {word} here", "a dog here")[0][1] == "dog"
    assert words_of("\u0301\u2764\ufe0f") == [], "a mark without a letter is no word"


def test_composed_and_decomposed_are_the_same_word():
    assert changed_words(f"a {DECOMPOSED}", "a caf\u00e9") == []
    assert words.words_of(f"A {DECOMPOSED.upper()}") == words.words_of("a caf\u00e9") == ["a", "caf\u00e9"]


def test_phrases_end_at_punctuation_and_at_their_longest():
    text = "one two_three, four-five six"
    assert [phrase for _, phrase in phrases_around(text, 1, 9)] == ["two three", "one two", "one two three"]
    assert list(phrases_around(text, 4, 2)) == [((4, 6), "five six"), ((3, 5), "four five")]
    assert list(phrases_around(text, 0, 1)) == []


def test_a_phrase_is_replaced_as_a_whole():
    assert replace_word("A beer-mug, a mug!", (1, 3), "stein") == "A stein, a mug!"
    with pytest.raises(IndexError, match=r"\(3, 5\) is not a word of 'a beer mug', which has 3"):
        replace_word("a beer mug", (3, 5), "stein")


def test_replace_word_touches_nothing_else():
    assert replace_word("A dog,  a  dog!", 3, "cat") == "A dog,  a  cat!"
    assert replace_word("A dog,  a  dog!", 1, "polar bear") == "A polar bear,  a  dog!"


@pytest.mark.parametrize("index", [2, -1])
def test_replace_word_names_a_wrong_index(index):
    with pytest.raises(IndexError, match=f"{index} is not a word of 'a dog'"):
        replace_word("a dog", index, "cat")


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("a dog.", "a dog.", []),
        ("a dog and a dog", "a dog and a cat", [("dog", "cat")]),
        ("one two", "uno dos", [("one", "uno"), ("two", "dos")]),
        ("a bear on ice", "a polar bear on ice", [("", "polar")]),
        ("a zero here", "a goose egg here", [("zero", "goose egg")]),
    ],
)
def test_changed_words(before, after, changes):
    assert changed_words(before, after) == changes


@pytest.mark.parametrize(
    ("before", "after", "phrases", "changes"),
    [
        ("a dog", "A dog!", [], 0),
        ("a dog", "a hound", [], 1),
        ("one two", "two one", [], 2),
        ("a zero", "a goose egg", [], 2),
        ("a zero", "a round goose egg", [], 3),
        ("a beer mug", "a stein", [], 2),
        ("a beer mug", "a stein", [(1, 3)], 1),
        ("a beer mug", "a glass krug", [(1, 3)], 1),
        ("a beer mug", "a big clay pot", [(1, 3)], 2),
        ("a chest of drawers", "a box of shelves", [(1, 4)], 1),
        ("a red beer mug", "a crimson stein", [(2, 4)], 2),
        ("beer mug dog", "stein big hound", [(0, 2)], 2),  # "stein big" for the mug
        ("a bear", "a polar bear", [], 1),
        ("a polar bear", "a bear", [], 1),
        ("", "a dog", [], 2),
        (f"a {DECOMPOSED}", "a caf\u00e9", [], 0),
    ],
)
def test_count_changes(before, after, phrases, changes):
    assert count_changes(before, after, phrases) == changes


def test_stop_words_hold_function_words_and_no_class_names():
    assert {"a", "the", "this", "is", "of", "don't"} <= STOP_WORDS
    assert STOP_WORDS.isdisjoint({"one", "two", "zero", "nine", "photo", "cat", "red"})
    assert all(words_of(word) == [word] and word == word.lower() for word in STOP_WORDS)
