"""`--threat_model FILE`: a threat model that a person wrote as YAML, or that a result file recorded."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from ..evaluation.threat_model import PRESETS, ThreatModel
from ..io import read_yaml

EXAMPLE = "{preset: standard, epsilon: 4/255, image_attacks: [apgd-ce, square], max_changes: 2}"


def read_threat_file(path: str) -> dict[str, Any]:
    """Return the fields of `ThreatModel` in a YAML file, and `preset` if it names one.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no mapping, or names an unknown field; the message shows the nearest and an example.
    """
    from ..protocols.values import with_numbers

    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no fields of a threat model. For example: {EXAMPLE}")
    known = ["preset", *(field.name for field in dataclasses.fields(ThreatModel))]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
            raise ValueError(f"{path}: a threat model has no field {key!r}; {hint} For example: {EXAMPLE}")
    values = with_numbers(values)
    if (preset := values.get("preset")) is not None and preset not in list(PRESETS):
        raise ValueError(f"{path}: unknown preset {preset!r}; choose from {', '.join(PRESETS)}. For example: {EXAMPLE}")
    try:
        ThreatModel.preset(preset or "standard", **{key: value for key, value in values.items() if key != "preset"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error} For example: {EXAMPLE}") from error
    return values
