"""Show a few attacked samples: images, prompts and predictions as plain data, for a picture or a report.

Samples are drawn at random with a seed. A gallery is an illustration: it shows one attack on each image, whereas the
accuracies of a result are worst cases over all attacks and all of their steps.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..attacks.class_prompts import FixedPrompts
from ..attacks.engine import attack_images, seeded_generator
from ..attacks.settings import THREATS
from ..data.columns import AUTO
from ..data.images import read_image
from ..evaluation.prepare import Evaluation, prepare
from ..evaluation.runner import evaluating
from ..evaluation.threat_model import ThreatModel
from ..io import read_json, write_json
from ..losses import zero_shot_logits
from ..substitutes.source import CandidateSource

FORMAT = 1
MAX_PIXELS = 2**25  # of a stored gallery, 16 bytes each once read; 600 images of 224 x 224 have fewer


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A class number and the probability that the model gives it."""

    label: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class View:
    """One sample under attack against one model.

    Args:
        perturbation: adversarial minus clean image, (3, height, width).
        prompt: clean prompt of the true class.
        adv_prompt: the same prompt after the text attack.
        predictions: prediction for each of `THREATS`. "multimodal" classifies the attacked image with the attacked
            prompts of all classes.
    """

    perturbation: np.ndarray
    prompt: str
    adv_prompt: str
    predictions: Mapping[str, Prediction]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A clean image in [0, 1], (3, height, width), its row and label, and its attacked view for every model."""

    row_id: int
    label: int
    image: np.ndarray
    views: Mapping[str, View]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Attacked samples under one threat model.

    Args:
        samples: at least one, each with a view per model.
        class_names: class names, in the order of the labels.
        attack_spec: the threat model, as in a result.
        seed: seed that the samples were drawn with.
    """

    samples: Sequence[Sample]
    class_names: Sequence[str]
    attack_spec: Mapping[str, Any]
    seed: int

    @property
    def models(self) -> list[str]:
        """Return the names of the models, in order."""
        return list(self.samples[0].views)

    @property
    def amplification(self) -> float:
        """Return the factor that makes the largest perturbation fill the range of grey."""
        views = [view for sample in self.samples for view in sample.views.values()]
        largest = max(float(np.abs(view.perturbation).max()) for view in views)
        return 0.5 / largest if largest > 0 else 1.0


def attack_gallery(
    models: Mapping[str, tuple[nn.Module, Any]],
    dataset: Any,
    threat_model: str | Mapping[str, Any] | ThreatModel,
    class_names: Sequence[str] | None = None,
    candidates: CandidateSource | Mapping[str, CandidateSource] | None = None,
    num_samples: int = 6,
    seed: int = 0,
) -> Gallery:
    """Attack a few samples of a data set, for every model separately.

    The threat model's image attacks and their restarts are run one after the other until one succeeds; the gallery
    shows the last step of the last attack that was run. Prompts are attacked by words if the threat model includes
    that, else by characters, else not at all, and by the adversary of the threat model that changes fewest prompts.

    Args:
        models: for each name a CLIPModel and its processor, in the order of display; models are in eval mode meanwhile.
        dataset: images and labels, as for `evaluate_robustness`.
        threat_model: a threat model or the name of a preset.
        class_names: one name per label; taken from the label column's `ClassLabel` when None.
        candidates: as for `evaluate_robustness`; of several sources the first is used.
        num_samples: number of samples, drawn without replacement and of different classes as far as there are enough.
        seed: seed of that draw.

    Returns:
        The gallery, as numpy arrays and texts.

    Raises:
        ValueError: if `models` is empty, `num_samples` is below 1, or `evaluate_robustness` would refuse an argument.
    """
    if not models:
        raise ValueError("`models` is empty; give at least one as {name: (model, processor)}.")
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1, got {num_samples}.")
    spec = ThreatModel.read(threat_model)
    in_texts = {"words", "characters"} & set(spec.text_attacks)
    samples: list[Sample] = []
    for name, (model, processor) in models.items():
        evaluation = prepare(
            model,
            processor,
            dataset,
            ("image", "text") if in_texts else ("image",),
            spec,
            class_names=class_names,
            candidates=candidates,
            image_attacks=None,
            image_column=AUTO,
            label_column=AUTO,
            batch_size=1,  # images may differ in size
            max_samples=None,
        )
        rows = evaluation.rows.__getitems__(_draw(evaluation.labels, num_samples, seed))
        samples = samples or [
            Sample(row_id=row["row_id"], label=row["label"], image=row["image"].numpy(), views={}) for row in rows
        ]
        with evaluating(model), torch.no_grad():
            views = _views(evaluation, rows)
        samples = [
            replace(sample, views={**sample.views, name: view}) for sample, view in zip(samples, views, strict=True)
        ]
    return Gallery(
        samples=samples, class_names=evaluation.class_names, attack_spec=evaluation.spec.to_dict(), seed=seed
    )


