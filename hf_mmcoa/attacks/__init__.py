"""Attacks on images, on texts and on both: one module per attack, settings as fields, data as call arguments."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ..substitutes.masked_lm import MaskedLMCandidates
    from ..substitutes.source import CandidateSource
    from ..substitutes.synonyms import SynonymTable
    from ..substitutes.vocabulary import HotFlipCandidates, NeighbourCandidates
    from ..substitutes.wordnet import WordNetCandidates
    from .apgd import APGD
    from .autoattack import AutoAttack
    from .bert_attack import BertAttack
    from .co_attack import CoAttack
    from .contracts import (
        AdversarialPairs,
        ClassifierAttack,
        EnumerableTextAttack,
        ImageAttack,
        MultimodalAttack,
        TextAttack,
    )
    from .diversity import Diversity
    from .exhaustive import attack_prompts
    from .expectation import Expectation
    from .family_attack import FamilyAttack
    from .feature_distance import FeatureDistance
    from .image_text_embedding import ImageTextPGD
    from .joint import Joint
    from .levenshtein import LevenshteinAttack
    from .momentum import Momentum
    from .pgd import PGD
    from .restarts import Restarts
    from .sga import SGA
    from .strong import StrongAttack
    from .text_embedding import TextEmbeddingPGD
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "..substitutes.masked_lm": ["MaskedLMCandidates"],
            "..substitutes.source": ["CandidateSource"],
            "..substitutes.synonyms": ["SynonymTable"],
            "..substitutes.vocabulary": ["HotFlipCandidates", "NeighbourCandidates"],
            "..substitutes.wordnet": ["WordNetCandidates"],
            ".apgd": ["APGD"],
            ".autoattack": ["AutoAttack"],
            ".bert_attack": ["BertAttack"],
            ".co_attack": ["CoAttack"],
            ".contracts": [
                "AdversarialPairs",
                "ClassifierAttack",
                "EnumerableTextAttack",
                "ImageAttack",
                "MultimodalAttack",
                "TextAttack",
            ],
            ".diversity": ["Diversity"],
            ".exhaustive": ["attack_prompts"],
            ".expectation": ["Expectation"],
            ".image_text_embedding": ["ImageTextPGD"],
            ".family_attack": ["FamilyAttack"],
            ".feature_distance": ["FeatureDistance"],
            ".joint": ["Joint"],
            ".levenshtein": ["LevenshteinAttack"],
            ".momentum": ["Momentum"],
            ".pgd": ["PGD"],
            ".restarts": ["Restarts"],
            ".sga": ["SGA"],
            ".strong": ["StrongAttack"],
            ".text_embedding": ["TextEmbeddingPGD"],
        },
    )

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
    "Expectation",
    "FamilyAttack",
    "FeatureDistance",
    "HotFlipCandidates",
    "ImageAttack",
    "ImageTextPGD",
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
    "attack_prompts",
]
