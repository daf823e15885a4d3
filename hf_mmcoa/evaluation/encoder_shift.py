"""How far an attack moves what a language model reads of a vision tower: class-free, and without a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import factory
from ..attacks.engine import seeded_generator
from ..attacks.feature_distance import FeatureDistance, Features
from ..attacks.settings import AttackSettings
from ..models.encoding import check_images, pixel_values
from ..models.precision import measured_in_full_precision
from ..models.vision_tower import TowerReader, tower_reader
from .runner import evaluating


@dataclass(frozen=True, eq=False)
class Shift:
    """The difference between two sets of features of the same images.

    Args:
        cosine: cosine between the two features of a token, in the mean over the image's tokens, (images,).
        relative_l2: length of the difference over the length of the first, all tokens together, (images,).
    """

    cosine: Tensor
    relative_l2: Tensor

    @classmethod
    def between(cls, features: Tensor, moved: Tensor) -> Shift:
        """Return the shift from features to moved features, (images, tokens, width) each."""
        length = features.flatten(1).norm(dim=1)
        cosine = F.cosine_similarity(features, moved, dim=-1).mean(1)
        return cls(cosine, (moved - features).flatten(1).norm(dim=1) / length)

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the images."""
        return {"cosine": float(self.cosine.mean()), "relative_l2": float(self.relative_l2.mean())}


@dataclass(frozen=True, eq=False)
class EncoderShift:
    """Hold what `evaluate_encoder` measured.

    Args:
        noise: shift by a random point of the ball: what no attack is needed for.
        attack: shift by the attack.
        from_reference: shift of the clean images' features from those of the reference model; None without one.
        adv_images: the attacked images in [0, 1], (images, 3, height, width).
    """

    noise: Shift
    attack: Shift
    from_reference: Shift | None
    adv_images: Tensor

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean of every number, by "noise", "attack" and, with a reference, "from_reference"."""
        found = {"noise": self.noise.means(), "attack": self.attack.means()}
        return found if self.from_reference is None else {**found, "from_reference": self.from_reference.means()}


def evaluate_encoder(
    model: nn.Module,
    processor: Any,
    images: Tensor,
    settings: AttackSettings | None = None,
    *,
    layer: int | None = None,
    projected: bool = False,
    reference: nn.Module | None = None,
    batch_size: int = 64,
) -> EncoderShift:
    """Attack the features that a language model reads of a vision tower, and measure how far they move.

    The attack is APGD on `FeatureDistance`, with the norm, radius, steps, restarts and seed of `settings`. It needs
    neither classes nor texts. The model's mode, gradients and `requires_grad` are as before afterwards; weights in 16
    bits are measured as a float32 copy.

    Args:
        model: a `CLIPModel`, a `CLIPVisionModel` or a LLaVA on a CLIP tower, on its device.
        processor: its processor or image processor. Pictures that a LLaVA-NeXT would divide into tiles are read whole.
        images: in [0, 1], (images, 3, height, width), of any size; the ball applies to these pixels.
        settings: the attack budget and effort; the defaults of `AttackSettings` when None.
        layer: hidden state to attack; the LLaVA's own when None, -2 (all patch tokens) without a LLaVA.
        projected: attack the tokens behind the LLaVA's projector.
        reference: model whose clean features are compared too, such as the tower that the LLaVA was trained on.
        batch_size: images at a time. The random starts depend on it.

    Returns:
        The shift of every image by noise and by the attack, and the attacked images.

    Raises:
        ValueError: if images lie outside [0, 1], the processor makes images of another size than the tower reads, or
            there is no such layer.
        TypeError: if the model has no vision tower of CLIP.

    Example:
        >>> evaluate_encoder(llava, processor, images, AttackSettings(epsilon="4/255")).means()  # doctest: +SKIP
    """
    check_images(images)
    settings = AttackSettings() if settings is None else settings
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    reader = _reader(model, processor, layer, projected)
    other = None if reference is None else _reader(reference, processor, layer, projected)
    attack, noise = factory.encoder_attack(settings), factory.noise(settings)
    device = next(reader.parameters()).device
    found: list[tuple[Shift, Shift, Shift | None, Tensor]] = []
    with evaluating(reader):
        for index, part in enumerate(images.split(batch_size)):
            batch = part.to(device)
            distance = FeatureDistance.of(_features(reader, processor), batch)
            adv_images = attack(batch, distance, seeded_generator(device, settings.seed, "encoder", index))
            noisy = noise(batch, distance, seeded_generator(device, settings.seed, "noise", index))
            with torch.no_grad():
                shifts = [Shift.between(distance.clean, distance.features(moved)) for moved in (noisy, adv_images)]
                drift = None
                if other is not None:
                    drift = Shift.between(_features(other, processor)(batch), distance.clean)
            found.append((shifts[0], shifts[1], drift, adv_images.to(images.device)))
    noises, attacks, drifts, adversarial = zip(*found, strict=True)
    return EncoderShift(
        noise=_joined(noises),
        attack=_joined(attacks),
        from_reference=None if other is None else _joined(drifts),
        adv_images=torch.cat(adversarial),
    )


def _reader(model: nn.Module, processor: Any, layer: int | None, projected: bool) -> TowerReader:
    reader = measured_in_full_precision(tower_reader(model, layer=layer, projected=projected))
    assert isinstance(reader, TowerReader)
    image_processor = _image_processor(processor)
    crop = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    seen = crop.get("height", crop.get("shortest_edge"))
    if seen != reader.image_size:
        raise ValueError(
            f"`processor` makes images of {seen} pixels, the vision tower reads {reader.image_size}: pass the image "
            "processor that belongs to the tower."
        )
    return reader


def _features(reader: TowerReader, processor: Any) -> Features:
    return lambda images: reader(pixel_values(images, _image_processor(processor)))


def _image_processor(processor: Any) -> Any:
    return getattr(processor, "image_processor", processor)


def _joined(shifts: Any) -> Shift:
    return Shift(
        torch.cat([each.cosine for each in shifts]).cpu(), torch.cat([each.relative_l2 for each in shifts]).cpu()
    )
