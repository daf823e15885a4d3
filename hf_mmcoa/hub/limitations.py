"""What a result does not show, in words, read off its numbers and its specification.

A card that says only what a model withstands is read as if it withstood the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.sanity import failed
from ..evaluation.threat_model import ThreatModel
from ..report.markdown import escape_markdown
from ..report.table import accuracies, count, fraction

FALLEN = 0.5  # of the clean accuracy: below it, the model is said not to be robust


def limits(result: Mapping[str, Any]) -> list[str]:
    """One Markdown sentence or two for each limit: what felled the model, then what was not tried.

    Args:
        result: of `evaluate_robustness`.
    """
    spec = result["attack_spec"]
    return [
        *_not_to_be_trusted(result),
        *_fallen(result),
        *_image(spec, result),
        *_text(spec, result),
        f"Measured on {result['num_samples']} samples of {escape_markdown(str(result.get('dataset', 'unnamed data')))} "
        f"among {len(result.get('class_names', ()))} classes. "
        "Other data, other classes and other prompts have other numbers.",
        "Every robust accuracy is an upper bound: the attacks that were run failed, a better one may not.",
    ]


def _not_to_be_trusted(result: Mapping[str, Any]) -> list[str]:
    findings = failed(result.get("sanity", []))
    said = [
        f"**A sanity check of the measurement failed** ({escape_markdown(finding['check'])}: "
        f"{escape_markdown(finding['detail'])}): the numbers may say more than is true."
        for finding in findings
    ]
    if not result.get("sanity"):
        said.append("The sanity checks of the measurement were not run.")
    zero = ThreatModel.from_dict(result["attack_spec"]).zero_budgets()
    return said + [
        f"The attack {attack} could change nothing ({escape_markdown(why)})." for attack, why in zero.items()
    ]


def _fallen(result: Mapping[str, Any]) -> list[str]:
    clean = result["clean_accuracy"]
    labels = accuracies([result])
    return [
        f"**Not robust to {_attack(name, label)}**: {100 * result[name]:.1f}% stay right, of {100 * clean:.1f}% "
        "without an attack."
        for name, label in labels.items()
        if name not in ("clean_accuracy", "worst_case_accuracy") and result[name] < FALLEN * clean
    ]


def _attack(name: str, label: str) -> str:
    """`text_unseen_accuracy` as "text attacks (unseen)"."""
    kind, _, source = label.partition(" (")
    return f"{escape_markdown(kind)} attacks" + (f" ({escape_markdown(source[:-1])} substitutes)" if source else "")


def _image(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    if "image_accuracy" not in result:
        return ["Image attacks were not run: nothing is known about them."]
    norm, other = ("L∞", "L2") if spec["norm"] == "linf" else ("L2", "L∞")
    at = {"native": "the images' own", "model": "the model's"}.get(spec["perturb_at"], "the")
    said = [
        f"Image perturbations: {norm} of at most {fraction(float(spec['epsilon']))} at {at} resolution. Larger ones, "
        f"the {other} norm, patches, rotations, blur and noise are outside this and were not tried."
    ]
    if not any(name.startswith(("strong", "autoattack")) for name in spec["image_attacks"]):
        said.append(
            "Neither AutoAttack nor the ensemble `strong` was run: they find what single gradient attacks miss."
        )
    return said


def _text(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    if "text_accuracy" not in result:
        return ["Word and character attacks were not run: nothing is known about them."]
    said = []
    if "words" in spec["text_attacks"]:
        sources = spec["candidates"] if isinstance(spec["candidates"], Mapping) else {"": spec["candidates"]}
        named = "; ".join(escape_markdown(f"{name}: {what}" if name else str(what)) for name, what in sources.items())
        said.append(
            f"Text: {count(spec['max_changes'], 'word')} of a prompt replaced, out of these substitutes: {named}. "
            "Other words are another attack, and robustness to words that were trained on does not carry over to them."
        )
    if "characters" not in spec["text_attacks"]:
        said.append("Typing errors and other changes of characters were not tried.")
    if "embedding" not in spec["text_attacks"]:
        said.append("The attack on token embeddings was not run.")
    if "multimodal_accuracy" not in result:
        said.append("Image and text were not attacked together.")
    return said
