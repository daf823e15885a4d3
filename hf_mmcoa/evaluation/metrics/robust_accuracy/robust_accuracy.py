"""Compute the robust accuracy. One import a line: `evaluate.load` parses this file."""

from __future__ import annotations

import datasets
import evaluate


class RobustAccuracy(evaluate.Metric):
    """The fraction of samples that are classified correctly under every attack."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of samples that are classified correctly under every attack, the worst case of each.",
            citation="",
            inputs_description=(
                "predictions: for each sample a list of classes, the clean one and one per attack. references: labels."
            ),
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        for row, own in enumerate(predictions):
            if len(own) == 0:
                raise ValueError(
                    f"`predictions` of sample {row} are empty: give the clean prediction and one per attack."
                )
        correct = sum(
            all(int(one) == int(label) for one in own) for own, label in zip(predictions, references, strict=True)
        )
        return {"robust_accuracy": correct / len(references)}
