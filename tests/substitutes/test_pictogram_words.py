"""The pictograms' substitutes: of one concept each, unseen in the captions, and related to it as the file says."""

from __future__ import annotations

import json
import warnings
from importlib.resources import files

import pytest

from hf_mmcoa.data.pictograms import concept_file
from hf_mmcoa.substitutes.embedded import EMBEDDED, PICTOGRAMS, pictogram_words, synonym_table
from hf_mmcoa.substitutes.wordnet import _read_wordnet
from hf_mmcoa.substitutes.words import STOP_WORDS, words_of

CONTENT = json.loads((files("hf_mmcoa.substitutes") / "pictograms.json").read_text(encoding="utf-8"))
CONCEPTS = concept_file()["concepts"]
ROOT = "/usr/share/wordnet"  # Debian's wordnet-base


def test_no_word_is_listed_for_two_concepts_or_is_a_concepts_name():
    listed = [word.replace(" ", "") for words in pictogram_words().values() for word in words]
    assert len(listed) == len(set(listed)) and not set(listed) & STOP_WORDS
    names = {word for each in CONCEPTS for word in each["name"].split()}
    assert not {part for words in pictogram_words().values() for word in words for part in word.split()} & names


def test_every_concept_has_its_sense_and_those_to_attack_have_two_words_or_more():
    assert {name: entry["sense"] for name, entry in CONTENT["words"].items()} == {
        each["name"]: each["sense"] for each in CONCEPTS
    }
    for concept in CONCEPTS:
        count = len(CONTENT["words"][concept["name"]]["words"])
        assert (2 if concept["subset"] != "rest" else 0) <= count <= 10


def test_every_word_has_an_origin():
    origins = {origin for entry in CONTENT["words"].values() for origin in entry["words"].values()}
    relations = ("synonym", "hypernym", "hyponym")
    assert origins == {*relations, *(f"{each}, keyword" for each in relations)}
    for concept in CONCEPTS:
        for word, origin in CONTENT["words"][concept["name"]]["words"].items():
            assert (word in concept["keywords"]) == origin.endswith("keyword")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in CONTENT["license"]


def test_captions_hold_no_substitute_that_an_attack_could_put_in():
    captions = {word for each in CONCEPTS for caption in each["captions"] for word in words_of(caption)}
    assert not captions & {word for words in pictogram_words().values() for word in words}


def test_both_halves_attack_every_common_and_held_out_concept():
    assert set(PICTOGRAMS) < set(EMBEDDED)
    for dataset, subset, count in (("pictograms-common", "common", 100), ("pictograms-ood", "held-out", 50)):
        attackable = {each["name"] for each in CONCEPTS if each["subset"] == subset}
        halves = [dict(half.table) for half in synonym_table(dataset).split(0)]
        assert len(attackable) == count and all(half.keys() == attackable and all(half.values()) for half in halves)


@pytest.mark.slow
def test_wordnet_relates_each_word_to_the_concept_as_the_file_says():
    pytest.importorskip("nltk", reason="pip install nltk")
    try:
        wordnet = _read_wordnet(ROOT)
    except LookupError:
        pytest.skip(f"no WordNet in {ROOT}: apt-get install wordnet-base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cycle in WordNet's own hyponyms
        for entry in CONTENT["words"].values():
            sense = wordnet.synset(entry["sense"])
            kinds = [each for kind in sense.hyponyms() for each in (kind, *kind.hyponyms())]
            related = {"synonym": [sense], "hypernym": sense.hypernyms(), "hyponym": kinds}
            for word, origin in entry["words"].items():
                synsets = related[origin.removesuffix(", keyword")]
                assert word.replace(" ", "_") in {name for each in synsets for name in each.lemma_names()}
