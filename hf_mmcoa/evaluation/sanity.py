"""An evaluation that checks itself (docs/methods.md, section 8): a weak attack makes any model look robust.

A gradient-masked model, an attack that does nothing and one that leaves its ball all look robust, or broken, for the
wrong reason. The checks run on a few correctly classified samples with few steps, and read what the evaluation itself
recorded; a finding is `{"check", "passed", "detail"}`, with `passed` None where a check could not be run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..attacks.class_prompts import correct
from ..attacks.engine import Attacked, ImageAttacker, attack_images, perturbation_lengths, seeded_generator
from ..attacks.image_losses import class_loss, log_odds_loss
from ..data.rows import collate
from ..gradients import value_and_gradient
from ..losses import zero_shot_logits
from ..substitutes.words import changed_words
from .attack_names import AttackName
from .prepare import Evaluation

Finding = dict[str, Any]

# Together as dear as 20 steps on 15 images: 2% of a quick evaluation of 1,000.
SAMPLES = 8
STEPS = 5
UNBOUNDED_STEPS = 10
NOISE_DRAWS = 10
TOLERANCE = 1  # samples: two attacks on different paths may differ by one


def run_battery(evaluation: Evaluation, records: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """All checks that apply to an evaluation, given the records of its batches."""
    findings = []
    if "image" in evaluation.attacks:
        findings.append(
            inside_ball(
                [record["largest_perturbation"] for record in records],
                [record["pixel_range"] for record in records],
                evaluation.spec.pixel_radius,
            )
        )
        findings += _image_findings(evaluation, records)
    spec = evaluation.spec
    findings += evaluation.texts.found.findings
    for name, adv_prompts in evaluation.texts.found.lists.items():
        if AttackName.parse(name).attack == "characters":
            findings.append(within_edit_budget(name, evaluation.prompts, adv_prompts, spec.max_edits))
        else:
            findings.append(within_word_budget(name, evaluation.prompts, adv_prompts, spec.max_changes))
        if spec.forbid_class_names:
            findings.append(keeps_class(name, evaluation.prompts, adv_prompts))
    return findings


def failed(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that say that a number cannot be trusted."""
    return [finding for finding in findings if finding["passed"] is False]


# On what the evaluation recorded


def inside_ball(lengths: Sequence[float], ranges: Sequence[Sequence[float]], epsilon: float) -> Finding:
    """Every adversarial example is within epsilon of its image and in [0, 1]."""
    largest, low, high = max(lengths), min(one[0] for one in ranges), max(one[1] for one in ranges)
    limit = epsilon * (1 + 1e-4) + 1e-6  # rounding of float32
    return _finding(
        "inside the ball",
        largest <= limit and low >= 0 and high <= 1,
        f"largest perturbation {largest:.6g} of {epsilon:.6g}, pixels from {low:g} to {high:g}",
    )


def within_word_budget(name: str, prompts: Sequence[str], adv_prompts: Sequence[str], max_changes: int) -> Finding:
    """No prompt has more words changed than allowed; a word put beside an old one counts as one."""
    counts = [
        sum(max(len(before.split()), 1) for before, _ in changed_words(prompt, adv))
        for prompt, adv in zip(prompts, adv_prompts, strict=True)
    ]
    worst = max(range(len(counts)), key=counts.__getitem__)
    return _finding(
        f"{name}: within its budget",
        counts[worst] <= max_changes,
        f"at most {counts[worst]} of {max_changes} words changed" + _example(prompts[worst], adv_prompts[worst]),
    )


def within_edit_budget(name: str, prompts: Sequence[str], adv_prompts: Sequence[str], max_edits: int) -> Finding:
    """No prompt is further than allowed in Levenshtein distance."""
    counts = [levenshtein(prompt, adv) for prompt, adv in zip(prompts, adv_prompts, strict=True)]
    worst = max(range(len(counts)), key=counts.__getitem__)
    return _finding(
        f"{name}: within its budget",
        counts[worst] <= max_edits,
        f"at most {counts[worst]} of {max_edits} characters changed" + _example(prompts[worst], adv_prompts[worst]),
    )


