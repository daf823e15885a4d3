"""Robust fine-tuning of CLIP against image, text and multimodal attacks, native to the Hugging Face stack."""

from ._version import __version__
from .config import MMCoAConfig
from .data.load import load_benchmark
from .evaluation.evaluator import evaluate_robustness
from .losses import contrastive_loss
from .training.trainer import MMCoATrainer
from .zero_shot import ZeroShotClassifier

__all__ = [
    "MMCoAConfig",
    "MMCoATrainer",
    "ZeroShotClassifier",
    "__version__",
    "contrastive_loss",
    "evaluate_robustness",
    "load_benchmark",
]
