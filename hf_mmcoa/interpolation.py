"""Between a pretrained and a robust CLIP: one number that trades clean for robust accuracy after training.

WiSE-FT (arXiv:2109.01903) averages the weights of a model before and after fine-tuning. For a model that was trained by
LoRA the same number is the scale of its adapter: (1 - alpha) W + alpha (W + s B A) = W + alpha s B A.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn

from .evaluation.charts import Series, interpolation_chart
from .evaluation.results import differences, write_json
from .evaluation.robustness import evaluate_robustness
from .evaluation.table import accuracies, describe, escape_markdown, markdown_table

# What two models must share beside the shapes of their weights for a mixture to compute anything sensible.
_ARCHITECTURE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "projection_dim",
    "image_size",
    "patch_size",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",
)


def interpolate(pretrained: nn.Module, robust: nn.Module, alpha: float) -> nn.Module:
    """The model whose weights are (1 - alpha) pretrained + alpha robust, temperature (its logarithm) included.

    Args:
        pretrained: a plain `CLIPModel`.
        robust: one of the same architecture; `merge` makes one of an adapted model.
        alpha: 0 gives exactly `pretrained`, 1 exactly `robust`; outside [0, 1] the line is followed beyond the two.

    Returns:
        A copy of `pretrained` in its precision, in eval mode.

    Raises:
        ValueError: if alpha is not finite, or the models differ in architecture; the text says in what.

    Example:
        >>> from hf_mmcoa.tiny_clip import tiny_clip
        >>> one, two = (tiny_clip(["a cat"], image_size=8, patch_size=2, seed=seed)[0] for seed in (0, 1))
        >>> torch.equal(interpolate(one, two, 1.0).text_projection.weight, two.text_projection.weight)
        True
    """
    if not math.isfinite(alpha):
        raise ValueError(f"`alpha` must be a finite number, got {alpha}.")
    check_mixable(pretrained, robust)
    mixture = copy.deepcopy(pretrained).eval()
    target = robust.state_dict()
    with torch.no_grad():
        for name, weight in mixture.state_dict().items():
            if weight.is_floating_point():
                weight.lerp_(target[name].to(weight), alpha)  # exact at 0 and 1
    return mixture


def check_mixable(one: nn.Module, other: nn.Module) -> None:
    """Raise ValueError, naming what differs, unless the weights of two models may be averaged."""
    found = differences(_architecture(one), _architecture(other))
    if not found:
        shapes = [{name: tuple(weight.shape) for name, weight in model.state_dict().items()} for model in (one, other)]
        found = differences(*shapes)
    if found:
        shown = "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")
        raise ValueError(f"models of different architecture have no weights in between: {shown}.")


def _architecture(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    parts = {"": config, "vision_config.": config.vision_config, "text_config.": config.text_config}
    return {
        f"{prefix}{name}": getattr(part, name)
        for prefix, part in parts.items()
        for name in _ARCHITECTURE
        if hasattr(part, name)
    }


def check_alphas(alphas: Sequence[float]) -> list[float]:
    """The alphas in rising order.

    Raises:
        ValueError: if there are none, one is not finite, or one is given twice.
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
    """Evaluate the mixture at each alpha, one result file each; those that are finished are read and not computed.

    Args:
        pretrained: alpha = 0.
        robust: alpha = 1.
        processor: of both.
        dataset: what they are measured on.
        alphas: see `interpolate`.
        output: folder of the result files, `alpha-<alpha>.json`.
        names: of the two models, recorded in the results.
        candidates_of: makes `candidates` of `evaluate_robustness` for each mixture, so that the attacker may know it.
        **options: of `evaluate_robustness`, the same for each.

    Returns:
        The results in the order of rising alpha.

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
    """Write `interpolation.json`, `interpolation.md` and `interpolation.png` of a sweep; returns their paths.

    Raises:
        ValueError: if the results hold under different threat models or data.
    """
    files = [Path(output) / f"interpolation.{suffix}" for suffix in ("json", "md", "png")]
    table = markdown_table({f"alpha {alpha:g}": result for alpha, result in results.items()})
    first = next(iter(results.values()))
    labels = accuracies(list(results.values()))
    points = [
        {"alpha": alpha, "result": f"alpha-{alpha:.10g}.json"}
        | {name: result[name] for label in labels for name in (label, f"{label}_interval") if name in result}
        for alpha, result in results.items()
    ]
    shared = ("dataset", "num_samples", "attack_spec", "seed", "versions")
    summary = {"pretrained": names[0], "robust": names[1], "points": points, **{name: first[name] for name in shared}}
    caption = f"{describe(first['attack_spec'])}. {first['num_samples']} samples of {first['dataset']}, 95% intervals."
    write_json(summary, files[0])
    title = f"# Between {escape_markdown(names[0])} and {escape_markdown(names[1])}"
    formula = "weights = (1 - alpha) pretrained + alpha robust; accuracies in percent"
    picture = f"![Clean against robust accuracy, and accuracy against alpha]({files[2].name})"
    files[1].write_text("\n\n".join([title, formula, table, caption, picture]) + "\n", encoding="utf-8")
    series = {alpha: Series(name=f"{alpha:g}", place=0, results=[result]) for alpha, result in results.items()}
    files[2].write_bytes(interpolation_chart(series))
    return files
