"""Tell English words from pieces of words, which a vocabulary does not do.

Byte-pair encoding marks where a word ends, not where it begins: beside "dog</w>" CLIP's vocabulary has "tion</w>".
WordPiece, on the other hand, marks what continues a word: "syn" may be a word or the beginning of one. Encoding such a
piece alone gives the same token again, so only a list of words tells them apart.

`english.txt.gz` is that list: the lower-case single words of WordNet 3.0 with three letters or more, and its irregular
forms. Names and abbreviations, which WordNet writes with capitals, are no substitutes of anything. Regular forms are
recognised by WordNet's own endings. The list is part of this package, so that an attack does not depend on what else is
installed; WordNet's licence, which goes with it, is in `wordnet.json`.

In CLIP's vocabulary 32,647 tokens of letters alone end a word and are no stop words. 15,103 of them (46%) are not in
the list. Of 200 drawn from those that are, 2 were no words to a reader ("khi", "nim"); of 200 drawn from those that are
not, 6 were ("hotline", "bestie", "mentorship", "retweet", "timelapse", "roadshow"). What the list cannot find are
endings that are also words: "ion", "able", "tics".
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

# Of WordNet's "morphy": an ending and what the listed word has in its place.
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
    ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""), ("er", "e"),
    ("est", ""), ("est", "e"),
)  # fmt: skip
# Of three letters only in a plural: "aning" would otherwise be a form of "ane", and "betes" of "bet".
_SHORTEST_STEM = {"s": 3, "ses": 3, "xes": 3}


def is_english(word: str) -> bool:
    """Return whether `word` is an English word, in a regular or irregular form, upper or lower case.

    Example:
        >>> [word for word in ("dog", "puppies", "mice", "tion", "doglet", "ers") if is_english(word)]
        ['dog', 'puppies', 'mice']
    """
    word, listed = word.casefold(), _listed()
    if word in listed:
        return True
    stems = ((word.removesuffix(ending) + instead, ending) for ending, instead in _ENDINGS if word.endswith(ending))
    return any(len(stem) >= _SHORTEST_STEM.get(ending, 4) and stem in listed for stem, ending in stems)


@cache
def _listed() -> frozenset[str]:
    return frozenset(gzip.decompress(files(__package__).joinpath("english.txt.gz").read_bytes()).decode().split())
