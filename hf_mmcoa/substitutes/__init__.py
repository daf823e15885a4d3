"""Sources of substitute words for text attacks, and their split into known and unseen substitutes."""

from .held_out import known_and_unseen
from .masked_lm import MaskedLMCandidates
from .named import candidate_source
from .source import CandidateSource
from .synonyms import SynonymTable
from .vocabulary import HotFlipCandidates, NeighbourCandidates
from .wordnet import WordNetCandidates

__all__ = [
    "CandidateSource",
    "HotFlipCandidates",
    "MaskedLMCandidates",
    "NeighbourCandidates",
    "SynonymTable",
    "WordNetCandidates",
    "candidate_source",
    "known_and_unseen",
]
