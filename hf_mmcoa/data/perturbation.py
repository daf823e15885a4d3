"""At which resolution the attack's budget applies: part of the threat model (METHODS, section 3)."""

from __future__ import annotations

from typing import Any, Literal

import datasets

from .benchmark_info import describe
from .rows import ImageRows


def perturbation_size(
    setting: Literal["auto", "native", "model"], dataset: Any, image_size: int
) -> Literal["native", "model"]:
    """Resolve "auto": what the benchmark says; for other data native where the first image is square and fits the
    model.

    Args:
        setting: "auto", or the answer.
        dataset: whose images will be attacked; anything but a `datasets.Dataset` (or a dictionary of them) is "native".
        image_size: of the model, in pixels.
    """
    if setting != "auto":
        return setting
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    if not isinstance(dataset, datasets.Dataset) or len(dataset) == 0:
        return "native"
    info = describe(dataset)
    if info.name:
        return info.perturb_at
    height, width = ImageRows(dataset)[0]["image"].shape[1:]
    return "native" if max(height, width) <= image_size and height == width else "model"
