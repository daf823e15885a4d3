"""What a batch means: its distinct texts, and the anchors among which images and texts are classified."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..models import encoding, freezing
from ..objectives import Objective
from .distributed import gather_rows
from .live_encoder import LiveEncoder


@dataclass(frozen=True)
class Batch:
    """One process's batch: what it holds and among what it is classified.

    Args:
        images: in [0, 1], (batch, 3, height, width).
        texts: the distinct texts.
        text_ids: a sample's row of `texts`, (batch,).
        anchors: unit embeddings of all class prompts, or of the texts of all processes, (anchors, dim).
        anchor_ids: a sample's row of `anchors`, (batch,).
        text_anchor_ids: a text's row of `anchors`, (len(texts),).
        groups: equal where two samples may exchange their texts, (batch,).
        keys: what a sample's own text is known by on every process, (batch,); None for class prompts.
        teacher: fields of `Embeddings` that the frozen teacher computes from the clean batch.
        more_captions: the same images with the second and every further caption, where the objective reads several.
    """

    images: Tensor
    texts: list[str]
    text_ids: Tensor
    anchors: Tensor
    anchor_ids: Tensor
    text_anchor_ids: Tensor
    groups: Tensor
    keys: Tensor | None = None
    teacher: Mapping[str, Tensor] = field(default_factory=dict)
    more_captions: Sequence[Batch] = ()

    @property
    def caption_sets(self) -> tuple[Batch, ...]:
        """Return the batch with each sample's first caption, then with its second, and so on."""
        return (self, *self.more_captions)


class BatchReader:
    """Reads batches of `data.rows.collate`.

    Args:
        encoder: embeds the anchors.
        prompts: class prompts; None for captions.
        objective: says what is read of a batch.
        more_prompts: class prompts of further templates, the further captions of a sample without any text.
    """

    def __init__(
        self,
        encoder: LiveEncoder,
        prompts: list[str] | None,
        objective: Objective,
        more_prompts: Sequence[list[str]] = (),
    ) -> None:
        self.encoder, self.prompts, self.objective, self.more_prompts = encoder, prompts, objective, more_prompts
        self._frozen_prompts: dict[int, Tensor] = {}
        self._warned = False

    def start(self) -> None:
        """Forget the prompts of a frozen text encoder: a new run may have another model."""
        self._frozen_prompts = {}

    def read_captions(self, inputs: Mapping[str, Any], own_texts: bool = True) -> Batch:
        """Return the batch as `read` does, with all captions of a sample if the objective reads several."""
        batch = self.read(inputs, own_texts)
        if not self.objective.reads_captions:
            return batch
        images, labels = batch.images, inputs.get("labels")
        if batch.keys is not None:
            more = [self._captioned(images, texts, labels) for texts in inputs.get("more_texts", ())]
        else:
            more = [self._of_classes(images, batch.groups, number) for number in range(1, len(self.more_prompts) + 1)]
        return replace(batch, more_captions=more)

    def read(self, inputs: Mapping[str, Any], own_texts: bool = True) -> Batch:
        """Return the batch.

        Args:
            inputs: of `collate`.
            own_texts: take a row's own text where it has one, and not its class prompt.

        Raises:
            ValueError: if images are malformed, or there is nothing that they could match.
        """
        images, labels = inputs["images"], inputs.get("labels")
        encoding.check_images(images)
        texts = inputs.get("texts") if own_texts or self.prompts is None else None
        if texts is not None:
            return self._captioned(images, texts, labels)
        if self.prompts is None or labels is None:
            if own_texts and not self._reads_texts:  # FARE: nothing but images
                rows = torch.zeros(len(images), dtype=torch.long, device=images.device)
                anchor = torch.zeros(1, self.encoder.dual.embed_dim, device=images.device)
                return Batch(images, [], rows, anchor, rows, rows[:0], rows)
            raise ValueError(
                "the data set has neither a text column nor a label column with class names: images have nothing "
                "to match. Name the columns, or pass `class_names`."
            )
        return self._of_classes(images, labels)

    def _of_classes(self, images: Tensor, labels: Tensor, number: int = 0) -> Batch:
        """Return the batch whose texts are class prompts, in the first or a further template."""
        classes, text_ids = torch.unique(labels, return_inverse=True)
        prompts = self.prompts_in(number)
        distinct = [prompts[label] for label in classes.tolist()]
        return Batch(images, distinct, text_ids, self.prompt_embeds(number), labels, classes, labels)

    def _captioned(self, images: Tensor, texts: Sequence[str], labels: Tensor | None) -> Batch:
        self._warn_of_cut_captions(texts)
        distinct = sorted(set(texts), key=_digest)  # the order of the anchors
        index = {text: position for position, text in enumerate(distinct)}
        text_ids = torch.tensor([index[text] for text in texts], device=images.device)
        digests = torch.tensor([_digest(text) for text in distinct], device=images.device)
        keys, anchors = self.distinct_rows(digests[text_ids], self.encoder.encode_texts(distinct)[text_ids])
        text_anchor_ids = torch.searchsorted(keys, digests)
        groups = labels if labels is not None else digests[text_ids]
        own = (text_anchor_ids[text_ids], text_anchor_ids)
        return Batch(images, distinct, text_ids, anchors, *own, groups, digests[text_ids])

    def _warn_of_cut_captions(self, texts: Sequence[str]) -> None:
        """Warn of the first batch with captions that are longer than the context."""
        if self._warned or not (cut := self.encoder.dual.too_long(texts)):
            return
        self._warned = True
        warnings.warn(
            f"{len(cut)} of {len(texts)} captions of a batch are longer than the context of "
            f"{self.encoder.dual.context_length} tokens and are cut off, for example {cut[0][:80]!r}. Shorten them to "
            "silence this.",
            UserWarning,
            stacklevel=2,
        )

    @property
    def _reads_texts(self) -> bool:
        """Return whether the objective, or its image attack, reads any text."""
        return self.objective.attack_reads_texts or bool(
            self.objective.views & {"texts", "adv_texts", "text_pools", "prompts", "teacher_texts"}
        )

    def prompts_in(self, number: int) -> list[str]:
        """Return all class prompts, in the first template or in a further one."""
        assert self.prompts is not None
        return self.more_prompts[number - 1] if number else self.prompts

    def prompt_embeds(self, number: int = 0) -> Tensor:
        """Return unit embeddings of all class prompts, (classes, dim); those of a frozen encoder are computed once."""
        prompts = self.prompts_in(number)
        if freezing.trains_text(self.encoder.dual.model):
            return self.encoder.encode_texts(prompts)
        if number not in self._frozen_prompts:
            self._frozen_prompts[number] = self.encoder.encode_texts(prompts)
        return self._frozen_prompts[number]

    def distinct_rows(self, keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return sorted distinct keys and a row of each: of all processes in training, of this one in evaluation."""
        if self.encoder.training:
            keys, rows = gather_rows(keys), gather_rows(rows)
        distinct, inverse = torch.unique(keys, return_inverse=True)
        places = torch.arange(len(keys), device=keys.device)
        first = torch.full_like(distinct, len(keys)).scatter_reduce(0, inverse, places, "amin")
        return distinct, rows[first]


def _digest(text: str) -> int:
    """Return a number that the same caption has on every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
