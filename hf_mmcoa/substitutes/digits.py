"""English words for the same digit: the embedded data set's substitutes.

One half of each list is known to training, the other is held out: robustness to words that were trained on says nothing
about words that were not, so both are measured.
"""

from __future__ import annotations

from .table import SynonymTable

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
