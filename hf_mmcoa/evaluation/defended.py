"""Accuracy behind a test-time defence: clean, under attacks made without it (static) and through it (adaptive)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from ..attacks import factory
from ..attacks.class_prompts import correct
from ..attacks.contracts import ImageAttack
from ..attacks.engine import ImageAttacker, Measured, attack_images, seeded_generator
from ..attacks.image_losses import log_odds_loss, margin_loss
from ..data.columns import AUTO
from ..defences.defence import Defence, ImageDefence
from ..gradients import gradient
from .adaptive import DefendedModel, over_draws
from .defended_results import COLUMNS, DEFENDED_FORMAT, TASK, accuracies_of, load_defended, save_defended
from .findings import Finding, allowance, finding
from .prepare import Evaluation, prepare
from .runner import Record, evaluated_model, evaluating, process_state, result_names, run
from .sanity import inside_ball
from .threat_model import ThreatModel

EOT_DRAWS = 20  # as AutoAttack's version for randomised models (arXiv:2003.01690)
DRAWS = 10


def evaluate_defence(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    defence: Defence,
    *,
    threat_model: str | Mapping[str, Any] | ThreatModel = "standard",
    adaptive_steps: int | None = None,
    eot_draws: int = EOT_DRAWS,
    draws: int = DRAWS,
    class_names: Sequence[str] | None = None,
    image_attacks: Mapping[str, ImageAttack] | None = None,
    image_column: str = AUTO,
    label_column: str = AUTO,
    batch_size: int = 128,
    max_samples: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    accelerator: Accelerator | PartialState | None = None,
    sanity: bool = True,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    training_seed: int | None = None,
) -> dict[str, Any]:
    """Measure zero-shot accuracy behind a test-time defence, with the right answers to every sample.

    - static: the threat model's image attacks on the undefended model, run to their end; the defended model reads what
      they found. Papers on such defences report this number.
    - adaptive: the same attacks through the defence, on the mean loss over `eot_draws` draws of it (EOT), with its
      gradient unrolled, or taken for the identity (BPDA) if it is an `ImageDefence`.
    - worst: for each sample the attacker hands in what fools the defended model most often: the static or the adaptive
      image, or the clean one. This is the number to quote.

    A defence that answers at random is asked `draws` times, and its accuracy is the mean share of right answers. The
    attacker chooses among images by `draws` other answers, so that no image is judged by the answers it was chosen by.
    A defence whose answers do not depend on the seed is asked once, and `eot_draws` is 1.

    Args:
        model: a `CLIPModel` or `SiglipModel`, wrapped or not; left as it was.
        processor: its processor.
        dataset: pictures and labels, map-style.
        defence: the defence; its `repr` identifies it in the result.
        threat_model: a specification, or the name of a preset; only what it says of images is used.
        adaptive_steps: steps of the adaptive attacks; as many as of the static ones when None.
        eot_draws: draws of the defence at each step of an adaptive attack.
        draws: answers to each sample.
        class_names: as of `evaluate_robustness`, with the arguments below.
        image_attacks: attacks of your own by name, in place of the threat model's, static and adaptive.
        image_column: pictures; "auto" finds them.
        label_column: labels; "auto" finds them.
        batch_size: images per unit of work. What is drawn depends on it.
        max_samples: evaluate on so many rows only, drawn once.
        output: JSON file for the result; an interrupted evaluation goes on.
        overwrite: replace the result of another evaluation in `output`, instead of raising.
        accelerator: shares the batches among its processes.
        sanity: also check that the attacks stay in the ball, see a gradient, and gain by looking through the defence.
        progress: show a bar.
        model_name: recorded as `result["model"]`.
        dataset_name: recorded as `result["dataset"]`.
        training_seed: recorded as `result["training_seed"]`.

    Returns:
        A flat dictionary of JSON values: `clean_accuracy`, `static_accuracy`, `adaptive_accuracy`, `robust_accuracy`
        (the worst of them, sample by sample), `undefended_clean_accuracy` and `undefended_static_accuracy`, each with
        `..._interval`; `answers`, the right answers to each sample in each column; what identifies the evaluation.

    Raises:
        ValueError: as `evaluate_robustness`; if a number of steps or draws is below 1, the threat model has several
            templates and the defence is no `ImageDefence`, none of its image attacks can be averaged over draws, or the
            defence has no gradient.

    Example:
        >>> from hf_mmcoa.defences import TTC
        >>> result = evaluate_defence(model, processor, test_split, TTC(), threat_model="quick")  # doctest: +SKIP
        >>> result["static_accuracy"], result["adaptive_accuracy"], result["robust_accuracy"]  # doctest: +SKIP
    """
    spec = ThreatModel.read(threat_model)
    adaptive_steps = spec.num_steps if adaptive_steps is None else adaptive_steps
    for name, value in (("adaptive_steps", adaptive_steps), ("eot_draws", eot_draws), ("draws", draws)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if spec.templates is not None and not isinstance(defence, ImageDefence):
        raise ValueError(
            "`templates` is an ensemble, and a defence that changes more than images reads one prompt a class: give "
            "one `template`."
        )
    state = process_state(accelerator, model)
    model = evaluated_model(model, state, accelerator)
    evaluation = prepare(
        model,
        processor,
        dataset,
        ("clean", "image"),
        replace(spec, text_attacks=(), multimodal_attacks=()),
        class_names=class_names,
        candidates=None,
        image_attacks=image_attacks,
        image_column=image_column,
        label_column=label_column,
        batch_size=batch_size,
        max_samples=max_samples,
    )
    encoder = evaluation.encoder
    defended = DefendedModel(
        defence=defence,
        texts=evaluation.prompts,
        model=evaluation.texts.remembering_encoder,
        factor=evaluation.scale / encoder.logit_scale.detach(),
    )
    with evaluating(model), torch.no_grad():
        random = defended.answers_at_random(evaluation.load(0)["images"].to(evaluation.prompt_embeds.device))
    plan = AdaptivePlan.of(evaluation, adaptive_steps, eot_draws if random else 1, draws if random else 1, random)
    return run(
        DefenceTask(evaluation, defended, plan),
        model,
        names=result_names(model, dataset, model_name, dataset_name, training_seed),
        output=output,
        overwrite=overwrite,
        state=state,
        sanity=sanity,
        progress=progress,
        load=load_defended,
        save=save_defended,
    )


@dataclass(frozen=True, kw_only=True)
class AdaptivePlan:
    """How a defence is attacked and asked.

    Args:
        attacks: adaptive attacks by name.
        num_steps: their steps.
        eot_draws: draws of the defence at each step.
        draws: answers to each sample.
        random: whether the defence answers at random.
    """

    attacks: Mapping[str, ImageAttacker]
    num_steps: int
    eot_draws: int
    draws: int
    random: bool

    @classmethod
    def of(cls, evaluation: Evaluation, num_steps: int, eot_draws: int, draws: int, random: bool) -> AdaptivePlan:
        """Return the plan for an evaluation: its attacks with `num_steps`, and PGD's steps as much longer or shorter.

        Raises:
            ValueError: if no attack can be averaged over draws.
        """
        spec, given = evaluation.spec, evaluation.image_attacks
        if num_steps != spec.num_steps and set(given) == set(spec.image_attacks):  # a user's own stay as they are
            step_size = float(spec.step_size or 0) * spec.num_steps / num_steps
            changed = replace(spec, num_steps=num_steps, step_size=step_size)
            given = {name: factory.image_attack(name, changed) for name in spec.image_attacks}
        found = {name: over_draws(attack, eot_draws) for name, attack in given.items()}
        attacks = {name: attack for name, attack in found.items() if attack is not None}
        if not attacks:
            raise ValueError(
                f"`image_attacks`: {', '.join(given)} judge single answers, which a defence may draw at random: add "
                "one that climbs a loss, such as apgd-ce."
            )
        return cls(attacks=attacks, num_steps=num_steps, eot_draws=eot_draws, draws=draws, random=random)


class DefenceTask:
    """Classification behind a defence as a `runner.Task`."""

    def __init__(self, evaluation: Evaluation, defended: DefendedModel, plan: AdaptivePlan) -> None:
        self.evaluation, self.defended, self.plan = evaluation, defended, plan
        self.texts, self.num_batches = evaluation.texts, evaluation.num_batches
        self.load, self.search = evaluation.load, evaluation.search

    def header(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            **self.evaluation.header(),
            "format": DEFENDED_FORMAT,
            "task": TASK,
            "defence": repr(self.defended.defence),
            "random": self.plan.random,
            "draws": self.plan.draws,
            "eot_draws": self.plan.eot_draws,
            "adaptive_steps": self.plan.num_steps,
            "adaptive_attacks": list(self.plan.attacks),
        }

    def attack(self, index: int, batch: dict[str, Any]) -> Record:
        """See `Task`."""
        return _Batch(self, index, batch).record()

    def progress(self, records: Sequence[Record]) -> str:
        """See `Task`."""
        robust = sum(sum(record["answers"]["robust"]) for record in records) / self.plan.draws
        return f"{robust:.0f}/{sum(len(record['answers']['robust']) for record in records)} robust"

    def check(self, records: Sequence[Record]) -> list[Finding]:
        """Check that the attacks stay in the ball, look through the defence, and gain by it."""
        lengths, ranges = zip(*((one["largest_perturbation"], one["pixel_range"]) for one in records), strict=True)
        blocked, probed = (sum(record[key] for record in records) for key in ("blocked", "probed"))
        static, adaptive = (
            sum(sum(record["answers"][column]) for record in records) / self.plan.draws
            for column in ("static", "adaptive")
        )
        within = allowance(sum(len(record["answers"]["clean"]) for record in records))
        return [
            inside_ball(lengths, ranges, self.evaluation.spec.pixel_radius),
            finding(
                "adaptive: sees a gradient through the defence",
                blocked == 0 if probed else None,
                f"zero for {blocked} of {probed} correctly classified samples",
            ),
            finding(
                "adaptive: at least as strong as static",
                adaptive <= static + within,
                f"{adaptive:g} right under adaptive, {static:g} under static attacks: more steps or draws if fewer",
            ),
        ]

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """See `Task`."""
        answers = {column: [right for record in records for right in record["answers"][column]] for column in COLUMNS}
        return {
            **accuracies_of(answers, self.plan.draws),
            "class_names": self.evaluation.class_names,
            "prompts": self.evaluation.prompts,
            "row_ids": self.evaluation.row_ids,
            "labels": self.evaluation.labels,
            "answers": answers,
        }


class _Batch:
    """The attacks on one batch, and the answers to what they found."""

    def __init__(self, task: DefenceTask, index: int, batch: dict[str, Any]) -> None:
        self.evaluation, self.defended, self.plan, self.index = task.evaluation, task.defended, task.plan, index
        device = self.evaluation.prompt_embeds.device
        self.images, self.labels = batch["images"].to(device), batch["labels"].to(device)
        self.measured = Measured(self.evaluation.spec.norm)

    def record(self) -> Record:
        """Run every attack; return what is kept of them, as JSON values."""
        clean = _Chosen(self, self.images)
        static, undefended = self._static(clean)
        adaptive = self._adaptive(clean)
        worst = adaptive.copy()
        worst.offer(torch.arange(len(self.labels), device=self.labels.device), static.images)
        columns = {"clean": clean, "static": static, "adaptive": adaptive, "robust": worst}
        blocked, probed = self._blocked(clean)
        return {
            "answers": undefended
            | {name: self.right_answers(column.images, "judge")[0].tolist() for name, column in columns.items()},
            "blocked": blocked,
            "probed": probed,
            "largest_perturbation": self.measured.largest,
            "pixel_range": self.measured.pixel_range,
        }

    def right_answers(self, images: Tensor, purpose: str, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return how many answers to each image are right, and their mean margin against the label, (images,) each.

        Args:
            images: images of the batch.
            purpose: the answers to one purpose are other draws than those to another.
            rows: places of the images in the batch; all when None.
        """
        labels = self.labels if rows is None else self.labels[rows]
        right, margin = torch.zeros_like(labels), torch.zeros_like(images[:, 0, 0, 0])
        for draw in range(self.plan.draws):
            logits = self.defended.logits(images, self._generator(purpose, draw))
            right += correct(logits, labels)
            margin += margin_loss(logits, labels) / self.plan.draws
        return right, margin

    def _static(self, clean: _Chosen) -> tuple[_Chosen, dict[str, list[int]]]:
        """Attack the undefended model; return the worst images, and which samples it keeps right itself."""
        evaluation, every = self.evaluation, torch.arange(len(self.labels), device=self.labels.device)
        chosen, prompts = clean.copy(), evaluation.clean_prompts
        right = prompts.correct(evaluation.encoder.encode_images(self.images), self.labels)
        stands = right.clone()
        for name, attack in evaluation.image_attacks.items():
            for restart in range(attack.restarts):
                found = attack_images(
                    attack,
                    self.images,
                    self.labels,
                    encode=evaluation.encoder.encode_images,
                    attacked=evaluation.attacker_prompts,
                    judged=prompts,
                    generator=self._generator("static", name, restart),
                    skip_fallen=False,  # what barely misleads the model does not carry over to the defended one
                )
                self.measured.add(found.images, self.images)
                chosen.offer(every, found.images)
                stands &= found.stands
        return chosen, {"undefended/clean": right.int().tolist(), "undefended/static": stands.int().tolist()}

    def _adaptive(self, clean: _Chosen) -> _Chosen:
        """Attack through the defence the samples that it still answers right."""
        chosen = clean.copy()
        for name, attack in self.plan.attacks.items():
            for restart in range(attack.restarts):
                rows = (chosen.right > 0).nonzero().squeeze(1)
                if len(rows) == 0:
                    return chosen
                generator = self._generator("adaptive", name, restart)

                def logits_fn(images: Tensor, places: Tensor, draws: torch.Generator = generator) -> Tensor:
                    return self.defended.attacked_logits(images, draws)

                found, _ = attack.find(
                    self.images[rows], self.labels[rows], logits_fn, generator, stop=not self.plan.random
                )
                self.measured.add(found, self.images[rows])
                chosen.offer(rows, found)
        return chosen

    def _blocked(self, clean: _Chosen) -> tuple[int, int]:
        """Return of how many samples with right answers the gradient is zero, and how many there are."""
        rows = (clean.right > 0).nonzero().squeeze(1)
        generator = self._generator("gradient")

        def loss(images: Tensor) -> Tensor:
            return log_odds_loss(self.defended.attacked_logits(images, generator), self.labels[rows])

        grads = gradient(loss, self.images[rows]) if len(rows) else self.images[rows]
        return int((grads.flatten(1) == 0).all(1).sum()), len(rows)

    def _generator(self, *key: object) -> torch.Generator:
        return seeded_generator(self.images.device, self.evaluation.spec.seed, self.index, *key)


class _Chosen:
    """The image that the attacker hands in for each sample: of fewest right answers, then of largest mean margin."""

    def __init__(self, batch: _Batch, images: Tensor) -> None:
        self.batch, self.images = batch, images.clone()
        self.right, self.margin = batch.right_answers(images, "choose")

    def copy(self) -> _Chosen:
        """Return a choice that starts from this one."""
        other = object.__new__(_Chosen)
        other.batch = self.batch
        other.images, other.right, other.margin = self.images.clone(), self.right.clone(), self.margin.clone()
        return other

    def offer(self, rows: Tensor, images: Tensor) -> None:
        """Take those of the images, (rows, 3, height, width), that are worse than what was chosen for their rows."""
        right, margin = self.batch.right_answers(images, "choose", rows)
        worse = (right < self.right[rows]) | ((right == self.right[rows]) & (margin > self.margin[rows]))
        taken = rows[worse]
        self.images[taken], self.right[taken], self.margin[taken] = images[worse], right[worse], margin[worse]
