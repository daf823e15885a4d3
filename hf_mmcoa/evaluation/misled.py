"""What the samples of one batch are taken for under each attack, and by which image and texts.

An outcome says only whether a sample stands. Confusions, calibration and an export need more: the class that won, how
sure the model was, and the input that misled it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..losses import zero_shot_logits

Texts = Callable[[Tensor], Sequence[tuple[str, str]]]
"""Places among the attacked samples -> for each of them the own class's text and the winner's."""


class Misled:
    """Collects, while the attacks on a batch run, the first misclassification of each sample by each attack.

    Args:
        images: clean images in [0, 1], (batch, 3, h, w).
        embeds: their unit embeddings, (batch, dim).
        labels: their classes, (batch,).
        keep: also collect images and texts, which an export writes.
    """

    def __init__(self, images: Tensor, embeds: Tensor, labels: Tensor, keep: bool = False) -> None:
        self.labels, self.clean, self.keep = labels, embeds, keep
        self.rivals: dict[str, list[int | None]] = {}
        """By attack the class that each sample is taken for; None for samples that the attack did not mislead."""
        self.texts: dict[str, list[tuple[str, str] | None]] = {}
        """By attack the own class's text and the winner's that misled a sample."""
        self.embeds = embeds.clone()
        """Embeddings of the worst images of the image attacks, (batch, dim); of the clean one if none was made."""
        self.images = {"image": images.clone(), "multimodal": images.clone()} if keep else {}
        """By kind the image that misled a sample; for "image" the last one that was tried if none did."""
        self.by: dict[str, list[str | None]] = {kind: [None] * len(labels) for kind in ("image", "multimodal")}
        """By kind the attack that made a sample's image."""

    def add(
        self,
        attack: str,
        rows: Tensor,
        logits: Tensor,
        stands: Tensor,
        *,
        embeds: Tensor | None = None,
        images: Tensor | None = None,
        texts: Texts | None = None,
    ) -> None:
        """Add one run of an attack.

        Args:
            attack: its name in the result, "clean" for none.
            rows: the attacked samples' places in the batch, (attacked,).
            logits: what they are classified by, (attacked, classes).
            stands: whether each is classified correctly still, (attacked,).
            embeds: unit embeddings of the attacked images, (attacked, dim), if the images were attacked.
            images: those images, (attacked, 3, h, w).
            texts: returns the texts that misled samples.
        """
        found = self.rivals.setdefault(attack, [None] * len(self.labels))
        kind = attack.partition("/")[0]
        self._add_images(kind, attack, rows, stands, embeds, images)
        new = torch.tensor([found[row] is None for row in rows.tolist()], dtype=torch.bool, device=stands.device)
        places = (~stands & new).nonzero().squeeze(1)
        if not len(places):
            return
        for row, rival in zip(rows[places].tolist(), rivals(logits[places], self.labels[rows[places]]), strict=True):
            found[row] = rival
        if self.keep and texts is not None:
            written = self.texts.setdefault(attack, [None] * len(self.labels))
            for row, pair in zip(rows[places].tolist(), texts(places), strict=True):
                written[row] = pair

    def _add_images(
        self, kind: str, attack: str, rows: Tensor, stands: Tensor, embeds: Tensor | None, images: Tensor | None
    ) -> None:
        """Take over images of samples that none of this kind has misled so far."""
        if kind not in self.by:
            return
        known = [name for name in self.rivals if name.partition("/")[0] == kind]
        open_ = [all(self.rivals[name][row] is None for name in known) for row in rows.tolist()]
        places = torch.tensor(open_, dtype=torch.bool, device=rows.device)
        if kind == "multimodal":
            places &= ~stands
        if images is not None and self.keep:
            self.images[kind][rows[places]] = images[places]
        if kind == "image" and embeds is not None:
            self.embeds[rows[places]] = embeds[places]
        for row in rows[places].tolist():
            self.by[kind][row] = attack

    def sureness(self, prompt_embeds: Tensor, scale: Tensor) -> dict[str, dict[str, list[float]]]:
        """Return, clean and under the worst image, how sure the model is of what it says.

        Args:
            prompt_embeds: clean prompts, (classes, dim).
            scale: the model's own factor of the cosines, scalar.

        Returns:
            For "clean" and "image", `confidence`, the largest probability of a class, and `nll`, the negative logarithm
            of the true class's, one a sample each.
        """
        found = {}
        for name, embeds in (("clean", self.clean), ("image", self.embeds)):
            log_probabilities = zero_shot_logits(embeds, prompt_embeds, scale).double().log_softmax(-1)
            own = log_probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
            found[name] = {"confidence": log_probabilities.amax(1).exp().tolist(), "nll": (-own).tolist()}
        return found


def rivals(logits: Tensor, labels: Tensor) -> list[int]:
    """Return for misclassified samples the class that wins: the strongest but their own, which at most ties."""
    return logits.scatter(1, labels.unsqueeze(1), float("-inf")).nan_to_num(float("inf")).argmax(1).tolist()


def record(misled: Misled) -> dict[str, Any]:
    """Return the texts and the attacks that made the images, as JSON values."""
    return {
        "texts": {name: [pair and list(pair) for pair in found] for name, found in misled.texts.items()},
        "by": misled.by,
    }
