"""Robustness evaluation: threat models, the evaluator, its results and their statistics."""

from .callback import RobustnessCallback
from .evaluator import evaluate_robustness
from .results import compare, load_result, save_result
from .retrieval import evaluate_retrieval
from .threat_model import ThreatModel

__all__ = [
    "RobustnessCallback",
    "ThreatModel",
    "compare",
    "evaluate_retrieval",
    "evaluate_robustness",
    "load_result",
    "save_result",
]
