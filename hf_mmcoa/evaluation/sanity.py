"""An evaluation that checks itself (docs/methods.md, section 8): a weak attack makes any model look robust.

A gradient-masked model, an attack that does nothing and one that leaves its ball all look robust, or broken, for the
wrong reason. Every attack of the run is checked: on what the evaluation recorded, and the image attacks on a few
samples. A finding is `{"check", "passed", "detail"}`, with `passed` None where a check could not be run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .findings import Finding, failed, finding
from .prepare import Evaluation
from .sanity_images import Samples, check_image_attacks
from .sanity_texts import check_controls, check_embeddings, check_multimodal, check_texts, run_again

__all__ = ["Finding", "failed", "inside_ball", "run_battery"]


def run_battery(evaluation: Evaluation, records: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Run all checks that apply to an evaluation, given the records of its batches."""
    samples = Samples.of(evaluation, "".join(record["outcomes"]["clean"] for record in records))
    again = [run_again(evaluation, samples)] if samples is not None and "multimodal" in evaluation.attacks else []
    findings = []
    if "image" in evaluation.attacks:
        lengths, ranges = zip(
            *((one["largest_perturbation"], one["pixel_range"]) for one in (*records, *again)), strict=True
        )
        findings.append(inside_ball(lengths, ranges, evaluation.spec.pixel_radius))
        if samples is None or evaluation.spec.zero_budgets().get("image"):
            why = "no sample is classified correctly" if samples is None else "the image attack has no budget"
            findings += [finding(f"image/{name}", None, f"not checked: {why}") for name in evaluation.image_attacks]
        else:
            findings += check_image_attacks(samples)
    if "text" in evaluation.attacks:
        findings += check_texts(evaluation.texts, records)
        findings += check_controls(records, evaluation.texts)
        findings += check_embeddings(evaluation.texts, records, samples)
    if samples is not None and again:
        findings += check_multimodal(evaluation.texts, records, again[0], samples)
    return findings


def inside_ball(lengths: Sequence[float], ranges: Sequence[Sequence[float]], epsilon: float) -> Finding:
    """Check that every adversarial example is within epsilon of its image and in [0, 1]."""
    largest, low, high = max(lengths), min(one[0] for one in ranges), max(one[1] for one in ranges)
    limit = epsilon * (1 + 1e-4) + 1e-6  # rounding of float32
    return finding(
        "inside the ball",
        largest <= limit and low >= 0 and high <= 1,
        f"largest perturbation {largest:.6g} of {epsilon:.6g}, pixels from {low:g} to {high:g}",
    )
