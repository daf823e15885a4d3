"""All attacks of a threat model on one batch of rows: the unit of work of an evaluation.

Random numbers depend on the seed, the batch and the attack alone, so it does not matter which process computes a batch,
when, and after how many interruptions.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from ..attacks.contracts import ClassifierAttack
from ..attacks.engine import attack_images, correct
from ..attacks.factory import LossAttack
from ..losses import zero_shot_logits
from .prepare import Evaluation, source_key


def evaluate_batch(evaluation: Evaluation, index: int, batch: dict[str, Any]) -> dict[str, Any]:
    """Outcomes of all attacks on one batch of `Evaluation.load`, as JSON values."""
    device = evaluation.prompt_embeds.device
    run = _Batch(evaluation, index, batch["images"].to(device), batch["labels"].to(device))
    with torch.no_grad():
        embeds = evaluation.encoder.encode_images(run.images)
    logits = zero_shot_logits(embeds, evaluation.prompt_embeds, evaluation.scale)
    if not logits.isfinite().all():
        row = int((~logits.isfinite().all(1)).int().argmax())
        raise ValueError(
            f"the model gives non-finite logits for the clean image of row {batch['row_ids'][row]}: "
            "it is broken or overflows."
        )
    predictions, clean = logits.argmax(1), correct(logits, run.labels)
    outcomes = {"clean": clean}
    if "image" in evaluation.attacks:
        outcomes |= run.image_attacks(clean)
    if "text" in evaluation.attacks:
        outcomes |= {name: clean & run.correct(embeds, adv) for name, adv in evaluation.adv_embeds.items()}
    if "multimodal" in evaluation.attacks:
        for source in evaluation.sources or ("",):
            outcomes |= run.multimodal_attacks(outcomes, source)
    return {
        "row_ids": batch["row_ids"].tolist(),
        "labels": batch["labels"].tolist(),
        "predictions": predictions.tolist(),
        "outcomes": {name: "".join("01"[stands] for stands in rows.tolist()) for name, rows in outcomes.items()},
        "largest_perturbation": run.largest_perturbation,
        "pixel_range": run.pixel_range,
    }


def seeded_generator(device: torch.device, *key: object) -> torch.Generator:
    """Random numbers that depend on `key` and nothing else."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
    return torch.Generator(device).manual_seed(seed)


class _Batch:
    """The attacks on one batch, and the embeddings of the adversarial images that they found."""

    def __init__(self, evaluation: Evaluation, index: int, images: Tensor, labels: Tensor) -> None:
        self.evaluation, self.index, self.images, self.labels = evaluation, index, images, labels
        self.spec = evaluation.spec
        self.found: list[Tensor] = []  # (batch, dim) each; zeros where a sample was not attacked
        self.largest_perturbation = 0.0
        self.pixel_range = [0.0, 1.0]

    def correct(self, embeds: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Whether each sample is classified as its label, (batch,)."""
        return correct(zero_shot_logits(embeds, prompt_embeds, self.evaluation.scale), self.labels)

    def image_attacks(self, clean: Tensor) -> dict[str, Tensor]:
        """Every image attack against the clean prompts: who stands."""
        outcomes, standing = {}, clean
        prompts = self.evaluation.attacker_embeds, self.evaluation.prompt_embeds
        for name, attack in self.evaluation.image_attacks.items():
            outcomes[f"image/{name}"], found = self._image_attack(attack, f"image/{name}", standing, *prompts)
            self.found += found
            standing = outcomes[f"image/{name}"] if self.spec.skip_fallen else clean
        return outcomes

    def multimodal_attacks(self, outcomes: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """The multimodal attacks with one source of substitutes, given the outcomes so far: who stands."""
        texts = self.evaluation.texts_of(source)
        standing = clean = outcomes["clean"]
        if self.spec.skip_fallen:
            for name, stands in outcomes.items():
                if name.startswith("image/") or name in texts:
                    standing = standing & stands
        found: dict[str, Tensor] = {}
        for name in self.spec.multimodal_attacks:
            key = source_key(f"multimodal/{name}", source, self.evaluation.sources)
            if name == "independent":
                found[key] = self._independent(standing, texts)
            elif name == "adaptive":
                found[key] = self._adaptive(key, standing, texts)
            else:
                found[key] = self._searching(name, key, standing, source)
            standing = found[key] if self.spec.skip_fallen else clean
        return found

    def _independent(self, standing: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Every adversarial image that was found, read with every attacked prompt that was found."""
        for prompt_embeds in texts.values():
            for embeds in self.found:
                standing = standing & self.correct(embeds, prompt_embeds)
        return standing

    def _adaptive(self, key: str, standing: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Image attacks on the attacked prompts: the attacker knows what will be read."""
        stands = standing
        for text, prompt_embeds in texts.items():
            for name, attack in self.evaluation.image_attacks.items():
                attacked = stands if self.spec.skip_fallen else standing
                result, _ = self._image_attack(attack, f"{key}/{text}/{name}", attacked, prompt_embeds, prompt_embeds)
                stands = stands & result
        return stands

    def _searching(self, name: str, key: str, standing: Tensor, source: str) -> Tensor:
        """Attacks that choose the texts by the image, each sample judged with the prompts found for it."""
        rows = standing.nonzero().squeeze(1)
        if len(rows) == 0:
            return standing
        evaluation, stands = self.evaluation, standing.clone()
        pairs = evaluation.multimodal_attack(name, source)(
            self.images[rows],
            self.labels[rows],
            evaluation.prompts,
            evaluation.remembering_encoder,
            self._generator(key),
        )
        self._measure(pairs.images, rows)
        stands[rows] = correct(pairs.logits(evaluation.remembering_encoder), self.labels[rows])
        return stands

    def _image_attack(
        self,
        attack: LossAttack | ClassifierAttack,
        key: str,
        standing: Tensor,
        attacked_prompts: Tensor,
        judged_prompts: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """One attack with its restarts on the standing samples: who stands, and what embeddings each restart found."""
        stands, found = standing.clone(), []
        for restart in range(self.spec.restarts if isinstance(attack, LossAttack) else 1):
            rows = (stands if self.spec.skip_fallen else standing).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            attacked = attack_images(
                attack,
                self.images[rows],
                self.labels[rows],
                encode=self.evaluation.encoder.encode_images,
                attacked_prompts=attacked_prompts,
                judged_prompts=judged_prompts,
                scale=self.evaluation.scale,
                generator=self._generator(key, restart),
                skip_fallen=self.spec.skip_fallen,
            )
            self._measure(attacked.images, rows)
            stands[rows] &= attacked.stands
            embeds = attacked.embeds.new_zeros(len(stands), attacked.embeds.shape[1])
            embeds[rows] = attacked.embeds
            found.append(embeds)
        return stands, found

    def _generator(self, *key: object) -> torch.Generator:
        return seeded_generator(self.images.device, self.spec.seed, self.index, *key)

    def _measure(self, adv_images: Tensor, rows: Tensor) -> None:
        size = perturbation_lengths(adv_images, self.images[rows], self.spec.norm).amax().item()
        low, high = (bound.item() for bound in adv_images.aminmax())
        self.largest_perturbation = max(self.largest_perturbation, size)
        self.pixel_range = [min(self.pixel_range[0], low), max(self.pixel_range[1], high)]


def perturbation_lengths(adv_images: Tensor, images: Tensor, norm: str) -> Tensor:
    """Length of each sample's perturbation in the norm, (batch,)."""
    delta = (adv_images - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
