"""Tables of substitutes by name: those of the embedded data sets, or a JSON file of `{"word": ["substitute", ...]}`.

An embedded data set has three tables. "digits" and "fashion-mnist" are short lists made by hand. "digits-wordnet" and
"fashion-mnist-wordnet" are long ones, from WordNet and, where that is poor, by hand: `wordnet.json` says which word
comes from where. "digits-lab" and "fashion-mnist-lab" are the part of those that a public model's word embeddings keep
together, for the CLIP whose token table starts from them (`word_vectors`): of a word whose vector lies with another
class nobody could know the meaning.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from ..io import read_json
from . import digits, fashion_mnist
from .table import SynonymTable

EMBEDDED = ("digits", "fashion-mnist")


def synonym_table(name: str) -> SynonymTable | None:
    """The table of that name (see above) or of a `.json` file; None where `name` is neither.

    Raises:
        ValueError: if the file is missing or holds no table.
    """
    dataset, _, kind = name.rpartition("-")
    if dataset in EMBEDDED and kind in ("wordnet", "lab"):
        return _table_type(dataset)(wordnet_words(dataset, kind))
    if name == "digits":
        return digits.SYNONYMS
    if name == "fashion-mnist":
        return fashion_mnist.SYNONYMS
    if not name.endswith(".json"):
        return None
    try:
        return SynonymTable(_table(read_json(name)))
    except FileNotFoundError:
        raise ValueError(f"`candidates`: there is no file {name}.") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"`candidates`: {name} holds no synonym table: {error}") from error


def _table(content: Any) -> dict[str, list[str]]:
    """What a file holds, if it is a table."""
    if not isinstance(content, dict):
        raise ValueError(f'expected {{"word": ["substitute", ...]}}, got a {type(content).__name__}')
    for word, substitutes in content.items():
        if not isinstance(substitutes, list) or not all(isinstance(each, str) for each in substitutes):
            raise ValueError(f"the substitutes of {word!r} are {substitutes!r}, not a list of texts")
    return content


def wordnet_words(dataset: str, kind: str) -> dict[str, list[str]]:
    """Each class word's substitutes in `wordnet.json`; `kind` is "wordnet" for all of them, or "lab"."""
    listed = wordnet_file()["tables"][f"{dataset}-wordnet"]
    parts = ("lab",) if kind == "lab" else ("wordnet", "by_hand")
    return {word: [each for part in parts for each in entry[part]] for word, entry in listed.items()}


@cache
def wordnet_file() -> dict[str, Any]:
    """`wordnet.json`: where the words are from, WordNet's licence, and for each class word its senses and lists."""
    return json.loads(files(__package__).joinpath("wordnet.json").read_text(encoding="utf-8"))


def _table_type(dataset: str) -> type[SynonymTable]:
    if dataset == "digits":
        return SynonymTable
    return fashion_mnist.ClothingSynonyms  # it leaves the "shirt" of "t shirt" alone
