"""The training objectives: MMCoA and the published defences that it is compared with, one equation a file.

An objective says three things: the loss, the loss that its attacks maximise, and which encoders train.
"""

from .advflyp import AdvFLYP
from .agft import AGFT
from .base import Embeddings, Objective, View
from .clean import Clean
from .fare import FARE
from .fare_leaf import FAREAndLEAF
from .leaf import LEAF
from .mat import MAT
from .mmcoa import MMCoA
from .pmg_aft import PMGAFT
from .qt_aft import QTAFT
from .saft import SAFT
from .sim_clip import SimCLIP
from .tecoa import TeCoA
from .tga_zsr import TGAZSR

__all__ = [
    "AGFT",
    "FARE",
    "LEAF",
    "MAT",
    "PMGAFT",
    "QTAFT",
    "SAFT",
    "TGAZSR",
    "AdvFLYP",
    "Clean",
    "Embeddings",
    "FAREAndLEAF",
    "MMCoA",
    "Objective",
    "SimCLIP",
    "TeCoA",
    "View",
]
