"""Choose the resolution at which the attack budget applies; it is part of the threat model (METHODS.md, section 3)."""

from __future__ import annotations

from typing import Any, Literal

import datasets

from .benchmark_info import describe
from .rows import ImageRows


def perturbation_size(
    setting: Literal["auto", "native", "model"], dataset: Any, image_size: int
) -> Literal["native", "model"]:
    """Return the size at which the attack budget applies: "native", the image's own size, or "model".

    Args:
        setting: the size, or "auto". "auto" takes the benchmark's; for other data it is "native" if the first image is
            square and no larger than the model's, and "model" if not.
        dataset: data set whose images will be attacked, or a dictionary of several, of which the first counts. For
            anything but a non-empty `datasets.Dataset`, "auto" is "native".
        image_size: side of the model's square input, in pixels.
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
