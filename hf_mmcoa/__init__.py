"""Robust fine-tuning of CLIP against image, text and multimodal attacks, native to the Hugging Face stack."""

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from ._version import __version__

if TYPE_CHECKING:
    from .config import MMCoAConfig
    from .convert.load import load_robust
    from .convert.robust_clips import robust_clips
    from .data.load import load_benchmark
    from .evaluation.evaluator import evaluate_robustness
    from .evaluation.retrieval import evaluate_retrieval
    from .losses import contrastive_loss
    from .models.llava import swap_vision_tower
    from .training.trainer import MMCoATrainer
    from .zero_shot import ZeroShotClassifier
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["MMCoAConfig"],
            ".convert.load": ["load_robust"],
            ".convert.robust_clips": ["robust_clips"],
            ".data.load": ["load_benchmark"],
            ".evaluation.evaluator": ["evaluate_robustness"],
            ".evaluation.retrieval": ["evaluate_retrieval"],
            ".losses": ["contrastive_loss"],
            ".models.llava": ["swap_vision_tower"],
            ".training.trainer": ["MMCoATrainer"],
            ".zero_shot": ["ZeroShotClassifier"],
        },
    )

__all__ = [
    "MMCoAConfig",
    "MMCoATrainer",
    "ZeroShotClassifier",
    "__version__",
    "contrastive_loss",
    "evaluate_retrieval",
    "evaluate_robustness",
    "load_benchmark",
    "load_robust",
    "robust_clips",
    "swap_vision_tower",
]
