"""The model under training as attacks see it: unwrapped, in the precision of training, without gradient on weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.encoder import DualEncoder


class LiveEncoder:
    """A `DualEncoder` around whatever the trainer's model is at the moment.

    Attacks run beside DDP and FSDP, not through them. `model_init` replaces the model between runs, and sharded weights
    are copied anew in every step, so the encoder is asked for and not kept.

    Args:
        model: gives the unwrapped model with all of its weights.
        processor: the model's processor.
        autocast: context of the precision of training.
        compiled: whether `encode_images` is compiled (torch.compile).
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        processor: Any,
        autocast: Callable[[], AbstractContextManager[Any]],
        compiled: bool,
    ) -> None:
        self._model, self._processor, self.autocast, self._compiles = model, processor, autocast, compiled
        self._encoder: DualEncoder | None = None
        self._compiled: Any = None

    @property
    def dual(self) -> DualEncoder:
        """Return the encoder of the model as it is now."""
        model = self._model()
        if self._encoder is None or self._encoder.model is not model:
            self._encoder = DualEncoder(model, self._processor)
            self._compiled = torch.compile(self._encoder.encode_images, fullgraph=True) if self._compiles else None
        return self._encoder

    @property
    def training(self) -> bool:
        """Return whether the model is in train mode."""
        return bool(self.dual.model.training)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings of texts without gradient, (texts, dim)."""
        with torch.no_grad(), self.autocast():
            return self.dual.encode_texts(list(texts))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Return un-normalised features of texts without gradient, (texts, dim)."""
        with torch.no_grad(), self.autocast():
            return self.dual.text_features(list(texts))

    def encode_images(self, images: Tensor) -> Tensor:
        """Return unit embeddings of images in [0, 1], (batch, dim), differentiable in the images."""
        encoder = self.dual
        with self.autocast():
            return (self._compiled or encoder.encode_images)(images)

    def image_features(self, images: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return un-normalised features of images (batch, dim), and patch tokens (batch, patches, dim) if asked."""
        with self.autocast():
            return self.dual.image_features(images, patches)
