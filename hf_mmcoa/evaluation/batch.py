"""All attacks of a threat model on one batch of labelled images: the unit of work of a zero-shot evaluation.

Random numbers depend on the seed, the batch and the attack alone, so it does not matter which process computes a batch,
when, and after how many interruptions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attacks.engine import ImageAttacker, Measured, attack_images, correct, seeded_generator
from ..losses import zero_shot_logits
from .attacked_texts import source_key
from .prepare import Evaluation


def evaluate_batch(evaluation: Evaluation, index: int, batch: dict[str, Any]) -> dict[str, Any]:
    """Return the outcomes of all attacks on one batch of `Evaluation.load`, as JSON values."""
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
        outcomes |= {name: clean & run.correct(embeds, adv) for name, adv in evaluation.texts.embeds.items()}
    if "multimodal" in evaluation.attacks:
        for source in evaluation.sources or ("",):
            outcomes |= run.multimodal_attacks(outcomes, source)
    return {
        "row_ids": batch["row_ids"].tolist(),
        "labels": batch["labels"].tolist(),
        "predictions": predictions.tolist(),
        "outcomes": {name: "".join("01"[robust] for robust in rows.tolist()) for name, rows in outcomes.items()},
        "largest_perturbation": run.measured.largest,
        "pixel_range": run.measured.pixel_range,
    }


class _Batch:
    """The attacks on one batch, and the embeddings of the adversarial images that they found."""

    def __init__(self, evaluation: Evaluation, index: int, images: Tensor, labels: Tensor) -> None:
        self.evaluation, self.index, self.images, self.labels = evaluation, index, images, labels
        self.spec, self.texts = evaluation.spec, evaluation.texts
        self.found: list[Tensor] = []  # (batch, dim) each; zeros where a sample was not attacked
        self.measured = Measured(self.spec.norm)

    def correct(self, embeds: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return whether each sample is classified as its label, (batch,)."""
        return correct(zero_shot_logits(embeds, prompt_embeds, self.evaluation.scale), self.labels)

    def image_attacks(self, clean: Tensor) -> dict[str, Tensor]:
        """Return which samples are robust to each image attack against the clean prompts, (batch,) by attack."""
        outcomes, robust = {}, clean
        prompts = self.evaluation.attacker_embeds, self.evaluation.prompt_embeds
        for name, attack in self.evaluation.image_attacks.items():
            outcomes[f"image/{name}"], found = self._image_attack(attack, f"image/{name}", robust, *prompts)
            self.found += found
            robust = outcomes[f"image/{name}"] if self.spec.skip_fallen else clean
        return outcomes

    def multimodal_attacks(self, outcomes: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Return which samples are robust to each multimodal attack with one source of substitutes.

        Args:
            outcomes: of the attacks so far.
            source: its name.
        """
        texts = self.texts.realised(source)
        robust = clean = outcomes["clean"]
        if self.spec.skip_fallen:
            for name, outcome in outcomes.items():
                if name.startswith("image/") or name in texts:
                    robust = robust & outcome
        found: dict[str, Tensor] = {}
        for name in self.spec.multimodal_attacks:
            key = source_key(f"multimodal/{name}", source, self.evaluation.sources)
            if name == "independent":
                found[key] = self._independent(robust, texts)
            elif name == "adaptive":
                found[key] = self._adaptive(key, robust, texts)
            else:
                found[key] = self._searching(name, key, robust, source)
            robust = found[key] if self.spec.skip_fallen else clean
        return found

    def _independent(self, robust: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Classify every adversarial image that was found with every attacked prompt that was found."""
        for prompt_embeds in texts.values():
            for embeds in self.found:
                robust = robust & self.correct(embeds, prompt_embeds)
        return robust

    def _adaptive(self, key: str, robust: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Attack images against the attacked prompts: the attacker knows what will be read."""
        left = robust
        for text, prompt_embeds in texts.items():
            for name, attack in self.evaluation.image_attacks.items():
                attacked = left if self.spec.skip_fallen else robust
                result, _ = self._image_attack(attack, f"{key}/{text}/{name}", attacked, prompt_embeds, prompt_embeds)
                left = left & result
        return left

    def _searching(self, name: str, key: str, robust: Tensor, source: str) -> Tensor:
        """Run an attack that chooses the texts by the image; each sample is judged with the prompts found for it."""
        rows = robust.nonzero().squeeze(1)
        if len(rows) == 0:
            return robust
        encoder, left = self.texts.remembering_encoder, robust.clone()
        pairs = self.texts.multimodal_attack(name, source)(
            self.images[rows], self.labels[rows], self.evaluation.prompts, encoder, self._generator(key)
        )
        self.measured.add(pairs.images, self.images[rows])
        left[rows] = correct(pairs.logits(encoder), self.labels[rows])
        return left

    def _image_attack(
        self, attack: ImageAttacker, key: str, robust: Tensor, attacked_prompts: Tensor, judged_prompts: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one attack with its restarts: which samples are robust, and what embeddings each restart found."""
        left, found = robust.clone(), []
        for restart in range(attack.restarts):
            rows = (left if self.spec.skip_fallen else robust).nonzero().squeeze(1)
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
            self.measured.add(attacked.images, self.images[rows])
            left[rows] &= attacked.stands
            embeds = attacked.embeds.new_zeros(len(left), attacked.embeds.shape[1])
            embeds[rows] = attacked.embeds
            found.append(embeds)
        return left, found

    def _generator(self, *key: object) -> torch.Generator:
        return seeded_generator(self.images.device, self.spec.seed, self.index, *key)
