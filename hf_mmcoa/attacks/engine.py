"""Run attacks on images: what training, evaluation, retrieval and the gallery have in common, written once.

An attack knows nothing of this: it raises a loss of one value per image. The engine computes that loss in pieces that
fit into memory (half as many images at a time after an out-of-memory error), spends nothing on samples that are
misclassified already, repeats an attack from several random starts, and seeds every run by what it is and not by when
it is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..losses import zero_shot_logits
from .contracts import ClassifierAttack, ImageAttack
from .out_of_memory import HalvingOnOutOfMemory
from .pieces import in_pieces

ClassLoss = Callable[[Tensor, Tensor], Tensor]


class Victim(Protocol):
    """The model under an image attack, as a loss."""

    def __call__(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what to increase and which samples are still classified correctly.

        Args:
            images: in [0, 1], (images, 3, height, width).
            rows: place of each image in the batch under attack, (images,).

        Returns:
            Loss per image, (images,), differentiable; correctness per image, (images,), or None where there is none.
        """


def climb(
    attack: ImageAttack,
    images: Tensor,
    victim: Victim,
    generator: torch.Generator | None,
    *,
    stop: bool = False,
    batch_size: int = 0,
    halving: HalvingOnOutOfMemory | None = None,
    iterates: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attack a batch with one loss.

    Args:
        attack: raises any loss.
        images: in [0, 1], (batch, 3, height, width).
        victim: the loss and the correctness of some rows.
        generator: of the attack's random choices, on the images' device.
        stop: leave a sample alone from the iterate on that is misclassified; that iterate is its result.
        batch_size: images differentiated at a time; 0: the whole batch.
        halving: remembers between calls how many images fit into memory.
        iterates: filled with the points at which the attack evaluated its loss, (batch, 3, height, width) each.

    Returns:
        Adversarial images, detached, and which samples no evaluated iterate misclassified, (batch,); all of them
        without `stop`.
    """
    reached, active = images.clone(), torch.ones(len(images), dtype=torch.bool, device=images.device)

    def rows_loss(candidates: Tensor, rows: Tensor) -> Tensor:
        loss, right = victim(candidates, rows)
        if stop and right is not None:
            wrong = rows[~right]
            reached[wrong] = candidates.detach()[~right]
            active[wrong] = False
        return loss

    def trial(size: int) -> Tensor:
        active.fill_(True)
        reached.copy_(images)
        loss_fn = in_pieces(rows_loss, size, active if stop else None)
        if iterates is None:
            return attack(images, loss_fn, generator)
        iterates.clear()

        def recorded(points: Tensor) -> Tensor:
            iterates.append(points.detach())
            return loss_fn(points)

        return attack(images, recorded, generator)

    halving = HalvingOnOutOfMemory() if halving is None else halving
    final = halving(trial, batch_size or len(images), generator)
    return torch.where(active.view(-1, 1, 1, 1), final, reached), active


class Attacked(NamedTuple):
    """Adversarial images (batch, 3, h, w), their unit embeddings (batch, dim), which samples are robust (batch,)."""

    images: Tensor
    embeds: Tensor
    stands: Tensor


@dataclass(frozen=True, kw_only=True)
class LossAttack:
    """An attack that raises any loss, and the loss of logits and labels, (batch,), that it raises here."""

    attack: ImageAttack
    loss: ClassLoss
    restarts: int = 1
    reads_rows: ClassVar[bool] = True

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `ImageAttacker`."""

        def victim(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_fn(images, rows)
            return self.loss(logits, labels[rows]), correct(logits.detach(), labels[rows])

        return climb(self.attack, images, victim, generator, stop=stop)


@dataclass(frozen=True, kw_only=True)
class LogitsAttack:
    """An attack that makes a classifier wrong and skips misclassified samples by itself; it runs once."""

    attack: ClassifierAttack
    restarts: int = 1
    reads_rows: ClassVar[bool] = False

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `ImageAttacker`. Half of a batch that did not fit into memory draws other random numbers than the whole.

        The attack asks for the logits of any images, so that `logits_fn` must not depend on the row; it gets row 0.
        """

        def trial(size: int) -> Tensor:
            pieces = zip(images.split(size), labels.split(size), strict=True)
            return torch.cat([self.attack(part, logits, own, generator) for part, own in pieces])

        def logits(candidates: Tensor) -> Tensor:
            return logits_fn(candidates, torch.zeros(len(candidates), dtype=torch.long, device=candidates.device))

        final = HalvingOnOutOfMemory()(trial, len(images), generator)
        return final, torch.ones_like(labels, dtype=torch.bool)


class ImageAttacker(Protocol):
    """An image attack and what it raises: `LossAttack`, `LogitsAttack`."""

    @property
    def attack(self) -> Any:
        """The attack itself."""

    @property
    def restarts(self) -> int:
        """Runs, each from a random start of its own."""

    @property
    def reads_rows(self) -> bool:
        """Whether `logits_fn` is told which row of the batch an image is; else no row may have logits of its own."""

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """Attack a batch once.

        Args:
            images: in [0, 1], (batch, 3, height, width).
            labels: (batch,).
            logits_fn: images and their rows in the batch to logits, (images, classes), differentiable.
            generator: of the random choices.
            stop: leave a sample alone once an iterate is misclassified.

        Returns:
            Adversarial images, and which samples no evaluated iterate misclassified, (batch,).
        """


def attack_images(
    attack: ImageAttacker,
    images: Tensor,
    labels: Tensor,
    *,
    encode: Callable[[Tensor], Tensor],
    attacked_prompts: Tensor,
    judged_prompts: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    skip_fallen: bool,
) -> Attacked:
    """Attack a batch against one set of prompts and judge it with another.

    Args:
        attack: the attack and its loss.
        images: in [0, 1], (batch, 3, h, w); all correctly classified so far.
        labels: (batch,).
        encode: images to unit embeddings, differentiable.
        attacked_prompts: unit prompt embeddings that the attacker sees, (classes, dim).
        judged_prompts: those that decide, (classes, dim).
        scale: multiplies the cosines inside the attack, scalar.
        generator: of the attack's random choices.
        skip_fallen: leave a sample alone once an iterate is misclassified. An attacker who does not see the prompts
            that decide has nothing to stop at, and goes to the end.
    """

    def logits_fn(candidates: Tensor, rows: Tensor) -> Tensor:
        return zero_shot_logits(encode(candidates), attacked_prompts, scale)

    stop = skip_fallen and attacked_prompts is judged_prompts
    adv_images, active = attack.find(images, labels, logits_fn, generator, stop)
    with torch.no_grad():
        embeds = encode(adv_images)
        stands = correct(zero_shot_logits(embeds, judged_prompts, scale), labels)
    # A sample misclassified by a hair must not become correct again by the rounding of another batch.
    return Attacked(adv_images, embeds, stands & active)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each sample is classified as its label, (batch,); non-finite logits classify nothing."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def seeded_generator(device: torch.device, *key: object) -> torch.Generator:
    """Return random numbers that depend on `key` and nothing else."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
    return torch.Generator(device).manual_seed(seed)


def perturbation_lengths(adv_images: Tensor, images: Tensor, norm: str) -> Tensor:
    """Return the length of each sample's perturbation in the norm, (batch,)."""
    delta = (adv_images - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


@dataclass
class Measured:
    """The largest perturbation and the pixel range of all adversarial images seen, for the sanity checks."""

    norm: str
    largest: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def add(self, adv_images: Tensor, images: Tensor) -> None:
        """Take adversarial images and their clean ones into account, (batch, 3, h, w) each."""
        if len(images):
            self.largest = max(self.largest, perturbation_lengths(adv_images, images, self.norm).amax().item())
            low, high = (bound.item() for bound in adv_images.aminmax())
            self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def pixel_range(self) -> Sequence[float]:
        """Smallest and largest pixel value; at least from 0 to 1."""
        return [self.low, self.high]
