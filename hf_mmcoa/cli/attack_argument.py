"""`--attack NAME`: single attacks by name, whatever they move; they decide which kinds of attack are run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from ..attacks.settings import IMAGE_ATTACKS, MULTIMODAL_ATTACKS, TEXT_ATTACKS

ATTACKS: dict[str, tuple[str, str]] = {
    **{name: ("image", name) for name in IMAGE_ATTACKS},
    **{name: ("text", name) for name in TEXT_ATTACKS},
    **{name: ("multimodal", name) for name in MULTIMODAL_ATTACKS},
    # Names that people know them by.
    "pgd": ("image", "pgd-ce"),
    "apgd": ("image", "apgd-ce"),
    "apgd-t": ("image", "autoattack-apgd-t"),
    "apgd-dlr": ("image", "autoattack-apgd-dlr"),
    "mifgsm": ("image", "mi-fgsm"),
    "difgsm": ("image", "di-fgsm"),
    "eot": ("image", "eot-pgd"),
    "aa": ("image", "autoattack"),
    "bert-attack": ("text", "words"),
    "bertattack": ("text", "words"),
    "charmer": ("text", "characters"),
    "coattack": ("multimodal", "co-attack"),
}


def named_attacks(names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the kinds of attack that the names are of, and the fields of the threat model that run them.

    Kinds without a name keep the threat model's attacks, for a multimodal attack brings image and text along.

    Raises:
        ValueError: if a name is unknown; the message shows the nearest.
    """
    fields: dict[str, list[str]] = {}
    for name in names:
        known = name.lower().replace("_", "-")
        if known not in ATTACKS:
            close = difflib.get_close_matches(known, ATTACKS, n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(f"`--attack`: there is no attack {name!r}.{hint} Known: {', '.join(ATTACKS)}.")
        kind, attack = ATTACKS[known]
        fields.setdefault(kind, []).append(attack)
    return ["clean", *fields], {f"{kind}_attacks": tuple(dict.fromkeys(chosen)) for kind, chosen in fields.items()}
