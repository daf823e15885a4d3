"""Headings of results: data set and radius, and whatever else tells two of them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.threat_model import preset_of
from ..schema import short
from .conditions import fraction
from .table import REPETITION

Result = Mapping[str, Any]
_OF_THE_PRESET = ("epsilon", "norm", "step_size", *REPETITION)  # stated before, or following from what is stated


def title_parts(results: Sequence[Result]) -> list[list[str]]:
    """Return for each result its data set, its radius, and what tells it from others that share both.

    First the preset, then single fields of the threat model, the number of samples, and at last a number.

    Example:
        >>> spec = {"norm": "linf", "epsilon": 4 / 255, "num_steps": 5}
        >>> one = {"dataset": "cifar10/test", "attack_spec": spec, "num_samples": 100}
        >>> [", ".join(parts) for parts in title_parts([one, {**one, "attack_spec": {**spec, "num_steps": 9}}])]
        ['cifar10/test, L∞ ε = 4/255, num_steps 5', 'cifar10/test, L∞ ε = 4/255, num_steps 9']
    """
    parts = [[str(one.get("dataset", "unnamed data")), radius(one["attack_spec"])] for one in results]
    for index in range(len(results)):
        alike = [place for place, other in enumerate(parts) if other[:2] == parts[index][:2]]
        if len(alike) == 1 or index != alike[0]:
            continue
        for place, more in zip(alike, _apart([results[place] for place in alike]), strict=True):
            parts[place] += more
    return parts


def radius(spec: Mapping[str, Any]) -> str:
    """Return the radius of image attacks: "L∞ ε = 4/255"."""
    norm = {"linf": "L∞", "l2": "L2"}.get(spec["norm"], str(spec["norm"]))
    return f"{norm} ε = {fraction(float(spec['epsilon']))}"


def _apart(results: Sequence[Result]) -> list[list[str]]:
    """Return as few facts as tell results of one data set and radius apart."""
    specs = [one["attack_spec"] for one in results]
    presets = [preset_of(spec) for spec in specs]
    facts = [[f"preset {preset}" if preset else "" for preset in presets]]
    for name in dict.fromkeys(name for spec in specs for name in spec if name not in _OF_THE_PRESET):
        facts.append([f"{name} {_plain(spec.get(name))}" for spec in specs])
    facts.append([f"{one.get('num_samples')} samples" for one in results])
    found: list[list[str]] = [[] for _ in results]
    for fact in facts:
        if len({tuple(own) for own in found}) == len(results):
            return found
        if len({(*own, said) for own, said in zip(found, fact, strict=True)}) > len({tuple(own) for own in found}):
            found = [[*own, said] if said else own for own, said in zip(found, fact, strict=True)]
    seen: dict[tuple[str, ...], int] = {}
    for own in found:
        key = tuple(own)
        seen[key] = seen.get(key, 0) + 1
        own += [f"number {seen[key]}"] if seen[key] > 1 else []
    return found


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " and ".join(map(str, value)) or "none"
    return fraction(value) if isinstance(value, float) else short(value).strip("'")
