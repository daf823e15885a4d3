"""Attacks on images, texts and both: one file an attack, settings in the fields, data in the call."""

from .apgd import APGD
from .autoattack import AutoAttack
from .base import (
    AdversarialPairs,
    ClassifierAttack,
    EnumerableTextAttack,
    ImageAttack,
    MultimodalAttack,
    TextAttack,
)
from .bert_attack import BertAttack
from .candidates import (
    CandidateSource,
    HotFlipCandidates,
    MaskedLMCandidates,
    NeighbourCandidates,
    SynonymTable,
    WordNetCandidates,
)
from .co_attack import CoAttack
from .diversity import Diversity
from .joint import Joint
from .levenshtein import LevenshteinAttack
from .momentum import Momentum
from .pgd import PGD
from .restarts import Restarts
from .sga import SGA
from .strong import StrongAttack
from .text_embedding import TextEmbeddingPGD

__all__ = [
    "APGD",
    "PGD",
    "SGA",
    "AdversarialPairs",
    "AutoAttack",
    "BertAttack",
    "CandidateSource",
    "ClassifierAttack",
    "CoAttack",
    "Diversity",
    "EnumerableTextAttack",
    "HotFlipCandidates",
    "ImageAttack",
    "Joint",
    "LevenshteinAttack",
    "MaskedLMCandidates",
    "Momentum",
    "MultimodalAttack",
    "NeighbourCandidates",
    "Restarts",
    "StrongAttack",
    "SynonymTable",
    "TextAttack",
    "TextEmbeddingPGD",
    "WordNetCandidates",
]
