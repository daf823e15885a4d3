"""Measurements of the attacks in training: figures for the log, and pictures for the trackers that accept them.

Neither influences the training: the figures come from embeddings that the step computes anyway, and the pictures from
separate attacks with their own random numbers, so a run trains the same weights with and without them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from ..data.columns import resolve_columns
from ..models import encoding

if TYPE_CHECKING:
    from ..attacks.perturbed_texts import PerturbedTexts
    from ..config import MMCoAConfig
    from ..evaluation.threat_model import ThreatModel
    from ..objectives import Embeddings
    from .attacker import Adversarial, Attacker
    from .batch import Batch

TAG = "train/attacked_images"
NUM_IMAGES = 4


class TrackedTrainer(Protocol):
    """The part of an `MMCoATrainer` that trackers read."""

    args: MMCoAConfig
    attacker: Attacker
    class_names: list[str] | None
    processing_class: Any
    callback_handler: Any

    def whole_model(self) -> nn.Module:
        """Return the model with all of its weights."""


@torch.no_grad()
def attack_figures(
    trainer: TrackedTrainer,
    batch: Batch,
    embeds: Embeddings,
    adversarial: Adversarial,
) -> dict[str, Tensor]:
    """Return figures of the attacks of one step, each as its sum and count, (2,); needs no forward.

    docs/tracking.md explains each name. A sample is classified correctly if its own anchor is the nearest: its class's
    prompt among all class prompts, or its own text among the batch's texts. The names depend on the configuration
    alone, so that all processes sum the same figures.

    Args:
        trainer: whose attacks these are.
        batch: what was attacked; its anchors were embedded before this step.
        embeds: what was encoded.
        adversarial: what the attacks made of it.
    """
    figures: dict[str, Tensor] = {}
    own, anchors = batch.anchor_ids, batch.anchors.float()
    if len(anchors) > 1:  # without texts all images share one anchor
        clean = None if embeds.image_features is None else _cosines(embeds.image_features, anchors)
        for modality, features in (("image", embeds.adv_image_features), ("text", embeds.adv_text_features)):
            if features is None:
                continue
            attacked = _cosines(features, anchors)
            if clean is None:  # the objective encodes no clean images, so the clean accuracy is unknown
                figures[f"adv_{modality}_accuracy"] = _mean(attacked.argmax(1) == own)
                continue
            if modality == "text":  # the clean image against the texts, with its own one replaced by the attacked one
                to_text = (
                    F.normalize(embeds.image_features.float(), dim=-1) * F.normalize(features.float(), dim=-1)
                ).sum(1)
                attacked = clean.scatter(1, own[:, None], to_text[:, None])
            right = clean.argmax(1) == own
            figures[f"{modality}_attack_success"] = _mean(attacked.argmax(1) != own, right)
    adv_images, adv_texts = adversarial.images, adversarial.texts
    if adv_images is not None:
        norm = getattr(trainer.attacker.image_attack, "norm", trainer.args.norm)
        change = (adv_images - batch.images).float().flatten(1)
        figures["image_perturbation"] = _mean(change.norm(p=float("inf") if norm == "linf" else 2, dim=1))
    return figures | _text_figures(trainer, batch, adv_texts)


def _text_figures(trainer: TrackedTrainer, batch: Batch, adv_texts: Sequence[PerturbedTexts]) -> dict[str, Tensor]:
    """Return how far the batch's distinct texts were changed, over all text attacks."""
    kinds = list(trainer.attacker.text_attacks)
    figures: dict[str, Tensor] = {}
    if not adv_texts:
        return figures
    if set(kinds) - {"embedding"}:
        changed = [
            _words_changed(*pair)
            for attacked in adv_texts
            if attacked.kind != "embedding"
            for pair in zip(attacked.sources, attacked.texts, strict=True)
        ]
        figures["text_perturbation"] = _mean(torch.tensor(changed, device=batch.anchors.device))
    if any("embedding" in kind for kind in kinds):  # of those drawn in this step, perhaps none
        unit = encoding.token_table(trainer.attacker.encoder.dual.model).float().norm(dim=-1).mean()
        lengths = [attacked.shift.float().norm(dim=-1) for attacked in adv_texts if attacked.shift is not None]
        moved = [length[length > 0] / unit for length in lengths]  # each (texts, tokens)
        figures["text_embedding_perturbation"] = _mean(torch.cat([unit.new_zeros(0), *moved]))
    return figures


def _words_changed(text: str, attacked: str) -> float:
    """Return the share of a text's words that the attacked text changed at their place.

    If the numbers of words differ, because a blank was inserted or removed, words are compared from both ends.
    """
    before, after = text.split(), attacked.split()
    shorter = min(len(before), len(after))
    if len(before) == len(after):
        return sum(a != b for a, b in zip(before, after, strict=True)) / max(len(before), 1)
    same = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    tail = next((i for i in range(shorter - same) if before[-1 - i] != after[-1 - i]), shorter - same)
    return (len(before) - same - tail) / max(len(before), 1)


