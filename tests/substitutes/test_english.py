"""Whole words only: on CLIP's real vocabulary, on a WordPiece one, and on one that holds endings of words."""

from __future__ import annotations

import gzip
import importlib.util
import re
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import BertTokenizer

from hf_mmcoa.models import encoding
from hf_mmcoa.substitutes import english
from hf_mmcoa.substitutes.english import is_english
from hf_mmcoa.substitutes.vocabulary import NeighbourCandidates, _vocabulary_words
from hf_mmcoa.substitutes.words import STOP_WORDS
from hf_mmcoa.testbed.tiny_clip import tiny_clip

WORDNET = Path("/usr/share/wordnet")  # Debian's wordnet-base


@pytest.mark.parametrize("word", ["dog", "Dogs", "mice", "puppies", "ran", "boxes", "watered", "using", "ogdoad"])
def test_words_in_any_form(word):
    assert is_english(word)


@pytest.mark.parametrize(
    "piece", ["tion", "ing", "ers", "ings", "ddle", "nyc", "1st", "r2d2", "caf\u00e9s", "x", "", "Paris"]
)
def test_pieces_names_and_numbers(piece):
    assert not is_english(piece)


def test_neighbours_of_a_vocabulary_that_holds_endings_are_words():
    texts = ["nation station ration motion lotion potion"] * 9 + ["a dog and a puppy"]
    model, processor = tiny_clip(texts, image_size=8, patch_size=2)
    ending = processor.tokenizer.convert_tokens_to_ids("tion</w>")
    assert ending != processor.tokenizer.unk_token_id, "the ending is a token, marked as the end of a word"
    table = encoding.token_embedding_layer(model).weight
    table.data[ending] = table.data[processor.tokenizer.convert_tokens_to_ids("dog</w>")]
    (found,) = NeighbourCandidates(model, processor.tokenizer)(["a dog"], [[1]], 99)
    # Without the list, "tion" would be the first. "ion" is an ending and a word: such ones remain.
    assert set(found[1]) == {"nation", "station", "ration", "motion", "lotion", "potion", "puppy", "ion"}


def test_a_wordpiece_vocabulary_gives_words_only():
    tokens = "[PAD] [UNK] [CLS] [SEP] [MASK] dog syn puppy ##ing ing 3rd ##dog dogs the"
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens.split())})
    assert _vocabulary_words(tokenizer)[1] == ["dog", "puppy", "dogs"]


def clip_endings() -> list[str]:
    """The tokens of CLIP's byte-pair vocabulary that end a word, of letters alone and no stop words."""
    spec = importlib.util.find_spec("clip")
    file = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if spec and spec.origin else None
    if file is None or not file.exists():
        pytest.skip("clip-anytorch is not installed")
    merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    ends = [merge.replace(" ", "").removesuffix("</w>") for merge in merges if merge.endswith("</w>")]
    return [end for end in ends if re.fullmatch("[a-z]+", end) and end not in STOP_WORDS]


def test_clips_own_vocabulary_is_cut_to_its_words():
    ends = clip_endings()
    kept = [end for end in ends if is_english(end)]
    assert len(ends) == 32647 and 0.5 < len(kept) / len(ends) < 0.55
    assert {"tion", "ing", "ers", "ddle", "hillaryclinton", "lmaooo", "nyc"} <= set(ends) - set(kept)
    assert {"dog", "puppy", "hound", "airplane", "trucks", "mice", "zucchini"} <= set(kept)


@pytest.mark.slow
def test_the_list_is_what_its_module_says():
    listed = gzip.decompress(files(english.__package__).joinpath("english.txt.gz").read_bytes()).decode().split()
    assert listed == sorted(set(listed)) and all(re.fullmatch("[a-z]{3,}", word) for word in listed)
    if not (WORDNET / "data.noun").exists():
        pytest.skip(f"no WordNet in {WORDNET}: apt-get install wordnet-base")
    words = set()
    for part in ("noun", "verb", "adj", "adv"):
        lines = (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines()
        fields = [line.split(" ") for line in lines if not line.startswith("  ")]
        words |= {each[4 + 2 * n].split("(")[0] for each in fields for n in range(int(each[3], 16))}
        words |= {line.split()[0] for line in (WORDNET / f"{part}.exc").read_text(encoding="utf-8").splitlines()}
    assert set(listed) == {word for word in words if re.fullmatch("[a-z]{3,}", word)}
