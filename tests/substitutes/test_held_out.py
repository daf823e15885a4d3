"""Known and unseen substitutes never meet."""

from __future__ import annotations

from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.substitutes.held_out import known_and_unseen
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
