"""Say which attacks a model does not withstand: the line that a table of improvements needs below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .table import accuracies


def what_remains(result: Mapping[str, Any]) -> str:
    """Return a sentence that names every attack which leaves a model at chance or below.

    Args:
        result: of `evaluate_robustness`; chance is one over its number of classes.

    Example:
        >>> what_remains({"clean_accuracy": 0.9, "image_accuracy": 0.1, "class_names": ["cat", "dog"]})
        'Still broken, at chance (50.0%) or below: image 10.0.'
    """
    chance = 1 / len(result["class_names"])
    broken = [
        f"{label} {100 * result[name]:.1f}" for name, label in accuracies([result]).items() if result[name] <= chance
    ]
    if not broken:
        return f"No attack that was measured leaves the model at chance ({chance:.1%}) or below."
    return f"Still broken, at chance ({chance:.1%}) or below: {', '.join(broken)}."
