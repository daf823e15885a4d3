"""Attack success rate, of the correctly classified samples. `evaluate.load` reads one import a line."""

from __future__ import annotations

import datasets
import evaluate


class AttackSuccessRate(evaluate.Metric):
    """Fraction of the correctly classified samples that the attack makes wrong."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Fraction of the correctly classified samples that are misclassified under attack.",
            citation="",
            inputs_description="predictions: clean, a class per sample. adv_predictions: attacked. references: labels.",
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
        fell = [int(adv) != int(label) for clean, adv, label in rows if int(clean) == int(label)]
        return {"attack_success_rate": sum(fell) / len(fell) if fell else None}
