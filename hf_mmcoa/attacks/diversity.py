"""Random resizing inside the loss (DI, arXiv:1803.06978), so that an attack does not overfit one view of an image."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .contracts import ImageAttack
from .pgd import ImageLoss


@dataclass(frozen=True)
class Diversity:
    """Evaluate the loss, with some probability, on an image shrunk to a random size and zero-padded at a random place.

    Size and place are drawn once per evaluation of the loss; the decision to transform is drawn per image. The attack
    budget applies to the untransformed image. `Diversity(Momentum(PGD(...)))` is MI-DI-FGSM.

    Args:
        attack: any image attack.
        probability: probability that an image is transformed; 0 leaves the attack unchanged, the paper uses 0.5.
        smallest: smallest size as a fraction of the image's; 0.9 corresponds to the paper's 299 of 330.

    Raises:
        ValueError: if `probability` is not in [0, 1] or `smallest` not in (0, 1].

    Example:
        >>> from hf_mmcoa.attacks import PGD
        >>> attack = Diversity(PGD(epsilon=8 / 255, step_size=1 / 255, num_steps=10), probability=0.7)
    """

    attack: ImageAttack
    probability: float = field(default=0.5, kw_only=True)
    smallest: float = field(default=0.9, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"`probability` must lie in [0, 1], got {self.probability:g}.")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"`smallest` is a fraction of the image's size in (0, 1], got {self.smallest:g}.")

    def __call__(self, images: Tensor, loss_fn: ImageLoss, generator: torch.Generator | None = None) -> Tensor:
        """Attack as in `ImageAttack`; the transformations use the attack's generator."""
        draws = torch.Generator(images.device).manual_seed(0) if generator is None else generator
        return self.attack(images, lambda adv_images: loss_fn(self.transform(adv_images, draws)), draws)

    def transform(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape, some of them shrunk and padded; differentiable."""
        height, width = images.shape[-2:]
        scale, down, right = torch.rand(3, generator=generator, device=generator.device).tolist()
        scale = self.smallest + (1 - self.smallest) * scale
        small = (max(1, round(scale * height)), max(1, round(scale * width)))
        top, left = round(down * (height - small[0])), round(right * (width - small[1]))
        shrunk = F.interpolate(images, small, mode="bilinear", align_corners=False)
        padded = F.pad(shrunk, (left, width - small[1] - left, top, height - small[0] - top))
        chosen = torch.rand(len(images), generator=generator, device=generator.device) < self.probability
        return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), padded, images)
