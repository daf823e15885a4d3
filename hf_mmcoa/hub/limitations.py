"""The limits of a result in words, derived from its numbers and its attack specification.

Readers of a card that lists only the attacks to which a model is robust would assume that it is robust to all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.sanity import failed
from ..evaluation.threat_model import ThreatModel
from ..report.conditions import count, fraction
from ..report.markdown import escape_markdown
from ..report.table import ADVERSARIES, BEYOND_LABEL, accuracies, accuracy_parts
from ..report.titles import radius

FALLEN = 0.5  # share of the clean accuracy; a model with less accuracy under an attack is called not robust to it


def limits(result: Mapping[str, Any]) -> list[str]:
    """Return one or two Markdown sentences per limit: first the attacks that succeeded, then those that were not tried.

    Args:
        result: a result of `evaluate_robustness`.
    """
    spec = result["attack_spec"]
    return [
        *_not_to_be_trusted(result),
        *_fallen(result),
        *_image(spec, result),
        *_text(spec, result),
        f"Measured on {result['num_samples']} samples of {escape_markdown(str(result.get('dataset', 'unnamed data')))} "
        f"among {len(result.get('class_names', ()))} classes. "
        "The numbers do not carry over to other data, classes or prompts.",
        "Every robust accuracy is an upper bound: a stronger attack may misclassify more samples.",
    ]


def _not_to_be_trusted(result: Mapping[str, Any]) -> list[str]:
    findings = failed(result.get("sanity", []))
    said = [
        f"**A sanity check of the measurement failed** ({escape_markdown(finding['check'])}: "
        f"{escape_markdown(finding['detail'])}): the robust accuracies may be too high."
        for finding in findings
    ]
    if not result.get("sanity"):
        said.append("The sanity checks of the measurement were not run.")
    zero = ThreatModel.from_dict(result["attack_spec"]).zero_budgets()
    return said + [
        f"The budget of the attack {attack} is zero ({escape_markdown(why)})." for attack, why in zero.items()
    ]


def _fallen(result: Mapping[str, Any]) -> list[str]:
    clean, spec = result["clean_accuracy"], result["attack_spec"]
    labels = accuracies([result])
    dataset = escape_markdown(str(result.get("dataset", "unnamed data")))
    return [
        f"**Not robust to {_attack(name, label)}**{_budget(name, spec)}: they reduce accuracy from {100 * clean:.1f}% "
        f"to {100 * result[name]:.1f}% on {dataset}."
        for name, label in labels.items()
        if name not in ("clean_accuracy", "worst_case_accuracy")
        and not accuracy_parts(name).adversary  # the worst case over the adversaries says it
        and result[name] < FALLEN * clean
    ]


def _attack(name: str, label: str) -> str:
    """Return the name of an attack, such as "text attacks (unseen substitutes)" for `text_unseen_accuracy`."""
    if label == BEYOND_LABEL:
        return "changes of the picture beyond balls"
    label, _, adversary = label.partition(", ")
    kind, _, source = label.partition(" (")
    said = f"{escape_markdown(kind)} attacks" + (f" ({escape_markdown(source[:-1])} substitutes)" if source else "")
    return said + (f" by adversary {adversary} ({ADVERSARIES[adversary]})" if adversary in ADVERSARIES else "")


def _budget(name: str, spec: Mapping[str, Any]) -> str:
    """Return within what the attacks of an accuracy stayed: " at L∞ ε = 4/255 and one word"."""
    kind = accuracy_parts(name).kind
    texts = {"words": count(spec["max_changes"], "word"), "characters": count(spec["max_edits"], "character")}
    said = [radius(spec)] if kind in ("image", "multimodal") else []
    if kind in ("text", "multimodal"):
        said += [" or ".join(texts[each] for each in spec["text_attacks"] if each in texts)]
    if kind == "embedding":
        said += [f"rho = {spec['rho']:g}"]
    return f" at {' and '.join(filter(None, said))}" if any(said) else ""


def _image(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    if "image_accuracy" not in result:
        return ["Image attacks were not run: robustness to them is unknown."]
    norm, other = ("L∞", "L2") if spec["norm"] == "linf" else ("L2", "L∞")
    at = {"native": "the images' own", "model": "the model's"}.get(spec["perturb_at"], "the")
    said = [
        f"Image perturbations: {norm} of at most {fraction(float(spec['epsilon']))} at {at} resolution. Larger ones, "
        f"the {other} norm, patches, rotations, blur and noise are outside this budget and were not tried."
    ]
    if not any(name.startswith(("strong", "autoattack")) for name in spec["image_attacks"]):
        said.append(
            "Neither AutoAttack nor the ensemble `strong` was run: they often succeed where a single gradient attack "
            "fails."
        )
    return said


def _text(spec: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    if "text_accuracy" not in result:
        return ["Word and character attacks were not run: robustness to them is unknown."]
    said = []
    if "blind" in spec["text_adversaries"] and len(spec["text_adversaries"]) == 1:
        said.append("Attacked texts were found without looking at the images: an exhaustive search finds worse ones.")
    elif "all" not in spec["text_adversaries"]:
        said.append("Prompts of all classes were not chosen for each image: `all`, the worst adversary, was not run.")
    beams = [name for name, search in result.get("searches", {}).items() if search.startswith("beam")]
    if beams:
        said.append(
            f"Not every legal text of {', '.join(map(escape_markdown, beams))} was tried: a beam search chose them."
        )
    if "words" in spec["text_attacks"]:
        sources = spec["candidates"] if isinstance(spec["candidates"], Mapping) else {"": spec["candidates"]}
        named = "; ".join(escape_markdown(f"{name}: {what}" if name else str(what)) for name, what in sources.items())
        said.append(
            f"Text: {count(spec['max_changes'], 'word')} of a prompt replaced by one of these substitutes: {named}. "
            "Robustness to substitutes that were used in training does not carry over to other words."
        )
    if "characters" not in spec["text_attacks"]:
        said.append("Typing errors and other changes of characters were not tried.")
    if "embedding" not in spec["text_attacks"]:
        said.append("The attack on token embeddings was not run.")
    if "multimodal_accuracy" not in result:
        said.append("Image and text were not attacked together.")
    return said
