"""The published defences, one file an equation: they differ in loss, attack and the encoders that train."""

from .base import Embeddings, Objective, View
from .clean import Clean
from .fare import FARE
from .fare_leaf import FAREAndLEAF
from .leaf import LEAF
from .mmcoa import MMCoA
from .pmg_aft import PMGAFT
from .tecoa import TeCoA
from .tga_zsr import TGAZSR

__all__ = [
    "FARE",
    "LEAF",
    "PMGAFT",
    "TGAZSR",
    "Clean",
    "Embeddings",
    "FAREAndLEAF",
    "MMCoA",
    "Objective",
    "TeCoA",
    "View",
]
