"""A strong white-box attack: several losses and targets, applied only to samples still classified correctly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .apgd import APGD
from .contracts import LogitsFn, check_labels
from .image_losses import NUM_TARGETS, likeliest_wrong_classes, log_odds_loss, margin_loss, targeted_margin_loss
from .settings import Norm


@dataclass(frozen=True, kw_only=True)
class StrongAttack:
    """Run `APGD` on the `class` loss, then on the margin, then on the margin to each of the likeliest wrong classes.

    One loss can be flat for a sample (a confident cross-entropy) where another is steep; a sample counts as robust only
    if all of them fail. The attack aims at a robust accuracy no higher than under AutoAttack's `standard`.

    Args:
        epsilon: radius of the ball, as in `PGD`.
        norm: "linf" or "l2".
        num_steps: gradient steps of each run.
        num_targets: wrong classes targeted one by one, at most all of them; 9 as in AutoAttack.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = StrongAttack(epsilon=4 / 255)
        >>> adv_images = attack(images, classifier, labels)  # doctest: +SKIP
    """

    epsilon: float
    norm: Norm = "linf"
    num_steps: int = 100
    num_targets: int = NUM_TARGETS

    def __post_init__(self) -> None:
        self._attack()
        if self.num_targets < 0:
            raise ValueError(f"`num_targets` must not be negative, got {self.num_targets}.")

    def __call__(
        self, images: Tensor, logits_fn: LogitsFn, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack as in `ClassifierAttack`.

        Returns:
            For each sample the first misclassified result, or else the one with the largest margin; an image that is
            misclassified already comes back unchanged.

        Raises:
            ValueError: if the labels do not fit the images and logits.
        """
        generator = torch.Generator(images.device).manual_seed(0) if generator is None else generator
        best = images.detach().clone()
        if self.epsilon == 0 or not len(images):
            return best
        with torch.no_grad():
            logits = logits_fn(best)
        check_labels(images, labels, logits.shape[1])
        best_margin, targets = margin_loss(logits, labels), likeliest_wrong_classes(logits, labels)
        attack = self._attack()
        ranks = range(min(self.num_targets, targets.shape[1]))
        losses: list[Callable[[Tensor, Tensor], Tensor]] = [
            lambda logits, rows: log_odds_loss(logits, labels[rows]),
            lambda logits, rows: margin_loss(logits, labels[rows]),
            *(lambda logits, rows, k=k: targeted_margin_loss(logits, labels[rows], targets[rows, k]) for k in ranks),
        ]
        for loss in losses:
            rows = (best_margin <= 0).nonzero().squeeze(1)
            if not len(rows):
                break
            found = attack(images[rows], partial(_loss_of_rows, loss, logits_fn, rows), generator)
            with torch.no_grad():
                margin = margin_loss(logits_fn(found), labels[rows])
            better = margin > best_margin[rows]
            best[rows[better]], best_margin[rows[better]] = found[better], margin[better]
        return best

    def _attack(self) -> APGD:
        return APGD(epsilon=self.epsilon, num_steps=self.num_steps, norm=self.norm)


def _loss_of_rows(
    loss: Callable[[Tensor, Tensor], Tensor], logits_fn: LogitsFn, rows: Tensor, adv_images: Tensor
) -> Tensor:
    return loss(logits_fn(adv_images), rows)
