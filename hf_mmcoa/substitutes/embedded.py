"""Find tables of substitutes by name: those of the embedded data sets, or a JSON file.

The digits and Fashion-MNIST have three tables each. "digits" and "fashion-mnist" are short lists made by hand.
"digits-wordnet" and "fashion-mnist-wordnet" are long lists from WordNet, completed by hand where WordNet has few words;
`wordnet.json` says which word comes from where. "digits-lab" and "fashion-mnist-lab" are the part of the long lists
whose words a public model's word embeddings place with their own class. They are for the CLIP whose token table starts
from those embeddings (`word_vectors`), which cannot know the meaning of a word whose vector lies with another class.

"pictograms" is a table from WordNet, made by rules alone and filtered by no model; `pictograms.json` says how each word
is related to its concept. "pictograms-common" and "pictograms-ood" are its rows of those data sets.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from ..data.pictograms import concept_file
from ..io import read_json
from . import digits, fashion_mnist
from .synonyms import SynonymTable

PICTOGRAMS = ("pictograms", "pictograms-common", "pictograms-ood")
EMBEDDED = ("digits", "fashion-mnist", *PICTOGRAMS)


def synonym_table(name: str) -> SynonymTable | None:
    """Return the table with that name, or None if there is none.

    Args:
        name: one of the names above, or the path of a `.json` file that holds `{"word": ["substitute", ...]}`.

    Raises:
        ValueError: if the file is missing or does not hold a table.
    """
    dataset, _, kind = name.rpartition("-")
    if name in PICTOGRAMS:
        return SynonymTable(pictogram_words(name))
    if dataset in ("digits", "fashion-mnist") and kind in ("wordnet", "lab"):
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
    """Check that the content of a file is a table, and return it."""
    if not isinstance(content, dict):
        raise ValueError(f'expected {{"word": ["substitute", ...]}}, got a {type(content).__name__}')
    for word, substitutes in content.items():
        if not isinstance(substitutes, list) or not all(isinstance(each, str) for each in substitutes):
            raise ValueError(f"the substitutes of {word!r} are {substitutes!r}, not a list of texts")
    return content


def wordnet_words(dataset: str, kind: str) -> dict[str, list[str]]:
    """Return each class word's substitutes in `wordnet.json`: all of them, or with kind "lab" those of that table."""
    listed = wordnet_file()["tables"][f"{dataset}-wordnet"]
    parts = ("lab",) if kind == "lab" else ("wordnet", "by_hand")
    return {word: [each for part in parts for each in entry[part]] for word, entry in listed.items()}


def pictogram_words(dataset: str = "pictograms") -> dict[str, list[str]]:
    """Return the substitutes of each concept of a data set that has any; "pictograms" are those of all three."""
    listed = json.loads(files(__package__).joinpath("pictograms.json").read_text(encoding="utf-8"))["words"]
    subset = {"pictograms-common": "common", "pictograms-ood": "held-out"}.get(dataset)
    kept = {each["name"] for each in concept_file()["concepts"] if subset in (None, each["subset"])}
    return {name: list(entry["words"]) for name, entry in listed.items() if entry["words"] and name in kept}


@cache
def wordnet_file() -> dict[str, Any]:
    """Read `wordnet.json`: the words' origin, WordNet's licence, and the senses and substitutes of each class word."""
    return json.loads(files(__package__).joinpath("wordnet.json").read_text(encoding="utf-8"))


def _table_type(dataset: str) -> type[SynonymTable]:
    if dataset == "digits":
        return SynonymTable
    return fashion_mnist.ClothingSynonyms  # it leaves the "shirt" of "t shirt" alone
