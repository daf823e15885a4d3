"""Robustness evaluation: threat models, the evaluator, its results and their statistics."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .callback import RobustnessCallback
    from .defended import evaluate_defence
    from .defended_results import load_defended
    from .encoder_shift import EncoderShift, Shift, evaluate_encoder
    from .evaluator import evaluate_robustness
    from .families import FamilyOutcome, measure_families, measure_family
    from .results import compare, load_result, save_result
    from .retrieval import evaluate_retrieval
    from .threat_model import ThreatModel
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".callback": ["RobustnessCallback"],
            ".defended": ["evaluate_defence"],
            ".defended_results": ["load_defended"],
            ".encoder_shift": ["EncoderShift", "Shift", "evaluate_encoder"],
            ".evaluator": ["evaluate_robustness"],
            ".families": ["FamilyOutcome", "measure_families", "measure_family"],
            ".results": ["compare", "load_result", "save_result"],
            ".retrieval": ["evaluate_retrieval"],
            ".threat_model": ["ThreatModel"],
        },
    )

__all__ = [
    "EncoderShift",
    "FamilyOutcome",
    "RobustnessCallback",
    "Shift",
    "ThreatModel",
    "compare",
    "evaluate_defence",
    "evaluate_encoder",
    "evaluate_retrieval",
    "evaluate_robustness",
    "load_defended",
    "load_result",
    "measure_families",
    "measure_family",
    "save_result",
]
