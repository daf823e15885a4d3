"""Accuracy under families of text perturbation: in the mean over a family's texts, and with the worst of them.

Every legal text of the own class's prompt is scored against the clean prompts of the other classes, as the `own`
adversary of `attacks.exhaustive` does; the mean over them is exact, nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks.contracts import TextEncoder
from ..attacks.exhaustive import EncodedTexts, Scores
from ..families.family import TextFamily

SAME = 1 - 1e-6  # a cosine above it: the encoder, in float32, reads both texts alike


@dataclass(frozen=True, kw_only=True)
class FamilyOutcome:
    """Hold what a family of perturbations does to every sample.

    Args:
        name: the family's.
        right: share of the own class's perturbed texts under which a sample is classified correctly, (N,), float64; of
            the clean prompt alone where the class has no other text.
        robust: whether a sample is classified correctly under all of them and the clean prompt, (N,).
        num_texts: perturbed texts of all classes, the clean prompts not counted.
        num_read_as_clean: how many of them have the clean prompt's embedding, mostly because the tokenizer undoes them.
        num_bare_classes: classes without a perturbed text.
        num_dropped: texts dropped because they name another class or are unlike the prompt.
    """

    name: str
    right: Tensor
    robust: Tensor
    num_texts: int
    num_read_as_clean: int
    num_bare_classes: int
    num_dropped: int

    def numbers(self) -> dict[str, float | int]:
        """Return the outcome as flat numbers, `families/<name>/mean` and so on; accuracies in [0, 1]."""
        return {
            f"families/{self.name}/mean": float(self.right.mean()),
            f"families/{self.name}/worst": float(self.robust.double().mean()),
            f"families/{self.name}/num_texts": self.num_texts,
            f"families/{self.name}/num_read_as_clean": self.num_read_as_clean,
            f"families/{self.name}/num_bare_classes": self.num_bare_classes,
            f"families/{self.name}/num_dropped": self.num_dropped,
        }


def measure_families(
    families: Sequence[TextFamily],
    prompts: Sequence[str],
    encode: TextEncoder,
    image_embeds: Tensor,
    labels: Tensor,
) -> dict[str, float | int]:
    """Measure the accuracy under each family, and under the worst text of all of them.

    Args:
        families: families with different names, in the part that is measured.
        prompts: clean prompts, C of them.
        encode: texts to unit embeddings, (texts, dim): `DualEncoder.encode_texts`.
        image_embeds: unit embeddings, (N, dim).
        labels: own class, (N,).

    Returns:
        `FamilyOutcome.numbers` of each family, and `families/worst`, the accuracy under the worst text of any family,
        and `families/num_texts`, the sum over families.

    Raises:
        ValueError: if there is no family, two have one name, or an argument has a wrong shape or range.

    Example:
        >>> from hf_mmcoa.families import text_families
        >>> encode = lambda texts: torch.tensor([[1.0, 0.0] if "cat" in each else [0.0, 1.0] for each in texts])
        >>> families, labels = text_families("affixes"), torch.arange(2)
        >>> found = measure_families(families, ["a cat", "a dog"], encode, torch.eye(2), labels)
        >>> found["families/affixes/mean"], found["families/affixes/worst"], found["families/affixes/num_texts"]
        (1.0, 1.0, 80)
    """
    names = [family.name for family in families]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`families` must be at least one, with different names, got {names}.")
    encoded = EncodedTexts(encode)
    outcomes = [measure_family(family, prompts, encoded, image_embeds, labels) for family in families]
    numbers = {key: value for outcome in outcomes for key, value in outcome.numbers().items()}
    numbers["families/worst"] = float(torch.stack([outcome.robust for outcome in outcomes]).all(0).double().mean())
    numbers["families/num_texts"] = sum(outcome.num_texts for outcome in outcomes)
    return numbers


def measure_family(
    family: TextFamily, prompts: Sequence[str], encoded: EncodedTexts, image_embeds: Tensor, labels: Tensor
) -> FamilyOutcome:
    """Score every sample under every text of its class's prompt that the family lists.

    A tie or a non-finite score is a misclassification, as in `attacks.exhaustive`.

    Args:
        family: the family, in the part that is measured.
        prompts, image_embeds, labels: as in `measure_families`.
        encoded: encodes the texts that it does not hold yet; shared by families, it encodes each text once.

    Raises:
        ValueError: if an argument has a wrong shape or range.
    """
    prompts = list(prompts)
    if len(prompts) < 2 or image_embeds.ndim != 2 or not len(labels) or labels.shape != image_embeds.shape[:1]:
        raise ValueError(
            "`prompts` must be at least two, `image_embeds` (N, dim) and `labels` (N,) with N at least 1, got "
            f"{len(prompts)}, {tuple(image_embeds.shape)} and {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(prompts):
        raise ValueError(f"`labels` must lie in [0, {len(prompts)}), got {int(labels.min())} to {int(labels.max())}.")
    listing = family.listing(prompts)
    clean = Scores(image_embeds, labels, encoded, [[prompt] for prompt in prompts])
    scores = clean.of_choices(torch.zeros(len(prompts), dtype=torch.long))  # (N, classes)
    column = clean.labels.unsqueeze(1)
    own = scores.gather(1, column).squeeze(1)
    others = torch.where(scores.isfinite(), scores, float("inf")).scatter(1, column, float("-inf")).amax(1)
    robust = (own > others) & own.isfinite()
    right = robust.double()
    read_as_clean = 0
    for index, pool in enumerate(listing.pools):
        if len(pool) == 1:
            continue
        rows = encoded.rows(pool)  # before `embeds`, which it fills
        embeds = encoded.embeds[rows.to(encoded.embeds.device)]
        read_as_clean += int((embeds[1:] @ embeds[0] > SAME).sum())
        samples = (clean.labels == index).nonzero().squeeze(1)
        if not len(samples):
            continue
        here = samples.to(image_embeds.device)
        correct, rivals = torch.zeros_like(others[samples], dtype=torch.double), others[samples].unsqueeze(1)
        for _, part in Scores(image_embeds[here], labels[here], encoded, [pool[1:]]).of_pool(0):  # (samples, texts)
            beats = (part > rivals) & part.isfinite()
            correct += beats.sum(1)
            robust[samples] &= beats.all(1)
        right[samples] = correct / (len(pool) - 1)
    return FamilyOutcome(
        name=family.name,
        right=right.to(labels.device),
        robust=robust.to(labels.device),
        num_texts=sum(len(pool) - 1 for pool in listing.pools),
        num_read_as_clean=read_as_clean,
        num_bare_classes=sum(len(pool) == 1 for pool in listing.pools),
        num_dropped=listing.num_other_class + listing.num_dissimilar,
    )
