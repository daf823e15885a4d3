"""Texts that may replace each class prompt, embedded once: the text side of attacks that choose texts by the image.

A text's embedding does not depend on the image, and the class prompts are independent of each other. The worst texts
for an image are therefore found exactly: the own class's text of the lowest cosine, every other class's of the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .contracts import TextEncoder

BLOCK = 2**24  # cosines at a time: 64 MB


class PromptPools:
    """Pools of C prompts, each with the clean prompt first. Each distinct text is encoded once.

    Args:
        texts: legal texts of each class, C pools.
        encode: texts to unit embeddings, (texts, dim). Texts go there in alphabetical order, so that those of one batch
            begin alike.

    Raises:
        ValueError: if a pool is empty.
    """

    def __init__(self, texts: Sequence[Sequence[str]], encode: TextEncoder) -> None:
        self.texts = [list(dict.fromkeys(pool)) for pool in texts]
        if not self.texts or not all(self.texts):
            raise ValueError("every class needs a pool with at least its clean prompt.")
        distinct = sorted({text for pool in self.texts for text in pool})
        row_of = {text: row for row, text in enumerate(distinct)}
        with torch.no_grad():
            self.embeds = encode(distinct)  # (distinct texts, dim)
        self._rows = [torch.tensor([row_of[text] for text in pool], device=self.embeds.device) for pool in self.texts]

    def worst_logits(self, image_embeds: Tensor, labels: Tensor, others: bool, scale: Tensor) -> Tensor:
        """Return the logits under the worst texts, (batch, C), differentiable: the own class's lowest, others' highest.

        Args:
            image_embeds: unit embeddings, (batch, dim).
            labels: own classes, (batch,).
            others: attack the other classes' prompts too; if False, their clean prompts are used.
            scale: factor of the cosines, scalar.
        """
        chosen = self.choose(image_embeds, labels, others)
        rows = torch.stack([own[at] for own, at in zip(self._rows, chosen.T, strict=True)], dim=1)
        # The gradient of a minimum is that of the text that attains it.
        return scale * (self.embeds[rows] @ image_embeds.unsqueeze(-1)).squeeze(-1)

    def correct(self, image_embeds: Tensor, labels: Tensor, others: bool) -> Tensor:
        """Return which samples are classified correctly under every choice of texts, (batch,).

        A tie and a cosine that is not finite are misclassifications.
        """
        own, _, rivals, _ = self._worst(image_embeds, labels, others)
        return own > rivals.scatter(1, labels.unsqueeze(1), float("-inf")).amax(1)

    @torch.no_grad()
    def average_correct(self, image_embeds: Tensor, labels: Tensor) -> Tensor:
        """Return for each sample the share of its class's substitutes under which it is classified correctly, (batch,).

        One substitute stands for the own class's prompt at a time, all other prompts are clean. A class without any is
        judged with its clean prompt.
        """
        shares = torch.empty(len(labels), device=labels.device)
        rivals = self._clean_cosines(image_embeds).scatter(1, labels.unsqueeze(1), float("-inf")).amax(1, keepdim=True)
        for label in labels.unique().tolist():
            rows = (labels == label).nonzero().squeeze(1)
            texts = self._rows[label][1:] if len(self._rows[label]) > 1 else self._rows[label]
            shares[rows] = ((image_embeds[rows] @ self.embeds[texts].T).float() > rivals[rows]).float().mean(1)
        return shares

    def choose(self, image_embeds: Tensor, labels: Tensor, others: bool) -> Tensor:
        """Return the number of the worst text in each class's pool, (batch, C)."""
        _, own_at, _, rivals_at = self._worst(image_embeds, labels, others)
        return rivals_at.scatter(1, labels.unsqueeze(1), own_at.unsqueeze(1))

    def worst_prompts(self, image_embeds: Tensor, labels: Tensor, others: bool) -> list[list[str]]:
        """Return the texts that give `worst_logits`: one prompt per class for each sample."""
        chosen = self.choose(image_embeds, labels, others).tolist()
        return [[pool[at] for pool, at in zip(self.texts, row, strict=True)] for row in chosen]

    def witnesses(self, image_embeds: Tensor, labels: Tensor, others: bool) -> list[tuple[str, str]]:
        """Return for each sample the own class's text and the text of another class that is nearest to the image."""
        _, own_at, rivals, rivals_at = self._worst(image_embeds, labels, others)
        nearest = rivals.scatter(1, labels.unsqueeze(1), float("-inf")).argmax(1)
        found = zip(
            labels.tolist(),
            own_at.tolist(),
            nearest.tolist(),
            rivals_at.gather(1, nearest.unsqueeze(1)).squeeze(1).tolist(),
            strict=True,
        )
        return [(self.texts[label][own], self.texts[rival][at]) for label, own, rival, at in found]

    @torch.no_grad()
    def _worst(self, image_embeds: Tensor, labels: Tensor, others: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the own class's lowest cosine and its place, (batch,); every class's highest and theirs, (batch, C).

        Without `others` the latter are the clean prompts'.
        """
        image_embeds = image_embeds.detach()
        own = torch.empty(len(labels), device=labels.device)
        own_at = torch.zeros_like(labels)
        if others:
            step = max(1, BLOCK // len(self.embeds))
            parts = [self._of_block(*rows) for rows in zip(image_embeds.split(step), labels.split(step), strict=True)]
            own, own_at, rivals, rivals_at = (torch.cat(each) for each in zip(*parts, strict=True))
            return own, own_at, rivals, rivals_at
        rivals = self._clean_cosines(image_embeds)
        for label in labels.unique().tolist():
            rows = (labels == label).nonzero().squeeze(1)
            cosines = (image_embeds[rows] @ self.embeds[self._rows[label]].T).float()
            own[rows], own_at[rows] = _not_finite_as(cosines, float("-inf")).min(1)
        return own, own_at, rivals, torch.zeros_like(rivals, dtype=torch.long)

    def _clean_cosines(self, image_embeds: Tensor) -> Tensor:
        clean = torch.stack([rows[0] for rows in self._rows])
        return _not_finite_as((image_embeds @ self.embeds[clean].T).float(), float("inf"))

    def _of_block(self, image_embeds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        cosines = (image_embeds @ self.embeds.T).float()  # a text of two pools has one cosine: it ties with itself
        lowest_source, highest_source = (_not_finite_as(cosines, bound) for bound in (float("-inf"), float("inf")))
        rivals = cosines.new_empty(len(labels), len(self._rows))
        rivals_at = torch.zeros_like(rivals, dtype=torch.long)
        own, own_at = cosines.new_empty(len(labels)), torch.zeros_like(labels)
        for classes, places in self._groups:
            found = highest_source[:, places]  # (batch, classes of the group, longest)
            rivals[:, classes], rivals_at[:, classes] = found.max(-1)
            mine = (labels.unsqueeze(1) == classes).nonzero()  # (rows, 2): row, place in the group
            if len(mine):
                row, place = mine.unbind(1)
                own[row], own_at[row] = lowest_source[row.unsqueeze(1), places[place]].min(-1)
        return own, own_at, rivals, rivals_at

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """Return classes whose pools are of similar size, with their texts' rows: (classes,), (classes, longest).

        A shorter pool is padded with its clean prompt, which changes no minimum and no maximum, and comes first.
        """
        by_size: dict[int, list[int]] = {}
        for index, rows in enumerate(self._rows):
            by_size.setdefault(len(rows).bit_length(), []).append(index)
        groups = []
        for classes in by_size.values():
            longest = max(len(self._rows[index]) for index in classes)
            places = torch.stack(
                [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in (self._rows[c] for c in classes)]
            )
            groups.append((torch.tensor(classes, device=places.device), places))
        return groups


def _not_finite_as(cosines: Tensor, value: float) -> Tensor:
    """Return the cosines with `value` in the place of NaN and infinities; the same tensor where there are none."""
    return cosines if bool(cosines.sum().isfinite()) else torch.where(cosines.isfinite(), cosines, value)
