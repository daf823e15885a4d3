"""The release's fault: every word gets its left neighbour's candidates."""

from __future__ import annotations

from hf_mmcoa.substitutes.misaligned import LeftNeighboursCandidates
from hf_mmcoa.substitutes.synonyms import SynonymTable

TABLE = SynonymTable({"big": ("large", "huge"), "cat": ("feline",)})


def test_a_word_gets_the_candidates_of_the_word_before_it():
    source = LeftNeighboursCandidates(TABLE)
    assert source(["big cat sat"], [[0, 1, 2]], 10) == [{1: ["large", "huge"], 2: ["feline"]}]
    assert source(["big cat sat", "cat sat"], [[1], [0]], 1) == [{1: ["large"]}, {}]
    assert TABLE(["big cat sat"], [[0, 1, 2]], 10)[0].get(0) == ["large", "huge"]


def test_a_word_gets_the_candidates_of_the_phrase_before_it():
    source = LeftNeighboursCandidates(SynonymTable({"beer mug": ("stein",), "mug": ("cup",), "beer": ("ale",)}))
    assert source(["a beer mug here"], [[1, 2, 3]], 10) == [{1: [], 2: ["ale"], 3: ["stein", "cup"]}]
    assert source(["a beer mug here"], [[2]], 10) == [{2: ["ale"]}], "the phrase ends at a word that is not attacked"