def keeps_class(name: str, prompts: Sequence[str], adv_prompts: Sequence[str]) -> Finding:
    """No attacked prompt is another class's prompt: its label would be wrong."""
    own = {prompt.casefold() for prompt in prompts}
    taken = [
        f"{prompt!r} -> {adv!r}"
        for prompt, adv in zip(prompts, adv_prompts, strict=True)
        if adv.casefold() != prompt.casefold() and adv.casefold() in own
    ]
    detail = f"{len(taken)} attacked prompts are another class's" + (f": {'; '.join(taken[:3])}" if taken else "")
    return _finding(f"{name}: keeps the class", not taken, detail)


def levenshtein(one: str, other: str) -> int:
    """Insertions, deletions and substitutions of characters from one text to the other."""
    above = list(range(len(other) + 1))
    for row, a in enumerate(one, 1):
        line = [row]
        for column, b in enumerate(other, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (a != b)))
        above = line
    return above[-1]


# On a few samples


def _image_findings(evaluation: Evaluation, records: Sequence[Mapping[str, Any]]) -> list[Finding]:
    clean = "".join(record["outcomes"]["clean"] for record in records)
    correct = [row for row, stands in zip(evaluation.row_ids, clean, strict=True) if stands == "1"]
    chosen = correct[:: math.ceil(len(correct) / SAMPLES)] if correct else []
    name, attack = next(iter(evaluation.image_attacks.items()))
    probe = _Probe(evaluation, attack, chosen) if chosen else None
    if probe is None or evaluation.spec.zero_budgets().get("image"):
        why = "no sample is classified correctly" if probe is None else "the image attack has no budget"
        return [_finding(f"image/{name}", None, f"not checked: {why}")]
    findings = probe.check()
    return [{**finding, "check": f"image/{name}: {finding['check']}"} for finding in findings]


