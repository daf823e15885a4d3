"""What a training ran, beside what it was asked for: attacks as they were resolved, their candidates, and the data."""

from __future__ import annotations

from typing import Any

import datasets

from ..data.benchmark_info import describe
from .attacker import Attacker


def what_ran(attacker: Attacker, dataset: Any) -> dict[str, Any]:
    """Return the resolved attacks, the candidates and the data of a training, as plain values for a YAML file.

    Args:
        attacker: the attacks of the training.
        dataset: the training data as the user gave them; None without training.

    Returns:
        `objective`, as an object's `repr`; `image_attack`, `text_attacks` by name and `candidates` (words, substitutes
        and a hash of a table), where the objective reads them; `data`: `name`, `source`, `split`, `shots`, `revision`,
        `rows`, where they are known.
    """
    views = attacker.objective.views
    ran: dict[str, Any] = {"objective": repr(attacker.objective)}
    if "adv_images" in views:
        ran["image_attack"] = attacker.image_attack_description
    if {"adv_texts", "text_pools"} & views:
        ran["text_attacks"] = {kind: repr(attack) for kind, attack in attacker.text_attacks.items()}
        if (source := getattr(attacker.word_attack, "candidates", None)) is not None:
            ran["candidates"] = repr(source)
    if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        info = describe(dataset)
        known = {name: getattr(info, name) for name in ("name", "source", "revision", "split", "shots")}
        ran["data"] = {name: value for name, value in known.items() if value not in (None, "")}
        if isinstance(dataset, datasets.Dataset):
            ran["data"]["rows"] = len(dataset)
    return ran
