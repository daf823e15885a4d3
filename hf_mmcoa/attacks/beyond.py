"""The interface of attacks that no Lp ball around a picture bounds: universal, typographic, natural corruptions.

Their accuracies stand beside those of the threat model and never enter them: a corruption of severity 5 and a
perturbation of 4/255 are not two attacks of one attacker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Changed(NamedTuple):
    """Pictures after one of the changes that an attack makes.

    Args:
        images: in [0, 1], of the shape, type and device of the clean ones.
        kind: what was done, part of the attack's name in a result; empty if the attack does one kind of thing.
        severity: how strongly, from 1; 0 if there are no degrees.
    """

    images: Tensor
    kind: str = ""
    severity: int = 0


class BeyondAttack(Protocol):
    """A frozen object that shows one or several changes of a batch; a sample is robust if all leave it correct.

    It sees no gradient. It is deterministic, given the generator, and does not touch the images that it is given.
    """

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        class_names: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Iterator[Changed]:
        """Change a batch.

        Args:
            images: clean images in [0, 1], (batch, 3, height, width).
            labels: their classes, (batch,).
            logits: clean logits, (batch, classes).
            class_names: names of the classes.
            generator: source of noise, on the images' device; a fresh one seeded 0 when None.
        """
