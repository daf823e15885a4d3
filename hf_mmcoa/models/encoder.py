"""A dual encoder and its processor as one object, which checks that the two belong together."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from .architectures import architecture_of, towers_of
from .encoding import (
    RESIZES,
    image_embeds,
    image_features,
    logit_bias,
    logit_scale,
    pixel_values,
    text_embeds,
    text_features,
    token_table,
    tokenize,
)
from .precision import HALF

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


class DualEncoder:
    """Map images and texts to unit vectors in one space, with a dual encoder and its processor.

    Args:
        model: a `CLIPModel` or `SiglipModel`, or a PEFT model around one; not wrapped by DDP and the like.
        processor: the `CLIPProcessor` or `SiglipProcessor` that belongs to it.

    Raises:
        TypeError: if the model is no dual encoder, or the processor lacks its tokenizer or image processor.
        ValueError: if model and processor differ in image size, vocabulary or end-of-text token, if the resampling is
            not differentiable here, or if the model is a SigLIP 2 without a fixed resolution.

    Example:
        >>> encoder = DualEncoder(model, processor)  # doctest: +SKIP
        >>> encoder.encode_images(images) @ encoder.encode_texts(["a cat", "a dog"]).T  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, processor: ProcessorMixin) -> None:
        missing = [
            name for name in ("get_image_features", "get_text_features", "logit_scale") if not hasattr(model, name)
        ]
        if missing:
            raise TypeError(
                f"`model` must be a dual encoder such as CLIPModel; {type(model).__name__} has no {', '.join(missing)}."
            )
        missing = [name for name in ("tokenizer", "image_processor") if getattr(processor, name, None) is None]
        if missing:
            raise TypeError(
                f"`processor` must be a CLIPProcessor with a tokenizer and an image processor; "
                f"{type(processor).__name__} has no {' and no '.join(missing)}. "
                "Load it with CLIPProcessor.from_pretrained."
            )
        self.model = model
        self.processor = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer  # type: ignore[attr-defined]
        self.image_processor: Any = processor.image_processor  # type: ignore[attr-defined]
        self.towers = towers_of(model)
        self._check_fit()

    @property
    def image_size(self) -> int:
        """Return the height and width of the images that the model reads, in pixels."""
        return int(self.model.config.vision_config.image_size)  # type: ignore[union-attr,arg-type]

    @property
    def context_length(self) -> int:
        """Return the largest number of tokens of a text, BOS and EOS included."""
        return int(self.model.config.text_config.max_position_embeddings)  # type: ignore[union-attr,arg-type]

    @property
    def embed_dim(self) -> int:
        """Return the width of the joint space."""
        return self.towers.embed_dim

    @property
    def logit_scale(self) -> Tensor:
        """Return the inverse temperature after `exp`, scalar, with gradient; for a CLIP it is at most 100."""
        return logit_scale(self.towers)

    def attacked_scale(self, temperature: float | str) -> Tensor:
        """Return the factor of the cosines inside an attack, scalar, without gradient.

        Args:
            temperature: "logit_scale" for the model's own, or a number, as in `AttackSettings`.
        """
        own = self.logit_scale.detach()
        return own if temperature == "logit_scale" else torch.full_like(own, float(temperature))

    @property
    def logit_bias(self) -> Tensor | None:
        """Return the bias that a SigLIP adds to its logits, scalar, with gradient; None for a CLIP."""
        return logit_bias(self.towers)

    def tokenize(self, texts: list[str], truncation: bool = False) -> dict[str, Tensor]:
        """Return the token ids and the attention mask of texts, (texts, length) each, on the model's device.

        See `hf_mmcoa.models.encoding.tokenize`.

        Args:
            texts: any number.
            truncation: cut texts at the context length.

        Raises:
            ValueError: if a text is longer than the context and `truncation` is off; the text is named.
        """
        encoded = tokenize(self.model, self.tokenizer, texts, truncation)
        if encoded["input_ids"].shape[1] > self.context_length:
            lengths = encoded["attention_mask"].sum(1)
            raise ValueError(
                f"the text {texts[int(lengths.argmax())]!r} has {int(lengths.max())} tokens, the model's context holds "
                f"{self.context_length}. Shorten the class name or the template."
            )
        return encoded

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that do not fit the context: with `truncation` their ends are cut off."""
        composed = [unicodedata.normalize("NFC", text) for text in texts]
        tokens = self.tokenizer(composed, verbose=False)["input_ids"] if composed else []
        return [text for text, ids in zip(texts, tokens, strict=True) if len(ids) > self.context_length]  # type: ignore[arg-type]

    def pixel_values(self, images: Tensor) -> Tensor:
        """Map images in [0, 1], (batch, 3, h, w), to the model's input, (batch, 3, size, size); differentiable."""
        return pixel_values(images, self.image_processor)

    def encode_images(self, images: Tensor) -> Tensor:
        """Map images in [0, 1], (batch, 3, h, w), to unit vectors, (batch, dim); differentiable in the images."""
        return image_embeds(self.model, self.pixel_values(images))

    def image_features(self, images: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map images to un-normalised features, (batch, dim), differentiably.

        Args:
            images: in [0, 1], (batch, 3, height, width), of any size.
            patches: also return the projected patch tokens, (batch, patches, dim); None otherwise.
        """
        return image_features(self.model, self.pixel_values(images), patches)

    def text_features(self, texts: list[str]) -> Tensor:
        """Map texts to un-normalised features, (texts, dim); texts longer than the context are cut."""
        return text_features(self.model, self.tokenize(texts, truncation=True)["input_ids"])

    def encode_texts(self, texts: list[str], batch_size: int = 256, truncation: bool = True) -> Tensor:
        """Map texts to unit vectors, (texts, dim).

        Texts are sorted by length before they are divided into batches, so that a short text is not padded to a long
        one.

        Args:
            texts: any number.
            batch_size: texts that are encoded at a time.
            truncation: cut texts at the context length; without it, a text that is too long raises ValueError.
        """
        if not texts:
            return torch.empty(0, self.embed_dim)
        order = (
            sorted(range(len(texts)), key=lambda row: len(texts[row])) if len(texts) > batch_size else range(len(texts))
        )
        rows = list(order)
        parts = [
            text_embeds(
                self.model,
                self.tokenize([texts[row] for row in rows[start : start + batch_size]], truncation)["input_ids"],
            )
            for start in range(0, len(rows), batch_size)
        ]
        embeds = torch.cat(parts)
        return embeds[torch.tensor(rows, device=embeds.device).argsort()] if len(parts) > 1 else embeds

    def _check_fit(self) -> None:
        crops = getattr(self.image_processor, "do_center_crop", False)
        crop: Mapping[str, int] = self.image_processor.crop_size if crops else self.image_processor.size
        seen = crop.get("height", crop.get("shortest_edge"))
        if seen != self.image_size:
            raise ValueError(
                f"`processor` makes images of {seen} pixels, `model` reads {self.image_size}: "
                "they do not belong together. Pass the processor that was saved with the model."
            )
        vocabulary = token_table(self.model).shape[0]
        if len(self.tokenizer) > vocabulary:
            raise ValueError(
                f"`processor` knows {len(self.tokenizer)} tokens, `model` embeds {vocabulary}: "
                "they do not belong together. Pass the processor that was saved with the model."
            )
        if self.image_processor.do_resize and self.image_processor.resample not in RESIZES:
            raise ValueError(
                f"`processor` resizes images with resample={self.image_processor.resample!r}; only "
                f"{' and '.join(f'{int(code)} ({name})' for code, name in RESIZES.items())} are differentiable here."
            )
        self.towers.check_tokenizer(self.tokenizer)


def load_clip(model_name_or_path: str | Path) -> tuple[nn.Module, ProcessorMixin]:
    """Load a CLIP or SigLIP and its processor, in float32 and eval mode on the CPU.

    No remote code is run, and torchvision is not needed.

    Args:
        model_name_or_path: a folder or Hub id.

    Returns:
        The model and its processor.

    Raises:
        ValueError: if the model is neither a CLIP nor a SigLIP; the text names its type.
    """
    name = str(model_name_or_path)
    config = AutoConfig.from_pretrained(name)
    kind = architecture_of(config, name)
    if (stored := config.dtype) in HALF:
        logger.warning("%s is stored as %s and loaded as float32: 16 bits round attacks and steps away.", name, stored)
    # The processor class that transformers picks by default needs torchvision; the PIL one reads the same file.
    image_processor, tokenizer = kind.image_processor_class.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    return kind.model_class.from_pretrained(name, dtype=torch.float32).eval(), kind.processor_class(
        image_processor, tokenizer
    )
