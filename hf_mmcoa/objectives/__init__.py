"""The published defences, one file an equation: they differ in loss, attack and the encoders that train."""

from .base import Embeddings, Objective, View
from .clean import Clean
from .mmcoa import MMCoA

__all__ = ["Clean", "Embeddings", "MMCoA", "Objective", "View"]
