"""The metrics of the evaluation as local modules of the `evaluate` library: nothing is fetched."""

from __future__ import annotations

from pathlib import Path

METRICS = ("clean_accuracy", "robust_accuracy", "attack_success_rate")


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Raises:
        ValueError: if there is no metric of that name.

    Example:
        >>> import evaluate
        >>> metric = evaluate.load(metric_path("robust_accuracy"))
        >>> metric.compute(predictions=[[1, 1], [0, 1]], references=[1, 0])
        {'robust_accuracy': 0.5}
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; choose from {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)
