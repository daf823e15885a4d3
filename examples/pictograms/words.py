"""List substitutes for the concepts' names from WordNet, without a look at any model.

A substitute is a lemma of the concept's sense ("synonym"), of a kind of it ("hyponym", two levels down) or of what it
is a kind of ("hypernym", one level up). The last only if nothing else in the bed is a kind of it: "feline" is no
substitute of "cat" where there are lions. Each of them:

- is one or two words of small letters;
- is a noun first of all, and has that meaning first or second among its meanings as a noun, by WordNet's counts, so
  that the text keeps its meaning: a "can" is a toilet, too, but far down the list;
- holds no word of any concept's name, in singular or plural;
- belongs to one concept only, and is no insult (`INSULTS`).

A class keeps at most `MOST` of them: synonyms, then hypernyms, then the kinds that are most frequent in WordNet's own
texts. The keywords of emoji ("pet", "woof") are associations; one is kept only if it is in this list, and counts as a
source beside WordNet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from concepts import Concept

MOST = 10
INSULTS = ("fag", "faggot", "fagot", "nuthouse", "puss", "pussy")


def substitutes(concepts: Sequence[Concept], wordnet: Any, keywords: dict[str, set[str]]) -> dict[str, dict[str, str]]:
    """Return each concept's substitutes and their origins, e.g. `{"dog": {"puppy": "hyponym, keyword"}}`.

    Args:
        concepts: all concepts of the bed.
        wordnet: nltk's reader.
        keywords: the keywords of each concept's emoji.
    """
    own = {word for each in concepts for word in each.name.split()}
    own |= {stem for word in own if (stem := wordnet.morphy(word, "n"))}
    own |= {each.name.replace(" ", "") for each in concepts}
    own |= {f"{word}s" for word in own}
    above = {each.name: {each.sense, *each.sense.closure(lambda synset: synset.hypernyms())} for each in concepts}
    listed: dict[str, dict[str, tuple[str, int]]] = {}
    for concept in concepts:
        found: dict[str, tuple[str, int]] = {}
        for synset, origin in _relatives(concept, concepts, above):
            for lemma in synset.lemmas():
                word = lemma.name().replace("_", " ")
                stems = {wordnet.morphy(part, "n") or part for part in word.split()} | set(word.split())
                if (
                    re.fullmatch(r"[a-z]{3,}( [a-z]{3,})?", word)
                    and synset in wordnet.synsets(lemma.name(), "n")[:2]
                    and _is_noun_first(lemma.name(), wordnet)
                    and word not in INSULTS
                    and not stems & own
                    and word.replace(" ", "") not in own
                ):
                    found.setdefault(word, (origin, lemma.count()))
        listed[concept.name] = found
    times = Counter(_key(word) for found in listed.values() for word in {_key(each): each for each in found}.values())
    tables = {}
    for concept in concepts:
        ranks = {"synonym": 0, "hypernym": 1, "hyponym": 2}
        kept: dict[str, str] = {}
        for word, (origin, _) in sorted(
            listed[concept.name].items(), key=lambda item: (ranks[item[1][0]], -item[1][1], " " in item[0])
        ):
            if times[_key(word)] == 1 and len(kept) < MOST and _key(word) not in map(_key, kept):
                kept[word] = origin + (", keyword" if word in keywords[concept.name] else "")
        tables[concept.name] = kept
    return tables


def _is_noun_first(word: str, wordnet: Any) -> bool:
    """Return whether no other part of speech of the word is more frequent in WordNet's texts ("works", "lower")."""
    times: Counter[str] = Counter()
    for part in ("n", "v", "a", "r"):
        senses = wordnet.synsets(word, part)
        times[part] = sum(each.count() for sense in senses for each in sense.lemmas() if each.name() == word)
    return times["n"] >= max(times.values())


def _key(word: str) -> str:
    return word.replace(" ", "")


def _relatives(concept: Concept, concepts: Sequence[Concept], above: dict[str, set[Any]]) -> Iterator[tuple[Any, str]]:
    """Yield the synsets whose words may stand for the concept, in WordNet's order, which nltk does not keep."""
    others = [each for each in concepts if each is not concept]
    yield concept.sense, "synonym"
    for synset in _ordered(concept.sense.hypernyms()):
        if not any(synset in above[each.name] for each in others):
            yield synset, "hypernym"
    level = [concept.sense]
    for _ in range(2):
        level = [kind for synset in level for kind in _ordered(synset.hyponyms())]
        yield from ((kind, "hyponym") for kind in level if not any(each.sense == kind for each in others))


def _ordered(synsets: list[Any]) -> list[Any]:
    return sorted(synsets, key=lambda each: each.offset())
