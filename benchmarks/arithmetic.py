"""Multiplications of a training step, counted from the model's configuration and the lengths of its texts.

One multiplication is a multiply and add of a matrix product, which profilers count as 2 FLOP. Encoders alone are
counted; everything else (logits, steps of the attack, losses, the optimizer) is below 0.1 % of a ViT-B/32's step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.models.shared_prefix import SharedPrefix

TEXTS_PER_FORWARD = 256  # of `DualEncoder.encode_texts`
Counts = dict[str, int]


@dataclass(frozen=True)
class Tower:
    """Multiplications of a forward, and of the backwards that go with it.

    Args:
        linear: of linear layers.
        attention: of the two products between tokens in every layer.
        patches: of the convolution that makes patches; 0 for texts.
    """

    linear: int
    attention: int
    patches: int = 0

    def __mul__(self, rows: int) -> Tower:
        """Return those of so many rows."""
        return Tower(self.linear * rows, self.attention * rows, self.patches * rows)

    def __add__(self, other: Tower) -> Tower:
        """Return those of both."""
        return Tower(self.linear + other.linear, self.attention + other.attention, self.patches + other.patches)

    @property
    def forward(self) -> int:
        """Return those of a forward."""
        return self.linear + self.attention + self.patches

    @property
    def to_input(self) -> int:
        """Return those of a backward to the input alone; each product of two activations has two gradients."""
        return self.linear + 2 * self.attention + self.patches

    @property
    def to_weights(self) -> int:
        """Return those of a backward to the weights; the input itself needs no gradient."""
        return 2 * self.linear + 2 * self.attention + self.patches

    @property
    def to_both(self) -> int:
        """Return those of a backward to weights and input."""
        return self.to_weights + self.patches


def image(config: Any) -> Tower:
    """Return the multiplications of one image, given the configuration of a CLIP."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    layers = _layers(vision, patches + 1) + Tower(vision.hidden_size * config.projection_dim, 0)
    return layers + Tower(0, 0, patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size)


def row_of_tokens(config: Any, length: int) -> Tower:
    """Return the multiplications of one row of so many tokens, and of its projection."""
    text = config.text_config
    return _layers(text, length) + Tower(text.hidden_size * config.projection_dim, 0)


def _layers(tower: Any, tokens: int) -> Tower:
    width = tower.hidden_size
    linear = tokens * (4 * width**2 + 2 * width * tower.intermediate_size)
    return Tower(linear, 2 * tokens**2 * width) * tower.num_hidden_layers


def encoded(encoder: DualEncoder, texts: Sequence[str]) -> Tower:
    """Return the multiplications of `DualEncoder.encode_texts`, which shares the beginnings of texts."""
    config, total = encoder.model.config, Tower(0, 0)
    ordered = sorted(texts, key=len) if len(texts) > TEXTS_PER_FORWARD else list(texts)
    for start in range(0, len(ordered), TEXTS_PER_FORWARD):
        ids = encoder.tokenize(ordered[start : start + TEXTS_PER_FORWARD], truncation=True)["input_ids"]
        shared = None
        if len(ids) > 1:
            shared = SharedPrefix.of(ids, encoder.towers.text_ends(ids), encoder.context_length)
        if shared is None:
            total += row_of_tokens(config, ids.shape[1]) * len(ids)
        else:  # each text is projected from its place in a row, beside the row's own projection
            total += row_of_tokens(config, shared.length) * shared.rows
            total += Tower(encoder.model.config.text_config.hidden_size * config.projection_dim, 0) * len(ids)  # type: ignore[union-attr]
    return total


def of_ours(
    encoder: DualEncoder,
    prompts: Sequence[str],
    tried: Iterable[Sequence[str]],
    distinct: Sequence[str],
    batch_size: int,
    steps: int,
    recomputed: bool = False,
) -> Counts:
    """Count `MMCoATrainer`'s step, which is also what a bare loop of the same mathematics needs.

    Args:
        encoder: the model.
        prompts: all class prompts.
        tried: the texts that the text attack encodes, call by call.
        distinct: the distinct texts of the loss, clean and attacked.
        batch_size: images.
        steps: of PGD.
        recomputed: whether the loss runs in pieces (`encode_batch_size`), for one more forward of it.
    """
    one = image(encoder.model.config)
    length = encoder.tokenize(list(distinct), truncation=True)["input_ids"].shape[1]
    loss = one * (2 * batch_size) + row_of_tokens(encoder.model.config, length) * len(distinct)
    return {
        "prompts": encoded(encoder, prompts).forward,
        "image_attack": steps * batch_size * (one.forward + one.to_input),
        "text_attack": sum(encoded(encoder, texts).forward for texts in tried),
        "loss": (1 + recomputed) * loss.forward + loss.to_weights,
    }


def of_published(encoder: DualEncoder, num_prompts: int, batch_size: int, steps: int, tried: int) -> Counts:
    """Count our restatement of the published step (`published_step`), where every text has the context's length.

    Args:
        encoder: the model.
        num_prompts: class prompts.
        batch_size: images.
        steps: of PGD.
        tried: texts that the text attack encodes for the whole batch.
    """
    one, text = image(encoder.model.config), row_of_tokens(encoder.model.config, encoder.context_length)
    pairs = (one + text) * (2 * batch_size)
    return {
        "image_attack": steps
        * (batch_size * (one.forward + one.to_both) + num_prompts * (text.forward + text.to_weights)),
        "text_attack": tried * text.forward,
        "loss": pairs.forward + pairs.to_weights,
    }
