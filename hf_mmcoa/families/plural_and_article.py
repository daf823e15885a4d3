"""Another article before the class name, or the name in the plural; right ones, and the errors of learners."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from ..data.prompts import DEFAULT_TEMPLATE
from .parts import Instance
from .templates import name_in

DETERMINERS = ("a", "an", "the", "", "this", "that", "some", "my", "your", "another", "these", "many")
FORMS = ("singular", "plural", "plural with s", "possessive")
ARTICLES = ("a", "an", "the")

# Frequent nouns of English whose plural no rule gives; any grammar lists them.
IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "ox": "oxen", "wolf": "wolves", "leaf": "leaves", "loaf": "loaves",
    "knife": "knives", "calf": "calves", "shelf": "shelves", "scarf": "scarves", "elf": "elves", "half": "halves",
    "potato": "potatoes", "tomato": "tomatoes", "sheep": "sheep", "deer": "deer", "fish": "fish", "salmon": "salmon",
    "trout": "trout", "aircraft": "aircraft", "bison": "bison", "swine": "swine", "scissors": "scissors",
}  # fmt: skip


def plural(noun: str) -> str:
    """Return the plural of a noun; of several words, of the last one.

    Example:
        >>> [plural(each) for each in ("cat", "box", "grocery store", "pony", "wolf")]
        ['cats', 'boxes', 'grocery stores', 'ponies', 'wolves']
    """
    rest, blank, word = noun.rpartition(" ")
    if word.lower() in IRREGULAR:
        word = IRREGULAR[word.lower()]
    elif re.search(r"[^aeiou]y$", word):
        word = f"{word[:-1]}ies"
    else:
        word += "es" if re.search(r"(s|x|z|ch|sh)$", word) else "s"
    return rest + blank + word


@dataclass(frozen=True, kw_only=True)
class PluralAndArticle:
    """The class name with another determiner, in the plural, or with an apostrophe.

    Instances: ("singular", "the") and so on: a form of the name, and the word before it, "" for none. In a text that
    does not match the template, the noun is not known; only its articles are exchanged there.

    Args:
        template: the template that class prompts were made with.
    """

    template: str = DEFAULT_TEMPLATE

    @property
    def inventory(self) -> list[Instance]:
        """Return all instances, see `Changes`."""
        return list(product(FORMS, DETERMINERS))

    def __call__(self, text: str) -> Iterator[tuple[Instance, str]]:
        """Yield changed texts, see `Changes`."""
        name = name_in(text, self.template)
        if name is None:
            for found in re.finditer(r"\b(?:a|an|the) ", text, re.IGNORECASE):
                for word in DETERMINERS:
                    yield ("singular", word), text[: found.start()] + _before(word) + text[found.end() :]
            return
        start = self.template.index("{}")
        before, after = text[:start], text[start + len(name) :]
        article = next((each for each in ARTICLES if re.search(rf"\b{each} $", before, re.IGNORECASE)), "")
        before = before[: len(before) - len(_before(article))]
        names = {"singular": name, "plural": plural(name), "plural with s": f"{name}s", "possessive": f"{name}'s"}
        for form, word in product(FORMS, DETERMINERS):
            yield (form, word), before + _before(word) + names[form] + after


def _before(determiner: str) -> str:
    return f"{determiner} " if determiner else ""
