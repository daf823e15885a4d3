"""What a training ran, as its arguments file records it, in lines for a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..file_names import WHAT_RAN
from ..io import printable
from ..report.markdown import escape_markdown


def recorded_facts(arguments: Mapping[str, Any]) -> list[str]:
    """Return one Markdown line for each fact that the trainer recorded beside its arguments.

    Args:
        arguments: content of `training_args.yaml`, which is untrusted.
    """
    ran = arguments.get(WHAT_RAN)
    if not isinstance(ran, Mapping):
        return []
    data, texts = ran.get("data"), ran.get("text_attacks")
    data = data if isinstance(data, Mapping) else {}
    facts = {
        "Rows trained on": data.get("rows"),
        "Data read from": data.get("source"),
        "Revision of the data": data.get("revision"),
        "Objective": ran.get("objective"),
        "Image attack": ran.get("image_attack"),
        "Text attack": "; ".join(f"{name}: {attack}" for name, attack in texts.items())
        if isinstance(texts, Mapping)
        else None,
        "Substitutes": ran.get("candidates"),
    }
    return [
        f"{name}: {escape_markdown(' '.join(printable(str(fact)).split()))}"
        for name, fact in facts.items()
        if fact is not None
    ]
