"""Accuracies under attack as metrics of the `evaluate` library, for predictions that were made elsewhere.

`evaluate_robustness` attacks a model and computes all of these. The metrics serve those who have their own pipeline or
attack, and only predictions to show. They are local modules: nothing is downloaded.

Example:
    ```python
    import evaluate
    from hf_mmcoa.evaluation.metrics import metric_path
    from transformers import pipeline

    classify = pipeline("zero-shot-image-classification", model="robust-clip")

    def predict(images):
        return [names.index(found[0]["label"]) for found in classify(images, candidate_labels=names)]

    clean, attacked = predict(images), predict(adv_images)
    accuracy = evaluate.load(metric_path("clean_accuracy"))
    accuracy.compute(predictions=clean, references=labels)
    robust = evaluate.load(metric_path("robust_accuracy"))
    robust.compute(predictions=list(zip(clean, attacked)), references=labels)
    ```
"""

from __future__ import annotations

from pathlib import Path

METRICS = ("clean_accuracy", "robust_accuracy", "attack_success_rate")


def metric_path(name: str) -> str:
    """Return the folder of a metric, for `evaluate.load`.

    Args:
        name: one of `METRICS`.

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
