"""Attack through a defence: its gradient where it has one, the identity where it has none (BPDA), the mean over draws.

An attack that was made without the defence says nothing about an attacker who knows it (arXiv:2202.13711,
arXiv:2002.08347).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attacks.engine import ImageAttacker, LossAttack, TargetedAttack
from ..attacks.expectation import Expectation
from ..defences.defence import Defence, ImageDefence, classify
from ..models.encoder import DualEncoder


@dataclass(frozen=True, kw_only=True, eq=False)
class DefendedModel:
    """A model behind a defence.

    Args:
        defence: the defence.
        texts: one prompt a class.
        model: the model.
        factor: multiplies the logits inside an attack, scalar: the temperature of the threat model.
    """

    defence: Defence
    texts: Sequence[str]
    model: DualEncoder
    factor: Tensor

    def logits(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return one answer to each image, (batch, classes).

        Raises:
            ValueError: if the defence does not give one logit a class.
        """
        with torch.no_grad():
            logits = self.defence(images, self.texts, self.model, generator)
        if logits.shape != (len(images), len(self.texts)):
            raise ValueError(
                f"`defence` must give one logit a class, {(len(images), len(self.texts))}, got shape "
                f"{tuple(logits.shape)}."
            )
        return logits

    def attacked_logits(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the same logits with the gradient that an adaptive attack follows, (batch, classes).

        An `ImageDefence` counts as the identity on the way back, so that the gradient is that of the model at the
        purified image. Any other defence is differentiated as it is computed.

        Raises:
            ValueError: if a defence that is no `ImageDefence` has no gradient in the images.
        """
        if isinstance(self.defence, ImageDefence):
            with torch.no_grad():
                purified = self.defence.purify(images, self.model, generator)
            logits = classify(purified + (images - images.detach()), self.texts, self.model)
        else:
            logits = self.defence(images, self.texts, self.model, generator)
        if images.requires_grad and not logits.requires_grad:
            raise ValueError(
                "`defence` gives logits without a gradient in the images, so no attack can look through it. Take "
                "`detach` and `no_grad` out of its path, or give it a method `purify`, which attacks take for the "
                "identity."
            )
        return self.factor * logits

    def answers_at_random(self, images: Tensor) -> bool:
        """Return whether two seeds give different logits for any of the images."""
        first, second = (self.logits(images, torch.Generator(images.device).manual_seed(seed)) for seed in (0, 1))
        return not torch.equal(first, second)


def over_draws(attack: ImageAttacker, times: int) -> ImageAttacker | None:
    """Return an attack on the mean loss over so many draws of a defence (EOT, arXiv:1707.07397).

    Returns:
        The attack; None if it judges single answers, as "strong" and "square" do, and cannot be averaged.
    """
    if not isinstance(attack, (LossAttack, TargetedAttack)):
        return None
    return attack if times == 1 else replace(attack, attack=Expectation(attack.attack, times=times))