def _draw(labels: Sequence[int], number: int, seed: int) -> list[int]:
    """Return rows in a random order, the first sample of every class before any second one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    seen: dict[int, int] = {}
    rank = {}
    for row in order:
        rank[row] = seen[labels[row]] = seen.get(labels[row], -1) + 1
    return sorted(order, key=rank.__getitem__)[:number]  # the sort is stable


def _views(evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]) -> list[View]:
    """Attack each row and return one model's view of it."""
    encoder, prompts = evaluation.encoder, evaluation.prompts
    clean_embeds = evaluation.prompt_embeds
    pictures = [row["image"][None].to(clean_embeds.device) for row in rows]  # images may differ in size
    labels = torch.tensor([row["label"] for row in rows], device=clean_embeds.device)
    every = torch.cat([encoder.encode_images(images) for images in pictures])
    evaluation.texts.use(evaluation.texts.search(every, labels))
    views = []
    for row, images, adv_prompts in zip(rows, pictures, evaluation.texts.written(every, labels), strict=True):
        adv_embeds = evaluation.texts.encoder.encode_texts(adv_prompts)
        adv_images = attacked_image(evaluation, images, row)
        embeds, adv = encoder.encode_images(images), encoder.encode_images(adv_images)
        seen = {
            "clean": (embeds, clean_embeds),
            "image": (adv, clean_embeds),
            "text": (embeds, adv_embeds),
            "multimodal": (adv, adv_embeds),
        }
        views.append(
            View(
                perturbation=(adv_images - images)[0].cpu().numpy(),
                prompt=prompts[row["label"]],
                adv_prompt=adv_prompts[row["label"]],
                predictions={threat: _predict(*pair, encoder.logit_scale) for threat, pair in seen.items()},
            )
        )
    return views


def attacked_image(
    evaluation: Evaluation, images: Tensor, row: Mapping[str, Any], prompt_embeds: Tensor | None = None
) -> Tensor:
    """Return one image, (1, 3, h, w), under the first attack that makes it misclassified, else under the last attack.

    Args:
        evaluation: the attacked model with its attacks and prompts.
        images: the clean image, (1, 3, h, w), on the model's device.
        row: the image's label, and its `row_id`, which seeds the attack.
        prompt_embeds: prompt embeddings that the image is attacked on and classified with, (classes, dim); by default
            those of the evaluation.
    """
    spec = evaluation.spec
    known, judged = evaluation.attacker_prompts, evaluation.clean_prompts
    if prompt_embeds is not None:
        known = judged = FixedPrompts(prompt_embeds, evaluation.scale)
    for name, attack in evaluation.image_attacks.items():
        for restart in range(attack.restarts):
            attacked = attack_images(
                attack,
                images,
                torch.tensor([row["label"]], device=images.device),
                encode=evaluation.encoder.encode_images,
                attacked=known,
                judged=judged,
                generator=seeded_generator(images.device, spec.seed, row["row_id"], name, restart),
                skip_fallen=False,
            )
            if not attacked.stands.item():
                return attacked.images
    return attacked.images


def _predict(image_embeds: Tensor, prompt_embeds: Tensor, scale: Tensor) -> Prediction:
    probabilities = zero_shot_logits(image_embeds, prompt_embeds, scale).softmax(-1)[0]
    label = int(probabilities.argmax())
    return Prediction(label=label, probability=float(probabilities[label]))


# Files


def gallery_path(result: str | Path) -> Path:
    """Return the path of the gallery beside a result file: `robustness.gallery.json` for `robustness.json`."""
    return Path(result).with_suffix(".gallery.json")


def save_gallery(gallery: Gallery, path: str | Path) -> None:
    """Write a gallery as one JSON file that contains its images.

    Images are stored as 8-bit PNGs, perturbations as 8-bit PNGs of their own range: exact enough for display, not for
    an attack.
    """
    write_json(
        {
            "format": FORMAT,
            "kind": "gallery",
            "class_names": list(gallery.class_names),
            "attack_spec": dict(gallery.attack_spec),
            "seed": gallery.seed,
            "samples": [
                {
                    "row_id": sample.row_id,
                    "label": sample.label,
                    "image": to_base64(sample.image),
                    "views": {
                        name: {
                            "perturbation": to_base64(_to_grey(view.perturbation)),
                            "largest": float(np.abs(view.perturbation).max()),
                            "prompt": view.prompt,
                            "adv_prompt": view.adv_prompt,
                            "predictions": {
                                threat: [prediction.label, prediction.probability]
                                for threat, prediction in view.predictions.items()
                            },
                        }
                        for name, view in sample.views.items()
                    },
                }
                for sample in gallery.samples
            ],
        },
        path,
    )


