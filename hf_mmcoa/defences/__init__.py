"""Defences that need no training: what stands between a user's text and the model. Rows to compare training with."""

from .controls import GaussianNoise, Quantise
from .counterattack import TTC
from .defence import Defence, ImageDefence
from .prompt_correction import CorrectingProcessor, Correction, NearestCentroid, SpellCorrection
from .prompt_tuning import RTPT
from .smoothing import SmoothedPools
from .synonyms import SynonymEnsemble, synonym_sets

__all__ = ["RTPT", "TTC", "Defence", "GaussianNoise", "ImageDefence", "Quantise"]
__all__ += ["CorrectingProcessor", "Correction", "NearestCentroid", "SpellCorrection"]
__all__ += ["SmoothedPools", "SynonymEnsemble", "synonym_sets"]
