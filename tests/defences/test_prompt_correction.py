"""Corrections do what they say, and an attacker meets the corrected text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.defences import CorrectingProcessor, NearestCentroid, SpellCorrection
from hf_mmcoa.defences.prompt_correction import one_edit
from hf_mmcoa.models.encoder import DualEncoder


def edits_of(word: str, letters: str = "abcdefghijklmnopqrstuvwxyz") -> set[str]:
    """All strings at one edit, in the form that Norvig gives."""
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    return (
        {a + b[1:] for a, b in splits if b}
        | {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
        | {a + c + b[1:] for a, b in splits if b for c in letters}
        | {a + c + b for a, b in splits for c in letters}
    ) - {word}


@pytest.mark.parametrize("word", ["nine", "aab", "x"])
def test_one_edit_agrees_with_a_list_of_all_edits(word):
    near = edits_of(word)
    assert all(one_edit(other, word) and one_edit(word, other) for other in near)
    far = {far for other in near for far in edits_of(other, "nx")} - near - {word}
    assert far and not any(one_edit(other, word) for other in far) and not one_edit(word, word)


def test_every_single_edit_is_corrected_where_no_other_word_is_near():
    correct = SpellCorrection(("a", "photo", "of", "sandal"))
    assert set(correct([f"a photo of {typo}" for typo in edits_of("sandal")])) == {"a photo of sandal"}
    assert correct(["a photo of scandals"]) == ["a photo of scandals"]  # two edits
    assert correct(["a photo of Sandal"]) == ["a photo of Sandal"]


def test_the_first_of_two_near_words_is_taken():
    assert SpellCorrection(("one", "nine"))(["ine"]) == ["one"] and SpellCorrection(("nine", "one"))(["ine"]) == [
        "nine"
    ]
    with pytest.raises(ValueError, match="vocabulary"):
        SpellCorrection(())


def test_the_nearest_centroid_is_the_one_of_a_hand_computation(tiny_clip, tiny_processor):
    encoder = DualEncoder(tiny_clip, tiny_processor)
    prompts, known = ["a photo of a cat", "a photo of a dog"], [["a photo of a kitty"], []]
    correct = NearestCentroid(encoder.encode_texts, prompts, known)
    with torch.no_grad():
        first = encoder.encode_texts(["a photo of a cat", "a photo of a kitty"]).mean(0)
        second = encoder.encode_texts(["a photo of a dog"])[0]
        for text in ("a photo of a puppy", "a photo of a tom", "x"):
            embeds = encoder.encode_texts([text])[0]
            nearest = int((F.normalize(second, dim=0) @ embeds) > (F.normalize(first, dim=0) @ embeds))
            assert correct([text]) == [prompts[nearest]]
    assert correct(["a photo of a kitty", "a photo of a cat"]) == [prompts[0]] * 2
    assert (
        NearestCentroid(encoder.encode_texts, prompts[:1], [["a photo of a dog"]])(["a photo of a dog"]) == prompts[:1]
    )
    with pytest.raises(ValueError, match="one a class"):
        NearestCentroid(encoder.encode_texts, prompts, [[]])


def test_the_encoder_reads_the_corrected_text(tiny_clip, tiny_processor):
    corrected = CorrectingProcessor(tiny_processor, SpellCorrection(("photo", "dog")))
    plain, behind = DualEncoder(tiny_clip, tiny_processor), DualEncoder(tiny_clip, corrected)
    with torch.no_grad():
        assert torch.equal(behind.encode_texts(["phto dgo"]), plain.encode_texts(["photo dog"]))
        assert not torch.equal(plain.encode_texts(["phto dgo"]), plain.encode_texts(["photo dog"]))
