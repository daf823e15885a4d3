"""Checks of the image attacks of a run, each on the same few correctly classified samples and with few steps.

Most checks compare an attack with itself under another budget. Such a comparison cannot tell an attack from random
points of the ball, so each attack is also compared with a reference that shares no code with the attacks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..attacks.class_prompts import correct
from ..attacks.engine import Attacked, ImageAttacker, attack_images, perturbation_lengths, seeded_generator
from ..attacks.image_losses import class_loss, margin_loss
from ..data.rows import collate
from ..gradients import shorten, unit, value_and_gradient
from ..losses import zero_shot_logits
from .controls import judge
from .findings import TOLERANCE, Finding, finding
from .prepare import Evaluation

SAMPLES = 8
STEPS = 5
UNBOUNDED_STEPS = 10
NOISE_DRAWS = 10
NEAR = 0.5  # share of the reference's gain that an attack must reach; noise has about none


class Samples:
    """A few correctly classified samples, and what stands without any attack of the run: noise and the reference.

    Args:
        evaluation: what is checked.
        row_ids: rows of the samples.
    """

    def __init__(self, evaluation: Evaluation, row_ids: list[int]) -> None:
        self.batch = collate(evaluation.rows.__getitems__(row_ids))
        device = evaluation.prompt_embeds.device
        self.images, self.labels = self.batch["images"].to(device), self.batch["labels"].to(device)
        self.evaluation, self.spec = evaluation, evaluation.spec
        self.steps = min(self.spec.num_steps, STEPS)

    @classmethod
    def of(cls, evaluation: Evaluation, clean: str) -> Samples | None:
        """Return samples drawn evenly from the correctly classified ones, None if there are none.

        Args:
            evaluation: what is checked.
            clean: outcome without an attack, "1" for each correctly classified sample.
        """
        right = [row for row, stands in zip(evaluation.row_ids, clean, strict=True) if stands == "1"]
        return cls(evaluation, right[:: math.ceil(len(right) / SAMPLES)]) if right else None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def logits(self, images: Tensor) -> Tensor:
        """Return class scores under the clean prompts, (samples, classes)."""
        embeds = self.evaluation.encoder.encode_images(images)
        return zero_shot_logits(embeds, self.evaluation.prompt_embeds, self.evaluation.scale)

    def margins(self, images: Tensor) -> Tensor:
        """Return by how much the best wrong class's logit exceeds the right one's, (samples,)."""
        return margin_loss(self.logits(images), self.labels)

    def stands(self, images: Tensor) -> Tensor:
        """Return whether each image is classified correctly, (samples,)."""
        with torch.no_grad():
            return correct(self.logits(images), self.labels)

    @cached_property
    def noise(self) -> Tensor:
        """Return which samples are robust to random points on the ball's surface, a black-box attack, (samples,)."""
        left = torch.ones_like(self.labels, dtype=torch.bool)
        for images in self._noisy():
            left &= self.stands(images)
        return left

    def judge_noise(self, drawn: Tensor) -> dict[str, Any]:
        """Judge noisy images with random prompts, (draws, C, dim), as `controls.judge` does clean ones."""
        with torch.no_grad():
            embeds = self.evaluation.encoder.encode_images(next(self._noisy()))
        return judge(drawn, self.evaluation.clean_prompts, embeds, self.labels)

    def _noisy(self) -> Iterator[Tensor]:
        generator = seeded_generator(self.images.device, self.spec.seed, "noise")
        for _ in range(NOISE_DRAWS):
            noise = torch.randn(self.images.shape, generator=generator, device=self.images.device)
            yield (self.images + self.spec.pixel_radius * self._direction(noise)).clamp(0, 1)

    @cached_property
    def reference(self) -> Tensor:
        """Return the images of largest margin among a few steps along its gradient, (samples, 3, height, width)."""
        radius, delta = self.spec.pixel_radius, torch.zeros_like(self.images)
        best, best_margin = self.images, torch.full_like(self.images[:, 0, 0, 0], -math.inf)
        for step in range(self.steps + 1):
            points = (self.images + delta).clamp(0, 1)
            margin, grad = value_and_gradient(self.margins, points)
            better = margin > best_margin
            best = torch.where(better.view(-1, 1, 1, 1), points, best)
            best_margin = torch.where(better, margin, best_margin)
            if step < self.steps:
                delta = points - self.images + 2.5 * radius / self.steps * self._direction(grad)
                linf = self.spec.norm == "linf"
                delta = delta.clamp(-radius, radius) if linf else shorten(delta, radius, (1, 2, 3))
        return best

    def _direction(self, vectors: Tensor) -> Tensor:
        return vectors.sign() if self.spec.norm == "linf" else unit(vectors, (1, 2, 3))


