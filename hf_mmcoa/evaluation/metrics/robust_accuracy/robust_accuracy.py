"""Robust accuracy: the worst case over attacks, per sample. `evaluate.load` reads one import a line."""

from __future__ import annotations

import datasets
import evaluate


class RobustAccuracy(evaluate.Metric):
    """Fraction of samples that every one of several predictions classifies as their label."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of samples that stand against every attack: the worst case per sample, not a mean.",
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
                raise ValueError(f"`predictions` of sample {row} are empty: nothing says whether it stands.")
        stands = sum(
            all(int(one) == int(label) for one in own) for own, label in zip(predictions, references, strict=True)
        )
        return {"robust_accuracy": stands / len(references)}
