"""Run attacks on images for training, evaluation, retrieval and the gallery.

An attack only increases a loss with one value per image. The engine computes that loss in pieces that fit into memory
(half as many images at a time after an out-of-memory error), skips samples that are misclassified already, and seeds
every run by its description, not by the order of runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from .class_prompts import ClassPrompts, correct
from .contracts import ClassifierAttack, ImageAttack
from .diversity import Diversity
from .image_losses import NUM_TARGETS, likeliest_wrong_classes, margin_loss, targeted_margin_loss
from .out_of_memory import HalvingOnOutOfMemory
from .pieces import in_pieces

ClassLoss = Callable[[Tensor, Tensor], Tensor]


class Victim(Protocol):
    """The loss and the correctness that an image attack is run against."""

    def __call__(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the loss to increase and which samples are still classified correctly.

        Args:
            images: in [0, 1], (images, 3, height, width).
            rows: index of each image in the attacked batch, (images,).

        Returns:
            Loss per image, (images,), differentiable; correctness per image, (images,), or None if it is not defined.
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
        attack: attack that increases any per-image loss.
        images: clean images in [0, 1], (batch, 3, height, width).
        victim: computes loss and correctness of given rows.
        generator: source of the attack's random choices, on the images' device.
        stop: stop attacking a sample at its first misclassified iterate, which becomes its result. It has no effect on
            `Diversity`, whose loss is of views of its iterates.
        batch_size: images per forward and backward pass; 0: the whole batch.
        halving: remembers between calls how many images fit into memory.
        iterates: filled with the points at which the attack evaluated its loss, (batch, 3, height, width) each.

    Returns:
        Adversarial images, detached, and which samples no evaluated iterate misclassified, (batch,); all of them
        without `stop`.
    """
    stop = stop and not _shows_views(attack)
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


def _shows_views(attack: Any) -> bool:
    """Return whether an attack evaluates its loss on transformed images, which lie outside the ball."""
    while attack is not None and not isinstance(attack, Diversity):
        attack = getattr(attack, "attack", None)
    return attack is not None


class Attacked(NamedTuple):
    """Adversarial images (batch, 3, h, w), their unit embeddings (batch, dim), which samples are robust (batch,)."""

    images: Tensor
    embeds: Tensor
    stands: Tensor