class _Probe:
    """One image attack on a few correctly classified samples."""

    def __init__(self, evaluation: Evaluation, attack: ImageAttacker, row_ids: list[int]) -> None:
        batch = collate(evaluation.rows.__getitems__(row_ids))
        device = evaluation.prompt_embeds.device
        self.images, self.labels = batch["images"].to(device), batch["labels"].to(device)
        self.evaluation, self.attack, self.spec = evaluation, attack, evaluation.spec
        self.epsilon, self.steps = self.spec.pixel_radius, min(self.spec.num_steps, STEPS)
        self.longest = 1.0 if self.spec.norm == "linf" else math.sqrt(self.images[0].numel())

    def check(self) -> list[Finding]:
        """Every check, the attack at its own budget first."""
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
        ]

    def run(self, epsilon: float, num_steps: int) -> Attacked | None:
        """The attack with another budget; None if it has no fields for it (AutoAttack is not asked ten times over)."""
        inner: Any = self.attack.attack
        fields: set[str] = set()
        if dataclasses.is_dataclass(inner):
            fields = {field.name for field in dataclasses.fields(inner)}
        if not {"epsilon", "num_steps"} <= fields:
            return None
        budget = {"epsilon": epsilon, "num_steps": num_steps, "step_size": 2.5 * epsilon / max(num_steps, 1)}
        changed = dataclasses.replace(inner, **{key: value for key, value in budget.items() if key in fields})
        attacker: Any = self.attack
        return self._run(dataclasses.replace(attacker, attack=changed))

    def run_as_it_is(self) -> Attacked:
        """The attack with its own budget."""
        return self._run(self.attack)

    def _run(self, attack: ImageAttacker) -> Attacked:
        return attack_images(
            attack,
            self.images,
            self.labels,
            encode=self.evaluation.encoder.encode_images,
            attacked=self.evaluation.clean_prompts,
            judged=self.evaluation.clean_prompts,
            generator=seeded_generator(self.images.device, self.spec.seed, "sanity"),
            skip_fallen=True,
        )

    def logits(self, images: Tensor) -> Tensor:
        """Class scores under the clean prompts."""
        return zero_shot_logits(
            self.evaluation.encoder.encode_images(images), self.evaluation.prompt_embeds, self.evaluation.scale
        )

    def stands(self, images: Tensor) -> Tensor:
        """Return whether each image is classified correctly, (images,)."""
        with torch.no_grad():
            return correct(self.logits(images), self.labels)

    def raises_loss(self, base: Attacked) -> Finding:
        """An attack that does nothing raises no loss."""
        before, after = (
            class_loss(self.logits(images), self.labels).mean().item() for images in (self.images, base.images)
        )
        return _finding("raises the loss", after > before, f"mean cross-entropy {before:.4g} before, {after:.4g} after")

    def repeats_itself(self, base: Attacked) -> Finding:
        """Twice with one seed gives one result."""
        again = self.run(self.epsilon, self.steps) or self.run_as_it_is()
        same = torch.equal(again.stands, base.stands)
        return _finding(
            "repeats itself", same, f"{_count(base)} and {_count(again)} are robust in two runs with one seed"
        )

    def has_gradients(self) -> Finding:
        """A sample whose gradient is all zero cannot be attacked by it."""
        loss = getattr(self.attack, "loss", log_odds_loss)  # the cross-entropy of one's own attacks can be flat
        _, grad = value_and_gradient(lambda images: loss(self.logits(images), self.labels), self.images)
        zero = int((grad.flatten(1).abs().amax(1) == 0).sum()) + int((~grad.flatten(1).isfinite().all(1)).sum())
        return _finding(
            "has gradients", zero == 0, f"{zero} of {len(grad)} samples have an all-zero or non-finite gradient"
        )

    def zero_budget(self) -> Finding:
        """epsilon = 0 equals clean."""
        attacked = self.run(0.0, self.steps)
        if attacked is None:
            return _not_run("epsilon 0 equals clean")
        length = perturbation_lengths(attacked.images, self.images, self.spec.norm).amax().item()
        stands = bool(attacked.stands.all())
        return _finding(
            "epsilon 0 equals clean", stands and length == 0, f"{_count(attacked)} are robust, perturbation {length:g}"
        )

    def falls_with(self, what: str, runs: Mapping[Any, Attacked | None]) -> Finding:
        """A larger budget leaves no more samples standing."""
        counts = [int(one.stands.sum()) for one in runs.values() if one is not None]
        if len(counts) < len(runs):
            return _not_run(f"accuracy does not rise with {what}")
        rises = any(later > earlier + TOLERANCE for earlier, later in pairwise(counts))
        values = ", ".join(f"{budget:.4g}" for budget in runs)
        return _finding(
            f"accuracy does not rise with {what}",
            not rises,
            f"{counts} of {len(self.labels)} are robust at {what} {values}",
        )

    def unbounded(self) -> Finding:
        """With the whole pixel range to itself an attack that works fells about everything."""
        attacked = self.run(self.longest, UNBOUNDED_STEPS)
        if attacked is None:
            return _not_run("an unbounded attack misclassifies all")
        left = int(attacked.stands.sum())
        return _finding(
            "an unbounded attack misclassifies all",
            left <= TOLERANCE,
            f"{_count(attacked)} are robust at epsilon {self.longest:.4g}",
        )

    def beats_noise(self, base: Attacked) -> Finding:
        """Check that random points on the ball's surface, a black-box attack, misclassify no more than the attack."""
        generator = seeded_generator(self.images.device, self.spec.seed, "noise")
        left = torch.ones_like(self.labels, dtype=torch.bool)
        for _ in range(NOISE_DRAWS):
            noise = torch.randn(self.images.shape, generator=generator, device=self.images.device)
            if self.spec.norm == "linf":
                delta = self.epsilon * noise.sign()
            else:
                delta = self.epsilon * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            left &= self.stands((self.images + delta).clamp(0, 1))
        passed = int(base.stands.sum()) <= int(left.sum())
        return _finding(
            "random noise is not stronger",
            passed,
            f"{int(left.sum())} are robust to noise, {_count(base)} to the attack",
        )

    def beats_transfer(self, base: Attacked) -> Finding:
        """Check that perturbations made for another sample misclassify no more than a sample's own."""
        moved = (self.images + (base.images - self.images).roll(1, 0)).clamp(0, 1)
        left = int(self.stands(moved).sum())
        passed = int(base.stands.sum()) <= left
        return _finding(
            "a transferred attack is not stronger",
            passed,
            f"{left} are robust to another sample's, {_count(base)} to their own",
        )


def _count(attacked: Attacked) -> str:
    return f"{int(attacked.stands.sum())} of {len(attacked.stands)}"


def _finding(check: str, passed: bool | None, detail: str) -> Finding:
    return {"check": check, "passed": passed, "detail": detail}


def _not_run(check: str) -> Finding:
    return _finding(check, None, "not checked: the attack has no fields `epsilon` and `num_steps` to change")


def _example(prompt: str, adv_prompt: str) -> str:
    return "" if prompt == adv_prompt else f", e.g. {prompt!r} -> {adv_prompt!r}"
