"""Measure and draw the robustness of mixtures between a pretrained and a robust model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from torch import nn

from ..evaluation.evaluator import evaluate_robustness
from ..io import write_bytes, write_json, write_text
from ..models.weights import check_mixable, interpolate
from ..report.charts import Series, interpolation_chart
from ..report.conditions import attacks_texts, describe, interval_sentence, measured_kinds
from ..report.markdown import escape_markdown
from ..report.table import accuracies, estimate, markdown_table


def check_alphas(alphas: Sequence[float]) -> list[float]:
    """Return the alphas in rising order.

    Raises:
        ValueError: if there is no alpha, one is not finite, or one occurs twice.
    """
    if not alphas or not all(math.isfinite(alpha) for alpha in alphas) or len(set(alphas)) < len(alphas):
        raise ValueError(f"`alphas` must be different finite numbers, at least one, got {list(alphas)}.")
    if outside := [f"{alpha:g}" for alpha in sorted(alphas) if not 0 <= alpha <= 1]:
        warnings.warn(
            f"alpha {', '.join(outside)} lies outside [0, 1]: such weights are beyond both models, not between them. "
            "Leave it out to silence this.",
            UserWarning,
            stacklevel=3,
        )
    return sorted(alphas)


def sweep(
    pretrained: nn.Module,
    robust: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    alphas: Sequence[float],
    output: str | Path,
    *,
    names: tuple[str, str] = ("pretrained", "robust"),
    candidates_of: Callable[[nn.Module], Any] | None = None,
    **options: Any,
) -> dict[float, dict[str, Any]]:
    """Evaluate the mixture at each alpha, with one result file each; finished ones are read and not computed again.

    Args:
        pretrained: model at alpha = 0.
        robust: model at alpha = 1.
        processor: processor of both models.
        dataset: data that the mixtures are evaluated on.
        alphas: weights of the robust model, see `interpolate`.
        output: folder of the result files, `alpha-<alpha>.json`.
        names: names of the two models, recorded in the results.
        candidates_of: function that returns `candidates` of `evaluate_robustness` for a mixture, for attackers that
            use the model itself.
        **options: arguments of `evaluate_robustness`, the same for each mixture.

    Returns:
        The results by alpha, in rising order.

    Raises:
        ValueError: as `check_alphas`, `interpolate` and `evaluate_robustness`.
    """
    check_mixable(pretrained, robust)
    results = {}
    for alpha in check_alphas(alphas):
        mixture = interpolate(pretrained, robust, alpha)
        if candidates_of is not None:
            options["candidates"] = candidates_of(mixture)
        results[alpha] = evaluate_robustness(
            mixture,
            processor,
            dataset,
            output=Path(output) / f"alpha-{alpha:.10g}.json",
            model_name=f"(1 - {alpha:.10g}) {names[0]} + {alpha:.10g} {names[1]}",
            **options,
        )
    return results


def write_summary(results: Mapping[float, Mapping[str, Any]], output: str | Path, names: tuple[str, str]) -> list[Path]:
    """Write `interpolation.json`, `interpolation.md` and `interpolation.png` of a sweep; return their paths.

    Raises:
        ValueError: if the results have different threat models or data.
    """
    files = [Path(output) / f"interpolation.{suffix}" for suffix in ("json", "md", "png")]
    table = markdown_table({f"alpha {alpha:g}": result for alpha, result in results.items()})
    first = next(iter(results.values()))
    labels = accuracies(list(results.values()))
    points: list[dict[str, Any]] = []
    for alpha, result in results.items():
        points.append({"alpha": alpha, "result": f"alpha-{alpha:.10g}.json"})
        for name in filter(result.__contains__, labels):
            found = estimate([result], name)
            points[-1] |= {name: result[name], f"{name}_interval": [found.low, found.high]}
            points[-1][f"{name}_interval_over"] = found.over
    shared = ("dataset", "num_samples", "attack_spec", "seed", "versions")
    summary = {"pretrained": names[0], "robust": names[1], "points": points, **{name: first[name] for name in shared}}
    threats = describe(first["attack_spec"], measured=measured_kinds(first))
    caption = f"{threats}. {first['num_samples']} samples of {first['dataset']}. "
    caption += interval_sentence(averaged=False, texts=attacks_texts([first]))
    write_json(summary, files[0])
    title = f"# Between {escape_markdown(names[0])} and {escape_markdown(names[1])}"
    formula = "weights = (1 - alpha) pretrained + alpha robust; accuracies in percent"
    picture = f"![Clean against robust accuracy, and accuracy against alpha]({files[2].name})"
    write_text("\n\n".join([title, formula, table, caption, picture]) + "\n", files[1])
    series = {alpha: Series(name=f"{alpha:g}", place=0, results=[result]) for alpha, result in results.items()}
    write_bytes(interpolation_chart(series), files[2])
    return files
