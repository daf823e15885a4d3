"""Compute the accuracy without attack. One import a line: `evaluate.load` parses this file."""

from __future__ import annotations

import datasets
import evaluate


class CleanAccuracy(evaluate.Metric):
    """The fraction of samples that are classified correctly without attack."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of samples that are classified correctly without attack.",
            citation="",
            inputs_description="predictions: the class of each sample. references: labels.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        correct = sum(int(a) == int(b) for a, b in zip(predictions, references, strict=True))
        return {"clean_accuracy": correct / len(references)}
