"""Families of text perturbation, each in training, validation and test parts that share no instance."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .case_and_space import CaseAndSpace
    from .family import Family, Listing, TextFamily, WordFamily, of_part
    from .homoglyphs import Homoglyphs
    from .meaning import ClassNames, SentenceSimilarity
    from .named import text_families
    from .names import FAMILIES, chosen_families
    from .parts import PARTS, Part, divide
    from .plural_and_article import PluralAndArticle
    from .templates import Affixes, TemplateSwaps
    from .typos import CharacterEdits, KeyboardTypos
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".case_and_space": ["CaseAndSpace"],
            ".family": ["Family", "Listing", "TextFamily", "WordFamily", "of_part"],
            ".homoglyphs": ["Homoglyphs"],
            ".meaning": ["ClassNames", "SentenceSimilarity"],
            ".named": ["text_families"],
            ".names": ["FAMILIES", "chosen_families"],
            ".parts": ["PARTS", "Part", "divide"],
            ".plural_and_article": ["PluralAndArticle"],
            ".templates": ["Affixes", "TemplateSwaps"],
            ".typos": ["CharacterEdits", "KeyboardTypos"],
        },
    )

__all__ = [
    "FAMILIES",
    "PARTS",
    "Affixes",
    "CaseAndSpace",
    "CharacterEdits",
    "ClassNames",
    "Family",
    "Homoglyphs",
    "KeyboardTypos",
    "Listing",
    "Part",
    "PluralAndArticle",
    "SentenceSimilarity",
    "TemplateSwaps",
    "TextFamily",
    "WordFamily",
    "chosen_families",
    "divide",
    "of_part",
    "text_families",
]
