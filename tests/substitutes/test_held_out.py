"""Known and unseen substitutes never meet."""

from __future__ import annotations

import pytest

from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.substitutes.fashion_mnist import SYNONYMS as CLOTHES
from hf_mmcoa.substitutes.held_out import known_and_unseen, measured_unseen
from hf_mmcoa.substitutes.synonyms import SynonymTable

WORDS = [f"word{number}" for number in range(40)]


def source(texts, words, num_candidates):
    """Proposes the first words of a list for every word that it is asked about."""
    return [dict.fromkeys(indices, WORDS[:num_candidates]) for indices in words]


def test_the_halves_share_nothing_and_lose_nothing():
    known, unseen = known_and_unseen(source, seed=3)
    (a,), (b,) = (half(["a cat"], [[1]], 40) for half in (known, unseen))
    assert set(a[1]) & set(b[1]) == set() and set(a[1]) | set(b[1]) == set(WORDS)
    assert 10 < len(a[1]) < 30 and a[1] == sorted(a[1], key=WORDS.index)


def test_no_more_than_asked_for():
    known, _ = known_and_unseen(source)
    assert len(known(["a cat"], [[1]], 5)[0][1]) <= 5


def test_the_seed_decides():
    draws = {tuple(known_and_unseen(source, seed=seed)[0](["a"], [[0]], 20)[0][0]) for seed in (0, 0, 1)}
    assert len(draws) == 2


def test_a_table_is_split_word_by_word():
    known, unseen = known_and_unseen(SYNONYMS)
    assert isinstance(known, SynonymTable)
    for (word, listed), (same, others) in zip(known.table, unseen.table, strict=True):
        assert word == same and len(listed) == len(others) == 3 and not set(listed) & set(others)


def test_a_source_of_phrases_is_split_too():
    def phrases(texts, words, num_candidates):
        return [{(1, 3): WORDS[:num_candidates]} for _ in texts]

    known, unseen = known_and_unseen(phrases)
    (a,), (b,) = (half(["a beer mug"], [[1]], 40) for half in (known, unseen))
    assert set(a[1, 3]) | set(b[1, 3]) == set(WORDS) and set(a[1, 3]).isdisjoint(b[1, 3])


def words_in(table):
    return {word: set(listed) for word, listed in table.table}


def test_validation_and_test_words_are_exact_quarters_of_a_table_and_share_none():
    table = SynonymTable({name: [f"{name}{number}" for number in range(8)] for name in ("one", "two")})
    for seed in range(5):
        known, unseen = known_and_unseen(table, seed)
        validation, test = (measured_unseen(unseen, part, seed) for part in ("validation", "test"))
        assert measured_unseen(unseen, "all", seed) is unseen
        for word in ("one", "two"):
            parts = [words_in(each)[word] for each in (known, validation, test)]
            assert list(map(len, parts)) == [4, 2, 2] and len(set.union(*parts)) == 8


def test_the_quarters_are_drawn_independently_of_the_halves_of_any_split():
    """Drawn by the next split's seed, the quarters would be that split's halves."""
    table = SynonymTable({"one": [f"one{number}" for number in range(40)]})
    for seed in range(5):
        test = words_in(measured_unseen(known_and_unseen(table, seed)[1], "test", seed))["one"]
        for other in range(10):
            if other != seed:
                assert 0 < len(test & words_in(known_and_unseen(table, other)[0])["one"]) < len(test) == 10


def test_a_source_is_quartered_by_a_hash():
    _, unseen = known_and_unseen(source, seed=3)
    parts = [set(measured_unseen(unseen, part, 3)(["a cat"], [[1]], 40)[0][1]) for part in ("validation", "test")]
    assert parts[0].isdisjoint(parts[1]) and all(len(part) >= 4 for part in parts)
    assert set.union(*parts) == set(unseen(["a cat"], [[1]], 40)[0][1])


def test_a_word_with_too_few_substitutes_is_not_attacked_and_named():
    """The order in which an odd word is given away is known, test, validation."""
    table = SynonymTable({"one": ["ace", "unit", "sole"], "two": ["duo", "pair", "brace", "twain"]})
    _, unseen = known_and_unseen(table)
    test = words_in(measured_unseen(unseen, "test"))
    with pytest.warns(UserWarning, match="no validation substitutes for one: these words are not attacked"):
        validation = measured_unseen(unseen, "validation")
    assert {word: len(listed) for word, listed in words_in(validation).items()} == {"one": 0, "two": 1}
    assert {word: len(listed) for word, listed in test.items()} == {"one": 1, "two": 1}
    assert validation(["a one"], [[1]], 10) == [{1: []}]
    _, unseen = known_and_unseen(SynonymTable({"one": ["ace", "unit", "sole"]}))
    with pytest.raises(ValueError, match="no word has a validation substitute"):
        measured_unseen(unseen, "validation")
    with pytest.raises(ValueError, match="`unseen_words` must be one of all, validation, test, got 'some'"):
        measured_unseen(unseen, "some")


def test_the_shirt_of_a_t_shirt_is_left_alone_in_every_part():
    validation = measured_unseen(known_and_unseen(CLOTHES)[1], "validation")
    assert validation(["a t shirt top"], [[2]], 10) == [{2: []}] and validation(["a shirt"], [[1]], 10)[0][1]
