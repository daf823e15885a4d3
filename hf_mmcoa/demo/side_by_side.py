"""One picture under one attack, evaluated for several models: an evaluation of one sample, with all its parts to show.

Prompts, attacks, seeds and resolutions are those of `evaluate_robustness`, so the page agrees with the tables. Each
model is attacked separately, with full knowledge of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data.columns import AUTO
from ..data.images import to_rgb
from ..evaluation.prepare import Evaluation, prepare
from ..evaluation.runner import evaluating
from ..evaluation.threat_model import ThreatModel
from ..losses import zero_shot_logits
from ..report.gallery import attacked_image
from ..substitutes.source import CandidateSource

# Name of an attack -> the kinds of attack that the evaluator runs for it, and the kind of text attack.
ATTACKS: dict[str, tuple[tuple[str, ...], str]] = {
    "none": (("clean",), "words"),
    "image": (("image",), "words"),
    "words": (("text",), "words"),
    "text embedding": (("text",), "embedding"),
    "multimodal": (("image", "text", "multimodal"), "words"),
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One model's predictions for a picture, without and under attack.

    Args:
        image: clean image at the resolution of the attack, in [0, 1], (3, height, width).
        perturbation: adversarial minus clean image, of the same shape; zeros without an image attack.
        label: the class that the attack drives the prediction away from.
        clean: probability of each class without attack, (classes,).
        attacked: probability of each class under attack, (classes,).
        prompts: one per class.
        adv_prompts: the prompts after the attack on words.
    """

    image: np.ndarray
    perturbation: np.ndarray
    label: int
    clean: np.ndarray
    attacked: np.ndarray
    prompts: Sequence[str]
    adv_prompts: Sequence[str]

    @property
    def right_before(self) -> bool:
        """Return True if the clean image is classified as `label`."""
        return int(self.clean.argmax()) == self.label

    @property
    def stands(self) -> bool:
        """Return True if the image is still classified as `label` under attack."""
        return int(self.attacked.argmax()) == self.label


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The readings of one picture by all models, with the attack that they were made under.

    Args:
        readings: by name of the model, in the order given.
        class_names: class names by label.
        attack: one of `ATTACKS`.
        budget: the complete threat model of that attack.
        has_label: True if the true class was given; otherwise each model's own clean prediction takes its place.
    """

    readings: Mapping[str, Reading]
    class_names: Sequence[str]
    attack: str
    budget: ThreatModel
    has_label: bool

    @property
    def amplification(self) -> float:
        """Return the factor for all perturbations that makes the largest one fill the grey range; 1 if all are zero."""
        largest = max(float(np.abs(reading.perturbation).max()) for reading in self.readings.values())
        return 0.5 / largest if largest > 0 else 1.0


def attack_and_compare(
    models: Mapping[str, tuple[nn.Module, Any]],
    picture: Image.Image,
    class_names: Sequence[str],
    attack: str,
    budget: ThreatModel,
    label: int | None = None,
    candidates: CandidateSource | None = None,
) -> Comparison:
    """Attack one picture for each model separately; the same arguments give the same result.

    "image" runs the budget's image attacks and restarts one after the other until one succeeds. "words" runs its word
    substitutions in the true class's prompt. "text embedding" shifts the token embeddings of the prompts. "multimodal"
    changes the words first and then the image, with knowledge of the changed words.

    Args:
        models: name -> (model, its processor), in the order of display.
        picture: of any size and mode.
        class_names: at least two.
        attack: one of `ATTACKS`.
        budget: the attack budget; its prompt template is used for all models.
        label: index of the true class; None attacks each model's own prediction for the clean picture.
        candidates: candidate substitutes of words; None takes those that the budget names, made for each model.

    Raises:
        ValueError: if there is no model, the attack is unknown, the label is out of range, or the evaluator refuses the
            arguments.
    """
    if not models:
        raise ValueError("`models` is empty; give at least one as {name: (model, processor)}.")
    if attack not in ATTACKS:
        raise ValueError(f"`attack` must be one of {', '.join(ATTACKS)}, got {attack!r}.")
    if label is not None and not 0 <= label < len(class_names):
        raise ValueError(f"`label` must lie in [0, {len(class_names)}), got {label}.")
    kinds, text_attack = ATTACKS[attack]
    budget = replace(budget, text_attacks=(text_attack,), text_adversaries=("own",))
    row = {"image": [to_rgb(picture)], "label": [label or 0]}
    dataset = datasets.Dataset.from_dict(
        row, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    )
    readings = {}
    for name, (model, processor) in models.items():
        evaluation = prepare(
            model,
            processor,
            dataset,
            kinds,
            budget,
            class_names=class_names,
            candidates=candidates,
            image_attacks=None,
            image_column=AUTO,
            label_column=AUTO,
            batch_size=1,
            max_samples=None,
        )
        with evaluating(model), torch.no_grad():
            readings[name] = _reading(evaluation, label)
    return Comparison(
        readings=readings,
        class_names=list(class_names),
        attack=attack,
        budget=evaluation.spec,
        has_label=label is not None,
    )


def _reading(evaluation: Evaluation, label: int | None) -> Reading:
    """Evaluate one model on the only row of an evaluation."""
    clean_embeds = evaluation.prompt_embeds
    row = evaluation.rows[0]
    images = row["image"][None].to(clean_embeds.device)
    clean = _probabilities(evaluation, images, clean_embeds)
    row["label"] = int(clean.argmax()) if label is None else label

    adv_prompts, adv_embeds = evaluation.prompts, clean_embeds
    if "text" in evaluation.attacks:
        texts, labels = evaluation.texts, torch.tensor([row["label"]], device=clean_embeds.device)
        embeds = evaluation.encoder.encode_images(images)
        texts.use(texts.search(embeds, labels))
        (adv_prompts,) = texts.written(embeds, labels)
        embedding = texts.embeds.get("text/embedding/blind")
        adv_embeds = evaluation.encoder.encode_texts(adv_prompts) if embedding is None else embedding
    adv_images = images
    if "image" in evaluation.attacks:
        adv_images = attacked_image(evaluation, images, row, adv_embeds if "text" in evaluation.attacks else None)
    return Reading(
        image=row["image"].numpy(),
        perturbation=(adv_images - images)[0].cpu().numpy(),
        label=row["label"],
        clean=clean,
        attacked=_probabilities(evaluation, adv_images, adv_embeds),
        prompts=evaluation.prompts,
        adv_prompts=adv_prompts,
    )


def _probabilities(evaluation: Evaluation, images: Tensor, prompt_embeds: Tensor) -> np.ndarray:
    encoder = evaluation.encoder
    logits = zero_shot_logits(encoder.encode_images(images), prompt_embeds, encoder.logit_scale)
    return logits.softmax(-1)[0].cpu().numpy()
