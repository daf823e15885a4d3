"""The training objectives: MMCoA and the published defences that it is compared with, one equation a file.

An objective says three things: the loss, the loss that its attacks maximise, and which encoders train.
"""

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
