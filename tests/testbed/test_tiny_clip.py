"""The tiny CLIP: it is small, its seed determines it, and the same texts always give the same tokenizer."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hf_mmcoa.data.digits import CLASS_NAMES
from hf_mmcoa.models.encoding import token_table
from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.substitutes.embedded import synonym_table
from hf_mmcoa.testbed import digits
from hf_mmcoa.testbed.tiny_clip import principal_components, tiny_clip, tiny_tokenizer


def test_every_word_of_the_digits_is_one_token():
    tokenizer = tiny_tokenizer(digits.vocabulary())
    words = [*CLASS_NAMES, *(word for _, listed in SYNONYMS.table for word in listed)]
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)


def test_any_text_can_be_written_without_the_end_token():
    tokenizer = tiny_tokenizer(["a cat"])
    ids = tokenizer("[UNK] né 日本 &!")["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_the_same_texts_make_the_same_tokenizer_in_another_process():
    code = (
        "from hf_mmcoa.testbed.tiny_clip import tiny_tokenizer; from hf_mmcoa.testbed.digits import vocabulary; "
        "print(sorted(tiny_tokenizer(vocabulary()).get_vocab().items(), key=lambda pair: pair[1]))"
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


# Word vectors

TEXTS = ["a photo of a cat", "a photo of a feline", "a picture of the small dog"]


def lengths(words):
    """As wide as the model and of very different lengths; each word's own, whatever the others are."""
    draw = [torch.randn(32, generator=torch.Generator().manual_seed(sum(map(ord, word)))) for word in words]
    return torch.stack(draw) * torch.arange(1, len(words) + 1).unsqueeze(1)


def rows_of(tokenizer, words):
    return tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])


def test_rows_of_words_start_at_their_vectors_and_no_other_row_changes():
    plain, _ = tiny_clip(TEXTS, image_size=8, patch_size=2, width=32)
    model, processor = tiny_clip(TEXTS, image_size=8, patch_size=2, width=32, word_vectors=lengths)
    words = sorted({word for text in TEXTS for word in text.split()})
    ids = rows_of(processor.tokenizer, words)
    start, table = token_table(plain), token_table(model)
    rows = table[ids]
    norm = start.norm(dim=-1).mean()  # CLIP's own
    torch.testing.assert_close(rows.norm(dim=-1), norm.expand(len(words)))
    # Fewer words than axes: PCA only turns them, so angles about the mean stay.
    centred = torch.nn.functional.normalize(lengths(words) - lengths(words).mean(0), dim=-1)
    torch.testing.assert_close(rows @ rows.T / norm**2, centred @ centred.T, atol=1e-5, rtol=1e-5)
    others = [index for index in range(len(table)) if index not in ids]
    assert torch.equal(table[others], start[others])
    assert torch.equal(model.visual_projection.weight, plain.visual_projection.weight)


def test_wide_vectors_are_reduced_to_their_principal_axes():
    words = [chr(97 + i) * 3 for i in range(20)]
    drawn = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0] * 4 + [1e-3] * 46)
    model, processor = tiny_clip(words, image_size=8, patch_size=2, width=4, word_vectors=lambda words: drawn)
    rows = torch.nn.functional.normalize(token_table(model)[rows_of(processor.tokenizer, words)], dim=-1)
    expected = torch.nn.functional.normalize((drawn - drawn.mean(0))[:, :4], dim=-1)  # what the small axes leave
    torch.testing.assert_close(rows @ rows.T, expected @ expected.T, atol=1e-2, rtol=0)


def test_an_axis_points_to_where_it_is_longest():
    found = principal_components(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), 20)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()


def test_with_word_vectors_every_word_is_one_token():
    words = [word for _, listed in synonym_table("fashion-mnist-wordnet").table for word in listed]
    words += [word for _, listed in synonym_table("digits-wordnet").table for word in listed]
    few, all_of_them = tiny_tokenizer(words, 500), tiny_tokenizer(words, None)
    assert any(len(few.tokenize(word)) > 1 for word in words)
    assert all(all_of_them.tokenize(word) == [f"{word}</w>"] for word in words)
    _, processor = tiny_clip(words, image_size=8, patch_size=2, word_vectors=lambda words: torch.rand(len(words), 3))
    assert len(processor.tokenizer) == len(all_of_them)


@pytest.mark.parametrize("vectors", [torch.zeros(2, 3), torch.zeros(7), torch.full((9, 3), torch.nan)])
def test_vectors_that_do_not_fit_the_words_are_refused(vectors):
    with pytest.raises(ValueError, match=r"`word_vectors` must give finite vectors \(9 words, any width\), got"):
        tiny_clip(TEXTS, image_size=8, patch_size=2, word_vectors=lambda words: vectors)
