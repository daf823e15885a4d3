"""Say which attacks a model does not withstand: the line that a table of improvements needs below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .table import accuracies


def what_remains(result: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """Name every attack which leaves a model at chance or below, and what training made worse: nonsense words.

    Args:
        result: of `evaluate_robustness`; chance is one over its number of classes.
        before: the same of the model before training.

    Example:
        >>> what_remains({"clean_accuracy": 0.9, "image_accuracy": 0.1, "class_names": ["cat", "dog"]})
        'Still broken, at chance (50.0%) or below: image 10.0.'
    """
    chance = 1 / len(result["class_names"])
    broken = [
        f"{label} {100 * result[name]:.1f}" for name, label in accuracies([result]).items() if result[name] <= chance
    ]
    if broken:
        said = f"Still broken, at chance ({chance:.1%}) or below: {', '.join(broken)}."
    else:
        said = f"No attack that was measured leaves the model at chance ({chance:.1%}) or below."
    now, then = result.get("nonsense_images", 0), (before or {}).get("nonsense_images")
    if then is None or now <= then:
        return said
    return f"{said} Worse than before: a nonsense word beats every class on {now:.1%} of the images ({then:.1%})."
