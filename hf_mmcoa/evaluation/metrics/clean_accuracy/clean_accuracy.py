"""Clean accuracy, the reference of every robust one. `evaluate.load` reads one import a line."""

from __future__ import annotations

import datasets
import evaluate


class CleanAccuracy(evaluate.Metric):
    """Fraction of samples that are classified as their label, without an attack."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of samples that are classified as their label, without an attack.",
            citation="",
            inputs_description="predictions: one class per sample. references: labels.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        correct = sum(int(a) == int(b) for a, b in zip(predictions, references, strict=True))
        return {"clean_accuracy": correct / len(references)}