@dataclass(frozen=True, kw_only=True)
class LossAttack:
    """An attack that increases any per-image loss, with its loss of logits and labels, (batch,)."""

    attack: ImageAttack
    loss: ClassLoss
    restarts: int = 1
    halving: HalvingOnOutOfMemory = field(default_factory=HalvingOnOutOfMemory, repr=False, compare=False)
    reads_rows: ClassVar[bool] = True

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """Attack as in `ImageAttacker`."""

        def victim(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_fn(images, rows)
            return self.loss(logits, labels[rows]), correct(logits.detach(), labels[rows])

        return climb(self.attack, images, victim, generator, stop=stop, halving=self.halving)


@dataclass(frozen=True, kw_only=True)
class TargetedAttack:
    """An attack that raises, run by run, the margin of one of the likeliest wrong classes over the true one.

    A sample whose way into the runner-up class is closed may have another that is open; the margin alone follows the
    runner-up of the moment.
    """

    attack: ImageAttack
    num_targets: int = NUM_TARGETS
    restarts: int = 1
    halving: HalvingOnOutOfMemory = field(default_factory=HalvingOnOutOfMemory, repr=False, compare=False)
    reads_rows: ClassVar[bool] = True

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """Attack as in `ImageAttacker`; keep for each sample the result of largest margin over all targets."""
        every = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            logits = logits_fn(images, every)
        targets = likeliest_wrong_classes(logits, labels)  # (batch, classes - 1)
        best, best_margin = images.clone(), margin_loss(logits, labels)
        active = torch.ones_like(labels, dtype=torch.bool)
        for rank in range(min(self.num_targets, targets.shape[1])):
            rows = every[active]
            if not len(rows):
                break

            victim = _towards(targets[:, rank], labels, logits_fn, rows)
            found, standing = climb(self.attack, images[rows], victim, generator, stop=stop, halving=self.halving)
            with torch.no_grad():
                margin = margin_loss(logits_fn(found, rows), labels[rows])
            better = (margin > best_margin[rows]) | ~standing
            best[rows[better]], best_margin[rows[better]] = found[better], margin[better]
            active[rows] = standing
        return best, active


def _towards(
    targets: Tensor, labels: Tensor, logits_fn: Callable[[Tensor, Tensor], Tensor], attacked: Tensor
) -> Victim:
    """Return the margin to each sample's target; the images attacked are the rows `attacked` of the batch."""

    def victim(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        own = attacked[rows]
        logits = logits_fn(images, own)
        return targeted_margin_loss(logits, labels[own], targets[own]), correct(logits.detach(), labels[own])

    return victim


@dataclass(frozen=True, kw_only=True)
class LogitsAttack:
    """An attack on a classifier that skips misclassified samples by itself; it runs once."""

    attack: ClassifierAttack
    restarts: int = 1
    halving: HalvingOnOutOfMemory = field(default_factory=HalvingOnOutOfMemory, repr=False, compare=False)
    reads_rows: ClassVar[bool] = False

    def find(
        self,
        images: Tensor,
        labels: Tensor,
        logits_fn: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
        stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """Attack as in `ImageAttacker`.

        After an out-of-memory error the halves of a batch draw other random numbers than the whole batch would. The
        attack requests logits of arbitrary images, so `logits_fn` must not depend on the row; it gets row 0.
        """

        def trial(size: int) -> Tensor:
            pieces = zip(images.split(size), labels.split(size), strict=True)
            return torch.cat([self.attack(part, logits, own, generator) for part, own in pieces])

        def logits(candidates: Tensor) -> Tensor:
            return logits_fn(candidates, torch.zeros(len(candidates), dtype=torch.long, device=candidates.device))

        final = self.halving(trial, len(images), generator)
        return final, torch.ones_like(labels, dtype=torch.bool)


class ImageAttacker(Protocol):
    """An image attack together with its objective: `LossAttack`, `TargetedAttack`, `LogitsAttack`."""

    @property
    def attack(self) -> Any:
        """Return the attack itself."""

    @property
    def restarts(self) -> int:
        """Return the number of runs, each from its own random start."""

    @property
    def reads_rows(self) -> bool:
        """Return whether `logits_fn` gets each image's row; if not, its logits must not depend on the row."""

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
            images: clean images in [0, 1], (batch, 3, height, width).
            labels: class labels, (batch,).
            logits_fn: maps images and their rows in the batch to logits, (images, classes), differentiable.
            generator: source of the random choices.
            stop: stop attacking a sample once an iterate is misclassified.

        Returns:
            Adversarial images, and which samples no evaluated iterate misclassified, (batch,).
        """


def attack_images(
    attack: ImageAttacker,
    images: Tensor,
    labels: Tensor,
    *,
    encode: Callable[[Tensor], Tensor],
    attacked: ClassPrompts,
    judged: ClassPrompts,
    generator: torch.Generator,
    skip_fallen: bool,
) -> Attacked:
    """Attack a batch against one set of prompts and classify the result with another.

    Args:
        attack: the attack and its loss.
        images: images in [0, 1], (batch, 3, h, w); all correctly classified so far.
        labels: class labels, (batch,).
        encode: maps images to unit embeddings, differentiable.
        attacked: prompts that the attacker sees.
        judged: prompts that classify the result.
        generator: source of the attack's random choices.
        skip_fallen: stop attacking a sample once an iterate is misclassified. It has no effect if `attacked` is not
            `judged`: such an attacker cannot tell and runs to the end.
    """
    stop = skip_fallen and attacked is judged

    def find(rows: Tensor) -> tuple[Tensor, Tensor]:
        own = labels[rows]

        def logits_fn(candidates: Tensor, places: Tensor) -> Tensor:
            return attacked.logits(encode(candidates), own[places])

        return attack.find(images[rows], own, logits_fn, generator, stop)

    adv_images, active = images.clone(), torch.ones_like(labels, dtype=torch.bool)
    for rows in _batches(labels, apart=attacked.reads_labels and not attack.reads_rows):
        adv_images[rows], active[rows] = find(rows)
    with torch.no_grad():
        embeds = encode(adv_images)
        stands = judged.correct(embeds, labels)
    # A narrowly misclassified sample must not become correct again through rounding in a differently sized batch.
    return Attacked(adv_images, embeds, stands & active)


def _batches(labels: Tensor, apart: bool) -> list[Tensor]:
    """Return the rows that are attacked together: all, or those of one label for an attack that does not tell rows."""
    if not apart:
        return [torch.arange(len(labels), device=labels.device)]
    return [(labels == label).nonzero().squeeze(1) for label in labels.unique().tolist()]


def seeded_generator(device: torch.device, *key: object) -> torch.Generator:
    """Return a generator whose seed depends only on `key`."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
    return torch.Generator(device).manual_seed(seed)


def perturbation_lengths(adv_images: Tensor, images: Tensor, norm: str) -> Tensor:
    """Return the length of each sample's perturbation in the norm, (batch,)."""
    delta = (adv_images - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


@dataclass
class Measured:
    """The largest perturbation and the pixel range over all adversarial images, for the sanity checks."""

    norm: str
    largest: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def add(self, adv_images: Tensor, images: Tensor) -> None:
        """Add adversarial images and their clean versions, (batch, 3, h, w) each."""
        if len(images):
            self.largest = max(self.largest, perturbation_lengths(adv_images, images, self.norm).amax().item())
            low, high = (bound.item() for bound in adv_images.aminmax())
            self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def pixel_range(self) -> Sequence[float]:
        """Return the smallest and largest pixel value; the range covers at least [0, 1]."""
        return [self.low, self.high]
