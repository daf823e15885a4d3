"""What the numbers of a table hold under, in words: the threat model, and what the intervals generalise over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..attacks.settings import THREATS
from ..evaluation.threat_model import preset_of

BEYOND_LABEL = "beyond balls"


def measured_kinds(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of attack that a result holds, of "image", "text" and "multimodal"."""
    held = result["attacks"] if result.get("task") == "retrieval" else [k for k in THREATS if f"{k}_accuracy" in result]
    return tuple(kind for kind in THREATS if kind != "clean" and kind in held)


def attacks_texts(results: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any of the results attacked texts; if not, all of their intervals are over images."""
    return any({"text", "multimodal"} & set(measured_kinds(result)) for result in results)


def describe(
    spec: Mapping[str, Any], candidates: int | None = None, measured: Collection[str] = ("image", "text", "multimodal")
) -> str:
    """Describe a threat model in one line, for a caption, with its preset if it has one; all of it is `attack_spec`.

    Args:
        spec: the threat model.
        candidates: most substitutes that a word had, see `most_candidates`; None if only the limit is known.
        measured: the kinds of attack that were run, see `measured_kinds`; what the others would do is left out.
    """
    images, texts = ({kind, "multimodal"} & set(measured) for kind in ("image", "text"))
    preset = preset_of(spec)
    named = f"preset {preset}: " if preset else ""
    norm = {"linf": "L∞", "l2": "L2"}.get(spec["norm"], str(spec["norm"]))
    runs = f" x {spec['restarts']} restarts" if spec["restarts"] > 1 else ""
    radius = fraction(float(spec["epsilon"]))
    parts = []
    if images:
        parts.append(f"image {norm} {radius}, {', '.join(spec['image_attacks'])}, {spec['num_steps']} steps{runs}")
    budgets = {
        "words": f"{count(spec['max_changes'], 'word')} of up to {count(_at_most(spec, candidates), 'candidate')}",
        "characters": count(spec["max_edits"], "character"),
        "embedding": f"token embeddings within {spec['rho']:g}",
    }
    if texts and spec["text_attacks"]:
        parts.append("text " + ", ".join(budgets.get(name, name) for name in spec["text_attacks"]))
    if texts and spec["text_attacks"] and (adversaries := spec.get("text_adversaries")):
        parts.append(("adversary " if len(adversaries) == 1 else "adversaries ") + ", ".join(adversaries))
    if "multimodal" in measured and spec["multimodal_attacks"]:
        parts.append("multimodal " + ", ".join(spec["multimodal_attacks"]))
    if spec.get("beyond"):
        parts.append(f"{BEYOND_LABEL} " + ", ".join(name.partition(":")[0] for name in spec["beyond"]))
    return named + "; ".join(parts)


def _at_most(spec: Mapping[str, Any], candidates: int | None) -> int:
    return int(spec["num_candidates"]) if candidates is None else min(candidates, int(spec["num_candidates"]))


def most_candidates(result: Mapping[str, Any]) -> int | None:
    """Return how many substitutes a word of the prompts had at most; None where the result does not say."""
    found = result.get("candidates_a_word", {})
    return max(found.values()) if found else None


def count(number: int, what: str) -> str:
    """Return a number with its noun: "one word", "2 words"."""
    return f"one {what}" if number == 1 else f"{number} {what}s"


def fraction(value: float) -> str:
    """Write a length in pixels of [0, 1] as people do: 4/255, or 0.15."""
    steps = value * 255
    return f"{round(steps)}/255" if 0 < steps < 33 and abs(steps - round(steps)) < 1e-6 else f"{value:.4g}"


def recall_sentence(averaged: bool) -> str:
    """Say what recalls are, and what their intervals generalise over.

    Args:
        averaged: whether a number is the mean over several seeds.
    """
    return (
        "A query counts at depth k if one of its own is among the first k under every attack of the column. 95% "
        f"intervals, over {'seeds and ' if averaged else ''}images, each drawn with its captions and with the images "
        "that share them."
    )


def interval_sentence(averaged: bool, split_words: bool = False, texts: bool = True) -> str:
    """Say what the intervals of a table generalise over.

    Args:
        averaged: whether a number is the mean over several seeds.
        split_words: whether it is the mean over several word splits.
        texts: whether texts were attacked, see `attacks_texts`.
    """
    seeds = "seeds and " if averaged else ""
    agree = " Where all outcomes are the same, no seed differs and seeds are left out." if averaged else ""
    words = f"{'seeds, ' if averaged else ''}word splits and " if split_words else seeds
    once = (
        " Clean and image accuracies, and those that no word split changes, are averaged over the word splits of a "
        "seed first: one model measured under several splits is one result."
    )
    if not texts:
        return f"95% intervals, over {seeds}images.{agree}"
    return (
        f"95% intervals, of clean and image accuracies over {seeds}images, of all others over {words}classes: one "
        f"attacked prompt decides all images of its class.{once if split_words else ''}{agree}"
    )
