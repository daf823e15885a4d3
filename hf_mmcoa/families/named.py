"""The families by name: what an option such as `families="homoglyphs|affixes"` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data.prompts import DEFAULT_TEMPLATE
from ..substitutes.held_out import HalfOf
from ..substitutes.synonyms import SynonymTable
from ..substitutes.wordnet import WordNetCandidates
from .case_and_space import CaseAndSpace
from .family import Changes, Family, TextFamily, WordFamily
from .homoglyphs import Homoglyphs
from .meaning import SentenceSimilarity
from .names import chosen_families
from .parts import Part
from .plural_and_article import PluralAndArticle
from .templates import PARAPHRASES, Affixes, TemplateSwaps, imagenet_templates
from .typos import CharacterEdits, EditListing, KeyboardTypos


def text_families(
    families: str = "all",
    leave_out: str | None = None,
    *,
    template: str = DEFAULT_TEMPLATE,
    class_names: Sequence[str] = (),
    words: Any = None,
    characters: EditListing | None = None,
    part: Part | None = None,
    check: SentenceSimilarity | None = None,
    seed: int = 0,
) -> list[TextFamily]:
    """Return families by name.

    A text that two of them write belongs to the one that stands first in `FAMILIES`, whether that one is chosen or not:
    "characters" holds no keyboard typo, so that leaving "keyboard" out leaves all of them out.

    Args:
        families: "all", which is all that can be made of what is given, or names joined by `|`.
        leave_out: one that is not used; None for none.
        template: the template that class prompts were made with.
        class_names, part, check, seed: as in `Family`.
        words: `BertAttack`; the family "synonyms" if its candidates are synonyms (a `SynonymTable` or WordNet, or a
            half of one), else the family "words". None for neither.
        characters: `LevenshteinAttack` with at most one edit; None for no such family.

    Raises:
        ValueError: if a name is unknown, or needs an attack that is not given.

    Example:
        >>> [family.name for family in text_families("keyboard|affixes", part="train")]
        ['keyboard', 'affixes']
    """
    names = chosen_families(families, leave_out)
    shared: dict[str, Any] = {"part": part, "class_names": tuple(class_names), "check": check, "seed": seed}
    changes: dict[str, Changes] = {
        "keyboard": KeyboardTypos(),
        "homoglyphs": Homoglyphs(),
        "case-and-space": CaseAndSpace(),
        "templates": TemplateSwaps(templates=imagenet_templates(), template=template),
        "paraphrases": TemplateSwaps(templates=PARAPHRASES, template=template),
        "affixes": Affixes(),
        "plural-and-article": PluralAndArticle(template=template),
    }
    if characters is not None:
        changes["characters"] = CharacterEdits(characters)
    found: dict[str, TextFamily] = {}
    for number, (name, each) in enumerate(changes.items()):
        found[name] = Family(name=name, changes=each, without=tuple(changes.values())[:number], **shared)
    if words is not None:
        name = "synonyms" if _are_synonyms(words.candidates) else "words"
        found[name] = WordFamily(name=name, attack=words, **shared)
    for needed in (*(names if families != "all" else ()), *((leave_out,) if leave_out else ())):
        if needed not in found:
            raise ValueError(f"the family {needed!r} needs {_NEEDS[needed]}; here: {', '.join(found)}.")
    return [found[name] for name in names if name in found]


_NEEDS = {
    "synonyms": "`candidates` that are synonyms, a `SynonymTable` or wordnet",
    "words": "`candidates` that are no synonyms, such as neighbours or masked-lm",
    "characters": "an attack on characters",
}


def _are_synonyms(source: object) -> bool:
    while isinstance(source, HalfOf):
        source = source.source
    return isinstance(source, (SynonymTable, WordNetCandidates))