def load_gallery(path: str | Path) -> Gallery:
    """Read what `save_gallery` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file was cut off, is no gallery, or contradicts itself.
    """
    try:
        stored = read_json(path)
        if stored["kind"] != "gallery" or stored["format"] != FORMAT:
            raise ValueError(f"kind {stored['kind']!r}, format {stored['format']!r}")
        gallery = Gallery(
            samples=_read_samples(stored["samples"]),
            class_names=[str(name) for name in stored["class_names"]],
            attack_spec=dict(stored["attack_spec"]),
            seed=int(stored["seed"]),
        )
        ThreatModel.from_dict(gallery.attack_spec)
        _check(gallery)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError, OSError) as error:
        raise ValueError(f"{path} is no gallery, or was cut off ({type(error).__name__}: {error}).") from error
    return gallery


def _read_samples(stored: Sequence[Mapping[str, Any]]) -> list[Sample]:
    samples: list[Sample] = []
    pixels = 0
    for each in stored:
        samples.append(_read_sample(each))
        pixels += samples[-1].image[0].size * (1 + len(samples[-1].views))
        if pixels > MAX_PIXELS:
            raise ValueError(f"its images have more than {MAX_PIXELS:,} pixels together")
    return samples


def _read_sample(stored: Mapping[str, Any]) -> Sample:
    return Sample(
        row_id=int(stored["row_id"]),
        label=int(stored["label"]),
        image=_decode(stored["image"]),
        views={
            str(name): View(
                perturbation=(_decode(view["perturbation"]) * 255 - 128) / 127 * float(view["largest"]),
                prompt=str(view["prompt"]),
                adv_prompt=str(view["adv_prompt"]),
                predictions={
                    str(threat): Prediction(label=int(label), probability=float(probability))
                    for threat, (label, probability) in view["predictions"].items()
                },
            )
            for name, view in stored["views"].items()
        },
    )


def _check(gallery: Gallery) -> None:
    if not gallery.samples or not gallery.models:
        raise ValueError("no samples, or no models")
    for sample in gallery.samples:
        if list(sample.views) != gallery.models:
            raise ValueError(f"row {sample.row_id} is not seen by every model")
        for view in sample.views.values():
            labels = [sample.label, *(prediction.label for prediction in view.predictions.values())]
            if not all(0 <= label < len(gallery.class_names) for label in labels):
                raise ValueError(f"row {sample.row_id} has a label outside the {len(gallery.class_names)} class names")
            if set(view.predictions) != set(THREATS):
                raise ValueError(f"row {sample.row_id} has predictions for {sorted(view.predictions)}")
            if view.perturbation.shape != sample.image.shape:
                raise ValueError(f"row {sample.row_id} has a perturbation of {view.perturbation.shape}")


def _to_grey(perturbation: np.ndarray) -> np.ndarray:
    """Map a perturbation, (3, h, w), to [0, 1] with zero at 128/255, which 8 bits hold exactly."""
    largest = float(np.abs(perturbation).max()) or 1.0
    return (128 + 127 * perturbation / largest) / 255


def word_differences(before: str, after: str) -> list[tuple[str, str]]:
    """Return two texts as one list of pieces: ("same", text), ("old", text only before), ("new", text only after).

    Example:
        >>> word_differences("a photo of a dog.", "a photo of a hound.")
        [('same', 'a photo of a '), ('old', 'dog'), ('new', 'hound'), ('same', '.')]
    """
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after))
    pieces = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        found = [("same", old[a:b])] if kind == "equal" else [("old", old[a:b]), ("new", new[c:d])]
        pieces += [(name, "".join(words)) for name, words in found if words]
    return pieces


def to_picture(image: np.ndarray) -> Image.Image:
    """Convert an image, (3, height, width) in [0, 1], to an 8-bit picture."""
    return Image.fromarray((image.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))


def to_base64(image: np.ndarray) -> str:
    """Return an image, (3, height, width) in [0, 1], as an 8-bit PNG in base64."""
    stream = io.BytesIO()
    to_picture(image).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _decode(text: str) -> np.ndarray:
    picture = read_image(base64.b64decode(text, validate=True), ("PNG",), MAX_PIXELS)
    return np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
