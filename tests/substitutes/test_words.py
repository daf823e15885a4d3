"""Words keep their places: what is between them survives, and a difference is reported word by word."""

from __future__ import annotations

import pytest

from hf_mmcoa.substitutes.words import STOP_WORDS, changed_words, replace_word, split_words


def words_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


def test_split_words_leaves_out_punctuation_and_keeps_apostrophes_and_digits():
    assert words_of("  It's a red-hot, 3rd_class café!") == ["It's", "a", "red", "hot", "3rd", "class", "café"]
    assert words_of("'quoted' -- ...") == ["quoted"]
    assert split_words("a, bc") == [(0, 1), (3, 5)]


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


def test_stop_words_hold_function_words_and_no_class_names():
    assert {"a", "the", "this", "is", "of", "don't"} <= STOP_WORDS
    assert STOP_WORDS.isdisjoint({"one", "two", "zero", "nine", "photo", "cat", "red"})
    assert all(words_of(word) == [word] and word == word.lower() for word in STOP_WORDS)