def check_image_attacks(samples: Samples) -> list[Finding]:
    """Return the findings on every image attack of the run."""
    return [
        {**found, "check": f"image/{name}: {found['check']}"}
        for name, attack in samples.evaluation.image_attacks.items()
        for found in _Probe(samples, attack).check()
    ]


def shortened(attack: ImageAttacker, epsilon: float, num_steps: int) -> ImageAttacker | None:
    """Return an attack with another budget and one run; None if it has no fields for it."""
    inner: Any = attack.attack
    fields = {field.name for field in dataclasses.fields(inner)} if dataclasses.is_dataclass(inner) else set()
    if not {"epsilon", "num_steps"} <= fields:
        return None
    budget = {"epsilon": epsilon, "num_steps": num_steps, "step_size": 2.5 * epsilon / max(num_steps, 1)}
    changed = dataclasses.replace(inner, **{key: value for key, value in budget.items() if key in fields})
    return dataclasses.replace(attack, attack=changed, restarts=1)  # type: ignore[type-var]  # they are dataclasses


class _Probe:
    """One image attack on the samples."""

    def __init__(self, samples: Samples, attack: ImageAttacker) -> None:
        self.samples, self.attack, self.spec = samples, attack, samples.spec
        self.images, self.labels = samples.images, samples.labels
        self.epsilon, self.steps = self.spec.pixel_radius, samples.steps
        self.longest = 1.0 if self.spec.norm == "linf" else math.sqrt(self.images[0].numel())
        self.loss: Callable[[Tensor, Tensor], Tensor] = getattr(attack, "loss", margin_loss)

    def check(self) -> list[Finding]:
        """Run every check, the attack at its own budget first."""
        base = self.run(self.epsilon, self.steps) or self.run_as_it_is()
        narrower, wider = self.epsilon / 2, min(2 * self.epsilon, self.longest)
        by_epsilon = {narrower: self.run(narrower, self.steps), self.epsilon: base, wider: self.run(wider, self.steps)}
        by_steps = {1: self.run(self.epsilon, 1), self.steps: base}
        return [
            self.raises_loss(base),
            self.repeats_itself(base),
            self.has_gradients(),
            self.zero_budget(),
            self.falls_with("epsilon", by_epsilon),
            self.falls_with("steps", by_steps),
            self.unbounded(),
            self.beats_noise(base),
            self.beats_transfer(base),
            self.comes_near_reference(base),
        ]

    def run(self, epsilon: float, num_steps: int) -> Attacked | None:
        """Run the attack with another budget; None if it has no fields for one (AutoAttack is not run ten times)."""
        attack = shortened(self.attack, epsilon, num_steps)
        return None if attack is None else self._run(attack)

    def run_as_it_is(self) -> Attacked:
        """Run the attack with its own budget."""
        return self._run(self.attack)

    def _run(self, attack: ImageAttacker) -> Attacked:
        return attack_images(
            attack,
            self.images,
            self.labels,
            encode=self.samples.evaluation.encoder.encode_images,
            attacked=self.samples.evaluation.clean_prompts,
            judged=self.samples.evaluation.clean_prompts,
            generator=seeded_generator(self.images.device, self.spec.seed, "sanity"),
            skip_fallen=True,
        )

    def raises_loss(self, base: Attacked) -> Finding:
        """Check that the loss rises: an attack that does nothing raises none."""
        before, after = (
            class_loss(self.samples.logits(images), self.labels).mean().item() for images in (self.images, base.images)
        )
        raised = after > before or (None if self._gave_up(base) else False)
        return finding("raises the loss", raised, f"mean cross-entropy {before:.4g} before, {after:.4g} after")

    def _gave_up(self, base: Attacked) -> bool:
        """Return whether this is an attack on classifiers, which may return an image as it is if it finds nothing."""
        return not self.attack.reads_rows and torch.equal(base.images, self.images)

    def repeats_itself(self, base: Attacked) -> Finding:
        """Check that two runs with one seed give one result."""
        again = self.run(self.epsilon, self.steps)
        if again is None and not self.attack.reads_rows:
            return finding("repeats itself", None, "not checked: the attack is dear and is run once")
        again = again or self.run_as_it_is()
        same = torch.equal(again.stands, base.stands)
        return finding(
            "repeats itself", same, f"{_count(base)} and {_count(again)} are robust in two runs with one seed"
        )

    def has_gradients(self) -> Finding:
        """Check gradients: a sample whose gradient is all zero cannot be attacked by it."""
        _, grad = value_and_gradient(lambda images: self.loss(self.samples.logits(images), self.labels), self.images)
        return all_gradients(grad, torch.ones_like(grad, dtype=torch.bool))

    def zero_budget(self) -> Finding:
        """Check that epsilon = 0 equals clean."""
        attacked = self.run(0.0, self.steps)
        if attacked is None:
            return _not_run("epsilon 0 equals clean")
        length = perturbation_lengths(attacked.images, self.images, self.spec.norm).amax().item()
        stands = bool(attacked.stands.all())
        return finding(
            "epsilon 0 equals clean", stands and length == 0, f"{_count(attacked)} are robust, perturbation {length:g}"
        )

    def falls_with(self, what: str, runs: Mapping[Any, Attacked | None]) -> Finding:
        """Check that a larger budget leaves no more samples standing."""
        counts = [int(one.stands.sum()) for one in runs.values() if one is not None]
        if len(counts) < len(runs):
            return _not_run(f"accuracy does not rise with {what}")
        rises = any(later > earlier + TOLERANCE for earlier, later in pairwise(counts))
        values = ", ".join(f"{budget:.4g}" for budget in runs)
        return finding(
            f"accuracy does not rise with {what}",
            not rises,
            f"{counts} of {len(self.labels)} are robust at {what} {values}",
        )

    def unbounded(self) -> Finding:
        """Check that an attack with the whole pixel range to itself misleads about everything."""
        attacked = self.run(self.longest, UNBOUNDED_STEPS)
        if attacked is None:
            return _not_run("an unbounded attack misclassifies all")
        left = int(attacked.stands.sum())
        return finding(
            "an unbounded attack misclassifies all",
            left <= TOLERANCE,
            f"{_count(attacked)} are robust at epsilon {self.longest:.4g}",
        )

    def beats_noise(self, base: Attacked) -> Finding:
        """Check that noise misclassifies no more than the attack."""
        left = int(self.samples.noise.sum())
        passed = int(base.stands.sum()) <= left
        return finding(
            "random noise is not stronger", passed, f"{left} are robust to noise, {_count(base)} to the attack"
        )

    def beats_transfer(self, base: Attacked) -> Finding:
        """Check that perturbations made for another sample misclassify no more than a sample's own."""
        moved = (self.images + (base.images - self.images).roll(1, 0)).clamp(0, 1)
        left = int(self.samples.stands(moved).sum())
        passed = int(base.stands.sum()) <= left
        return finding(
            "a transferred attack is not stronger",
            passed,
            f"{left} are robust to another sample's, {_count(base)} to their own",
        )

    def comes_near_reference(self, base: Attacked) -> Finding:
        """Check that a short attack on the margin fells no more, nor raises the margin by far more.

        The margin counts up to 0, where a sample is misclassified. An attack on classifiers may leave the samples that
        it cannot mislead as they are, so that only the number of misclassified ones counts.
        """
        left = int(self.samples.stands(self.samples.reference).sum())
        clean, own, reference = (
            self.samples.margins(images).clamp(max=0).double()
            for images in (self.images, base.images, self.samples.reference)
        )
        own = torch.where(base.stands, own, 0.0)
        gain, reference_gain = (own - clean).sum().item(), (reference - clean).sum().item()
        passed = int(base.stands.sum()) <= left + TOLERANCE
        if self.attack.reads_rows:
            passed = passed and gain >= NEAR * reference_gain
        return finding(
            "comes near a reference attack",
            passed,
            f"{left} are robust to {self.steps} steps on the margin, {_count(base)} to the attack; "
            f"the margin rises by {reference_gain / len(own):.4g} and {gain / len(own):.4g}",
        )


def all_gradients(grad: Tensor, movable: Tensor) -> Finding:
    """Check that every sample's gradient is finite and not all zero where it may move, (samples, ...) each."""
    flat = torch.where(movable, grad, 0.0).flatten(1)
    zero = int((flat.abs().amax(1) == 0).sum()) + int((~flat.isfinite().all(1)).sum())
    return finding("has gradients", zero == 0, f"{zero} of {len(grad)} have an all-zero or non-finite gradient")


def _count(attacked: Attacked) -> str:
    return f"{int(attacked.stands.sum())} of {len(attacked.stands)}"


def _not_run(check: str) -> Finding:
    return finding(check, None, "not checked: the attack has no fields `epsilon` and `num_steps` to change")
