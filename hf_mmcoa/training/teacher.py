"""The frozen pretrained encoders f0 and g0, for objectives that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..models.encoder import DualEncoder
from ..models.freezing import check_same_architecture, frozen_copy
from ..objectives import Objective
from .batch import Batch


class Teacher:
    """Never trained and never saved; one forward of each tower that the objective reads.

    Args:
        model: the frozen model, on its device.
        processor: its processor.
        objective: says what is read.
        prompts: class prompts, whose features are computed once; None for captions.
        autocast: context of the precision of training.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        objective: Objective,
        prompts: list[str] | None,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.encoder = DualEncoder(model, processor)
        self.objective, self.prompts, self.autocast = objective, prompts, autocast
        self._prompt_features: dict[str, Tensor] = {}

    @classmethod
    def of(
        cls,
        model: nn.Module,
        given: nn.Module | None,
        objective: Objective,
        processor: Any,
        prompts: list[str] | None,
        autocast: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
        share: bool,
    ) -> Teacher | None:
        """Return a teacher if the objective reads one: the model as it is now, or the one given.

        Args:
            model: what is going to be trained.
            given: the user's teacher, or None.
            objective, processor, prompts, autocast: see `Teacher`.
            device: where it runs.
            share: share weights that do not train; off where a wrapper moves them about (FSDP, DeepSpeed).

        Raises:
            ValueError: if `given` is of another architecture.
        """
        if not any(view.startswith("teacher") for view in objective.views) and not objective.attack_reads_teacher:
            return None
        frozen = frozen_copy(model, share=share)
        if given is not None:
            check_same_architecture(given, frozen)
            frozen = frozen_copy(given, share=False).float()  # its features are targets: see models/precision.py
        return cls(frozen.to(device), processor, objective, prompts, autocast)

    def teach(self, batch: Batch) -> Batch:
        """Return the batch with the features of its clean images and texts that the objective reads."""
        views, found = self.objective.views, dict[str, Tensor]()
        if views & {"teacher_images", "teacher_patches"} or self.objective.attack_reads_teacher:
            found = self._images(batch.images, "teacher_image_features", "teacher_patches")
        more = [replace(each, teacher=self._texts_of(each)) for each in batch.more_captions]
        return replace(batch, teacher=found | self._texts_of(batch), more_captions=more)

    def teach_attacked(self, adv_images: Tensor | None) -> Mapping[str, Tensor]:
        """Return the features of the attacked images that the objective reads, as fields of `Embeddings`."""
        if not self.objective.views & {"teacher_adv_images", "teacher_adv_patches"} or adv_images is None:
            return {}
        return self._images(adv_images, "teacher_adv_image_features", "teacher_adv_patches")

    def _texts_of(self, batch: Batch) -> dict[str, Tensor]:
        if "teacher_texts" not in self.objective.views:
            return {}
        return {"teacher_text_features": self.texts(batch.texts)[batch.text_ids]}

    def _images(self, images: Tensor, features_name: str, patches_name: str) -> dict[str, Tensor]:
        with torch.no_grad(), self.autocast():
            features, patches = self.encoder.image_features(images, patches_name in self.objective.views)
        return {features_name: features} | ({patches_name: patches} if patches is not None else {})

    def texts(self, texts: list[str]) -> Tensor:
        """Return g0 of each text, (texts, dim); of class prompts computed once, for the teacher does not change."""
        known = self._prompt_features
        if not set(texts) <= known.keys():
            of_prompts = self.prompts is not None and set(texts) <= set(self.prompts)
            # All prompts at once: which of them a batch holds must not decide how their features are rounded, or a
            # resumed run would round them otherwise. Captions are too many to keep.
            new = list(dict.fromkeys(self.prompts if of_prompts and self.prompts else texts))
            with torch.no_grad(), self.autocast():
                found = dict(zip(new, self.encoder.text_features(new), strict=True))
            if of_prompts:
                self._prompt_features = found
            known = found
        return torch.stack([known[text] for text in texts])
