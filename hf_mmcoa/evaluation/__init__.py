"""Robustness evaluation: threat models, the evaluator, its results and their statistics."""

from .callback import RobustnessCallback
from .results import compare, load_result, save_result
from .robustness import evaluate_robustness
from .specification import ThreatModel

__all__ = ["RobustnessCallback", "ThreatModel", "compare", "evaluate_robustness", "load_result", "save_result"]
