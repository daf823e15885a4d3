"""Families of text perturbation, each in training, validation and test parts that share no instance."""

from .case_and_space import CaseAndSpace
from .family import Family, Listing, TextFamily, WordFamily, of_part
from .homoglyphs import Homoglyphs
from .meaning import ClassNames, SentenceSimilarity
from .named import FAMILIES, chosen_families, text_families
from .parts import PARTS, Part, divide
from .plural_and_article import PluralAndArticle
from .templates import Affixes, TemplateSwaps
from .typos import CharacterEdits, KeyboardTypos

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
