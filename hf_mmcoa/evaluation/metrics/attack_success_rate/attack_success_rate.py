"""Compute the attack success rate. One import a line: `evaluate.load` parses this file."""

from __future__ import annotations

import datasets
import evaluate


class AttackSuccessRate(evaluate.Metric):
    """The fraction of the correctly classified samples that are misclassified under attack."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of the correctly classified samples that are misclassified under attack.",
            citation="",
            inputs_description="predictions: classes, clean. adv_predictions: classes, attacked. references: labels.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "adv_predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self, predictions: list[int], adv_predictions: list[int], references: list[int]
    ) -> dict[str, float | None]:
        rows = zip(predictions, adv_predictions, references, strict=True)
        misclassified = [int(adv) != int(label) for clean, adv, label in rows if int(clean) == int(label)]
        return {"attack_success_rate": sum(misclassified) / len(misclassified) if misclassified else None}
