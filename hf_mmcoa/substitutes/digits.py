"""Substitutes for the class words of the embedded digits: English words for the same digit.

Training may use one half of each list, and the other is held out. Robustness to the words of training says nothing
about other words, so both halves are evaluated.
"""

from __future__ import annotations

from .synonyms import SynonymTable

SYNONYMS = SynonymTable(
    {
        "zero": ("nought", "nil", "cipher", "null", "naught", "nothing"),
        "one": ("single", "ace", "unit", "unity", "solo", "sole"),
        "two": ("pair", "couple", "deuce", "duo", "twain", "brace"),
        "three": ("trio", "triad", "triple", "trey", "threesome", "trinity"),
        "four": ("quartet", "foursome", "tetrad", "quadruple", "quaternary", "quatern"),
        "five": ("quintet", "fivesome", "pentad", "quint", "quintuple", "cinque"),
        "six": ("sextet", "sixsome", "hexad", "sextuple", "sise", "senary"),
        "seven": ("septet", "sevensome", "heptad", "septuple", "septenary", "hebdomad"),
        "eight": ("octet", "eightsome", "octad", "octuple", "ogdoad", "octonary"),
        "nine": ("nonet", "ninesome", "ennead", "nonuple", "novenary", "niner"),
    }
)
