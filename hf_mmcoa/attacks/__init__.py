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
    from .beyond import BeyondAttack, Changed
    from .co_attack import CoAttack
    from .contracts import (
        AdversarialPairs,
        ClassifierAttack,
        EnumerableTextAttack,
        ImageAttack,
        MultimodalAttack,
        TextAttack,
    )
    from .corruptions import Corruptions
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
    from .typographic import Typographic
    from .universal import UniversalPerturbation, train_universal
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
            ".beyond": ["BeyondAttack", "Changed"],
            ".co_attack": ["CoAttack"],
            ".contracts": [
                "AdversarialPairs",
                "ClassifierAttack",
                "EnumerableTextAttack",
                "ImageAttack",
                "MultimodalAttack",
                "TextAttack",
            ],
            ".corruptions": ["Corruptions"],
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
            ".typographic": ["Typographic"],
            ".universal": ["UniversalPerturbation", "train_universal"],
        },
    )

__all__ = [
    "APGD",
    "PGD",
    "SGA",
    "AdversarialPairs",
    "AutoAttack",
    "BertAttack",
    "BeyondAttack",
    "CandidateSource",
    "Changed",
    "ClassifierAttack",
    "CoAttack",
    "Corruptions",
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
    "Typographic",
    "UniversalPerturbation",
    "WordNetCandidates",
    "attack_prompts",
    "train_universal",
]
