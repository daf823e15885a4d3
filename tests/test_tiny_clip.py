"""The tiny CLIP: small, seeded, and a tokenizer that the same texts always make."""

from __future__ import annotations

import subprocess
import sys

import torch

from hf_mmcoa.data import digits
from hf_mmcoa.tiny_clip import tiny_clip, tiny_tokenizer


def test_every_word_of_the_digits_is_one_token():
    tokenizer = tiny_tokenizer(digits.vocabulary())
    words = [*digits.CLASS_NAMES, *(word for _, listed in digits.SYNONYMS.table for word in listed)]
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)


def test_any_text_can_be_written_without_the_end_token():
    tokenizer = tiny_tokenizer(["a cat"])
    ids = tokenizer("[UNK] né 日本 &!")["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


def test_the_same_texts_make_the_same_tokenizer_in_another_process():
    code = (
        "from hf_mmcoa.tiny_clip import tiny_tokenizer; from hf_mmcoa.data import digits; "
        "print(sorted(tiny_tokenizer(digits.vocabulary()).get_vocab().items(), key=lambda pair: pair[1]))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    own = sorted(tiny_tokenizer(digits.vocabulary()).get_vocab().items(), key=lambda pair: pair[1])
    assert other.strip() == str(own)


def test_under_a_million_parameters_and_decided_by_the_seed():
    texts = digits.vocabulary()
    one, same, other = (tiny_clip(texts, image_size=8, patch_size=2, seed=seed)[0] for seed in (0, 0, 1))
    assert sum(weight.numel() for weight in one.parameters()) < 1_000_000
    assert torch.equal(one.visual_projection.weight, same.visual_projection.weight)
    assert not torch.equal(one.visual_projection.weight, other.visual_projection.weight)