def _cosines(features: Tensor, anchors: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1) @ anchors.T  # (batch, anchors)


def _mean(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return the sum and the count, (2,), of all values or the counted, to be added up over processes and steps."""
    counted = torch.ones_like(values, dtype=torch.bool) if counted is None else counted
    return torch.stack([torch.where(counted, values.float(), 0).sum(), counted.sum().float()])


class AttackedImages(TrainerCallback):
    """Show a few attacked examples at intervals of steps, in each tracker of `report_to` that accepts images.

    They are always the same examples, drawn by the seed, under the attacks of the trainer's `args`: clean image,
    perturbation, attacked image, prompt, and the predictions without attack and under an attack on image, text and
    both. TensorBoard, Weights & Biases and Trackio get them as `train/attacked_images`; without one of these nothing is
    computed.

    Args:
        trainer: the trainer, with its model, its arguments and its trackers.
        *data: data sets, or dictionaries of them. Rows come from the first `datasets.Dataset` that has labels.
        every: number of steps between two pictures, at least 1.
        num_images: number of examples, at least 1.

    Raises:
        ValueError: if `every` or `num_images` is below 1, or no data set has class labels.
    """

    def __init__(self, trainer: TrackedTrainer, *data: Any, every: int, num_images: int = NUM_IMAGES) -> None:
        for name, value in (("every", every), ("num_images", num_images)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        flat = [part for one in data for part in (one.values() if isinstance(one, dict) else [one])]
        labelled = (one for one in flat if isinstance(one, datasets.Dataset) and resolve_columns(one).label is not None)
        dataset = next(labelled, None)
        if dataset is None or not trainer.class_names:
            raise ValueError(
                f"`log_images_every={every}` shows predicted classes, but no data set (streamed ones do not count) has "
                "labels and class names: set it to 0, or pass an `eval_dataset` that has them."
            )
        self.trainer, self.dataset, self.every, self.num_images = trainer, dataset, every, num_images

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the examples every so many steps, from the first process."""
        if state.global_step % self.every:
            return
        self.trainer.whole_model()  # on every process, because each has a part of sharded weights
        if not state.is_world_process_zero:
            return
        trackers = [one for one in self.trainer.callback_handler.callbacks if _takes_images(one)]
        if trackers:
            picture = self.picture(state.global_step)
            for tracker in trackers:
                _show(tracker, picture, state.global_step)

    def picture(self, step: int) -> Image.Image:
        """Return a picture of the examples under attack on the current weights."""
        from ..report.gallery import attack_gallery  # needs matplotlib, so only here
        from ..report.picture import save_picture

        trainer = self.trainer
        model = trainer.attacker.encoder.dual.model
        gallery = attack_gallery(
            {f"step {step}": (model, trainer.processing_class)},
            self.dataset,
            _threat_model(trainer),
            class_names=trainer.class_names,
            candidates=getattr(trainer.attacker.word_attack, "candidates", None),
            num_samples=min(self.num_images, len(self.dataset)),
            seed=trainer.args.seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            save_picture(gallery, file := Path(folder, "attacked.png"), title="Under attack in training")
            with Image.open(file) as picture:
                return picture.convert("RGB")


def _threat_model(trainer: TrackedTrainer) -> ThreatModel:
    """Return the threat model of the trainer's `args`; of several text attacks, the first that a picture can show."""
    from ..evaluation.threat_model import ThreatModel

    kinds = "|".join(trainer.attacker.text_attacks)
    shown = next((kind for kind in ("words", "characters", "embedding") if kind in kinds), None)
    return ThreatModel.of(trainer.args.attack_settings, text_attacks=(shown,) if shown else ())


def _takes_images(callback: TrainerCallback) -> bool:
    """Return True if a callback is one of transformers' trackers that accept images, and has started."""
    if isinstance(callback, TensorBoardCallback):
        return callback.tb_writer is not None
    return isinstance(callback, (WandbCallback, TrackioCallback))


def _show(tracker: Any, picture: Image.Image, step: int) -> None:
    """Send a picture to a tracker.

    The tracker's own package is reached through its callback, so that no other one is imported.
    """
    if isinstance(tracker, TensorBoardCallback):
        tracker.tb_writer.add_image(TAG, np.asarray(picture), step, dataformats="HWC")  # type: ignore[attr-defined]
        return
    package: Any = tracker._wandb if isinstance(tracker, WandbCallback) else tracker._trackio  # type: ignore[attr-defined]
    package.log({TAG: package.Image(picture), "train/global_step": step})
