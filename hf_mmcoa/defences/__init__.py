"""Defences that need no training: what stands between a user's text and the model. Rows to compare training with."""

from .prompt_correction import CorrectingProcessor, Correction, NearestCentroid, SpellCorrection

__all__ = ["CorrectingProcessor", "Correction", "NearestCentroid", "SpellCorrection"]
