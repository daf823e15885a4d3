"""Choose the concepts of the pictograms bed by rules about names and meanings, never by how well a model does.

1. Emoji of five groups (animals, food, travel, activities, objects), in Unicode's order. No people, no flags.
2. The name is the CLDR short name, without "face": one or two words of letters, a noun that WordNet lists, no proper
   name, no phase of the moon.
3. Its sense is the first one in a part of WordNet that fits the group (`PARTS`), or that of `SENSES`. Names whose
   senses are all different from the picture are left out (`NO_SENSE`).
4. All training designs and Fluent draw it.
5. One concept, one label: of two emoji with one name or one sense, the first stays, but "house", not "houses"; a
   name that holds another concept's name is dropped ("hot dog" beside "dog"); of a concept and its kinds in WordNet
   ("dog", "poodle") the kinds are dropped if they are one or two, and the general one if they are more ("bird").
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from designs import Icons

# Numbers of WordNet's lexicographer files (lexnames(5WN)) by group, the best first.
ACT, ANIMAL, ARTIFACT, COMMUNICATION, FOOD, LOCATION, OBJECT, PHENOMENON, PLANT = 4, 5, 6, 10, 13, 15, 17, 19, 20
PARTS = {
    "animals-nature": (ANIMAL, PLANT, OBJECT, PHENOMENON),
    "food-drink": (FOOD, PLANT, ARTIFACT),
    "travel-places": (ARTIFACT, OBJECT, PHENOMENON, LOCATION),
    "activities": (ARTIFACT, ACT, COMMUNICATION, PLANT),
    "objects": (ARTIFACT, COMMUNICATION, FOOD),
}
TOPICS = {
    "animals-nature": "things in nature",
    "food-drink": "things to eat and drink",
    "travel-places": "things on a journey",
    "activities": "things for leisure",
    "objects": "things in use",
}
# Read by eye: where that rule takes another sense than the picture's.
SENSES = {
    "bank": "bank.n.09", "calendar": "calendar.n.03", "castle": "castle.n.02", "chains": "chain.n.03",
    "cityscape": "cityscape.n.01", "crown": "crown.n.04", "dolphin": "dolphin.n.02", "dragon": "dragon.n.01",
    "fire": "fire.n.03", "hammer": "hammer.n.02", "label": "label.n.04", "lollipop": "lollipop.n.02",
    "notebook": "notebook.n.01", "pick": "pick.n.07", "ribbon": "ribbon.n.04", "ring": "ring.n.08",
    "rosette": "rosette.n.01", "shield": "shield.n.02", "television": "television_receiver.n.01",
    "toilet": "toilet.n.02", "tornado": "tornado.n.01", "tram": "streetcar.n.01", "volcano": "volcano.n.02",
}  # fmt: skip
# The picture is a frying pan, a chapel, two masks, a book, another one, a road sign, three stars, a blowing face.
NO_SENSE = ("cooking", "wedding", "performing arts", "closed book", "blue book", "construction", "sparkles", "wind")
MOST_KINDS = 2
HELD_OUT, COMMON = 50, 100
SEED = 0


@dataclass(kw_only=True)
class Concept:
    """One concept: its name and sense, and the key of its picture in every design that draws it."""

    name: str
    emoji: str
    group: str
    subgroup: str
    tags: list[str]
    sense: Any
    icons: dict[str, str]
    count: int = 0
    subset: str = "rest"
    captions: list[str] = field(default_factory=list)


def choose_concepts(emojibase: Path, wordnet: Any, parts: dict[int, int], designs: Sequence[Icons]) -> list[Concept]:
    """Return the concepts in Unicode's order, all of them in the subset "rest".

    Args:
        emojibase: folder of the package `emojibase-data`.
        wordnet: nltk's reader.
        parts: the number of the lexicographer file of each noun synset, by its offset.
        designs: the pictures of each design.
    """
    required = [each.design.name for each in designs if each.design.split == "train"] + ["fluent-emoji-flat"]
    found: dict[str, Concept] = {}
    for concept in _named(emojibase, wordnet, parts, designs):
        if not all(name in concept.icons for name in required):
            continue
        same = next((each for each in found.values() if concept.name == each.name or concept.sense == each.sense), None)
        if same is not None and not _is_lemma(concept) > _is_lemma(same):
            continue
        if same is not None:
            del found[same.name]
        found[concept.name] = concept
    concepts = _without_kinds(_without_compounds(list(found.values())))
    for concept in concepts:
        concept.count = sum(each.count() for each in concept.sense.lemmas())
        concept.captions = _captions(concept)
    return concepts


def assign_subsets(concepts: Sequence[Concept], attackable: set[str], designs: int) -> None:
    """Set the concepts' subsets: 50 of those with substitutes are held out by a seeded draw, and 100 are common.

    Common are those with substitutes that all designs draw, the most frequent in WordNet's texts first. If they are too
    few, concepts that one design does not draw complete them.

    Args:
        concepts: all concepts.
        attackable: names of those with two substitutes or more, one for either half of a split.
        designs: number of designs.
    """
    for concept in random.Random(SEED).sample([each for each in concepts if each.name in attackable], HELD_OUT):
        concept.subset = "held-out"
    rest = [each for each in concepts if each.subset == "rest" and each.name in attackable]
    for concept in sorted(rest, key=lambda each: (designs - len(each.icons), -each.count))[:COMMON]:  # stable
        concept.subset = "common"


def _named(emojibase: Path, wordnet: Any, parts: dict[int, int], designs: Sequence[Icons]) -> list[Concept]:
    data, messages = (
        json.loads((emojibase / "en" / f"{name}.json").read_text(encoding="utf-8")) for name in ("data", "messages")
    )
    groups = {each["order"]: each["key"] for each in messages["groups"]}
    subgroups = {each["order"]: each["key"] for each in messages["subgroups"]}
    concepts = []
    for row in data:
        group = groups.get(row.get("group"))
        name = re.sub(r"[- ]+", " ", row["label"].lower().removesuffix(" face"))
        words = re.fullmatch(r"[a-z]+( [a-z]+)?", name) and "moon" not in name.split() and name not in NO_SENSE
        if group not in PARTS or not words:
            continue
        senses = wordnet.synsets(name.replace(" ", "_"), "n")
        if not senses or _is_proper(senses[0], name):
            continue
        fitting = [each for part in PARTS[group] for each in senses if parts[each.offset()] == part]
        sense = wordnet.synset(SENSES[name]) if name in SENSES else (fitting or senses)[0]
        symbols = [each for each in row["emoji"] if each != "\ufe0f"]
        names = (row["label"], unicodedata.name(symbols[0], "") if len(symbols) == 1 else "", name)
        icons = {each.design.name: key for each in designs if (key := each.find(filter(None, names)))}
        concepts.append(
            Concept(
                name=name, emoji=row["emoji"], group=group, subgroup=subgroups[row["subgroup"]], tags=row["tags"],
                sense=sense, icons=icons,
            )
        )  # fmt: skip
    return concepts


def _is_proper(sense: Any, name: str) -> bool:
    """Return whether WordNet writes every word of the name with a capital and small letters: Kaaba, Milky Way."""
    lemmas = [each for each in sense.lemma_names() if each.lower() == name.replace(" ", "_")]
    return bool(lemmas) and all(word.istitle() for word in lemmas[0].split("_"))


def _is_lemma(concept: Concept) -> bool:
    return concept.name.replace(" ", "_") in map(str.lower, concept.sense.lemma_names())


def _without_compounds(concepts: list[Concept]) -> list[Concept]:
    names = {each.name for each in concepts}
    return [each for each in concepts if " " not in each.name or not names & set(each.name.split())]


def _without_kinds(concepts: list[Concept]) -> list[Concept]:
    above = {each.name: set(each.sense.closure(lambda synset: synset.hypernyms())) for each in concepts}
    dropped: set[str] = set()
    for general in concepts:
        kinds = {each.name for each in concepts if general.sense in above[each.name]}
        dropped |= kinds if len(kinds) <= MOST_KINDS else {general.name}
    return [each for each in concepts if each.name not in dropped]


# Nouns that take no article, beside plurals.
MASS = (
    "bread", "bacon", "popcorn", "spaghetti", "sushi", "ice cream", "candy", "custard", "sake", "camping", "fog",
    "fire", "american football", "rugby football", "tennis", "bowling", "field hockey", "ice hockey", "badminton",
    "shortcake", "hot springs", "prayer beads",
)  # fmt: skip


def _captions(concept: Concept) -> list[str]:
    """Return three captions. None has a word that an attack may put in: an unseen word must not be seen here."""
    named = with_article(concept.name)
    return [
        f"a pictogram of {named}",
        f"a drawing of {named}, one of the {TOPICS[concept.group]}",
        f"an icon that shows {named}",
    ]


def with_article(name: str) -> str:
    """Return "a dog", "an owl", "grapes", "bread"."""
    plural = name.endswith("s") and name not in ("bus", "cactus", "octopus", "rhinoceros", "hibiscus", "compass")
    if plural or name in MASS:
        return name
    return f"{'an' if name[0] in 'aeiou' and not name.startswith(('uni', 'ewe')) else 'a'} {name}"
