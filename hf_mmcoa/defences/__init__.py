"""Defences that need no training: what stands between a user's text and the model. Rows to compare training with."""

from .prompt_correction import CorrectingProcessor, Correction, NearestCentroid, SpellCorrection
from .smoothing import SmoothedPools
from .synonyms import SynonymEnsemble, synonym_sets

__all__ = [
    "CorrectingProcessor",
    "Correction",
    "NearestCentroid",
    "SmoothedPools",
    "SpellCorrection",
    "SynonymEnsemble",
    "synonym_sets",
]
