"""What `MMCoATrainer.evaluate` measures: the objective, and the outcomes of single samples, under the training attack.

A monitor for model selection: quicker and weaker than `evaluate_robustness`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EvalPrediction

from ..attacks.settings import THREATS
from ..config import MMCoAConfig
from ..losses import class_targets
from ..objectives import Embeddings
from .attacker import Attacker
from .batch import Batch
from .teacher import Teacher


class Monitor:
    """Evaluates batches under the training attacks; class prompts are attacked once and not once a batch.

    Args:
        attacker: the attacks.
        teacher: the frozen encoders, if the objective reads them.
        prompts: class prompts; None for captions.
        args: the configuration.
    """

    def __init__(
        self, attacker: Attacker, teacher: Teacher | None, prompts: list[str] | None, args: MMCoAConfig
    ) -> None:
        self.attacker, self.teacher, self.prompts, self.args = attacker, teacher, prompts, args
        self._attacked_prompts: list[Tensor] | None = None

    @torch.no_grad()
    def outcomes(self, batch: Batch, row_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss, scalar, and whether each sample is correct under each of `THREATS`, (batch, 4)."""
        attacker, encoder, objective = self.attacker, self.attacker.encoder, self.attacker.objective
        views = objective.views
        adv_images, iterates = attacker.attack_images(batch, attacker.generator("evaluated images", int(row_ids[0])))
        features, patches = encoder.image_features(batch.images, "patches" in views)
        adv_features, adv_patches = encoder.image_features(adv_images, "adv_patches" in views)
        image, adv_image = F.normalize(features, dim=-1), F.normalize(adv_features, dim=-1)
        text, adv_anchors = batch.anchors, self._attacked_anchors(batch)
        # Each sample's loss is under one of the text attacks, in turn; its outcome is the worst over all of them.
        turn = row_ids.to(batch.anchor_ids.device) % len(adv_anchors)
        adv_text_features = torch.stack(adv_anchors)[turn, batch.anchor_ids]
        embeds = Embeddings(
            logit_scale=encoder.dual.logit_scale,
            logit_bias=encoder.dual.logit_bias,
            image_embeds=image,
            adv_image_embeds=adv_image,
            text_embeds=text[batch.anchor_ids],
            adv_text_embeds=F.normalize(adv_text_features, dim=-1),
            targets=class_targets(batch.groups) if self.args.targets == "class" else None,
            prompt_embeds=text,
            labels=batch.anchor_ids,
            iterate_embeds=[encoder.encode_images(images) for images in iterates],
            image_features=features,
            adv_image_features=adv_features,
            adv_text_features=adv_text_features,
            patches=patches,
            adv_patches=adv_patches,
            **batch.teacher,
            **({} if self.teacher is None else self.teacher.teach_attacked(adv_images)),
        )
        loss, _ = objective(embeds)
        adv_texts = [F.normalize(attacked, dim=-1) for attacked in adv_anchors]

        def correct(images: Tensor, anchors: Sequence[Tensor]) -> Tensor:
            return torch.stack([(images @ each.T).argmax(1) == batch.anchor_ids for each in anchors]).all(0)

        clean, images = correct(image, [text]), correct(adv_image, [text])
        texts, both = correct(image, adv_texts), correct(adv_image, adv_texts)
        # Worst cases, as in `evaluate_robustness`: an attacker may leave the image, the text or both alone.
        right = [clean, clean & images, clean & texts, clean & images & texts & both]  # in the order of THREATS
        return loss.detach(), torch.stack(right, dim=1).float()

    def _attacked_anchors(self, batch: Batch) -> list[Tensor]:
        """Return features of all anchors, (anchors, dim), under each text attack; clean ones where there is none."""
        if self._attacked_prompts is not None:
            return self._attacked_prompts
        texts = batch.texts if self.prompts is None else self.prompts
        every, encoder = torch.arange(len(texts), device=batch.anchors.device), self.attacker.encoder
        found = []
        for kind in self.attacker.text_attacks:
            perturbed = self.attacker.attack_texts(kind, texts, batch.anchors, every)
            with encoder.autocast():
                found.append(perturbed.features(encoder.dual))
        found = found or [encoder.text_features(texts)]
        if self.prompts is not None:
            self._attacked_prompts = found
        return found


def accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """Return the accuracy under each of `THREATS` of outcomes (samples, 4)."""
    outcomes = np.asarray(prediction.predictions)
    return {f"{threat}_accuracy": float(column.mean()) for threat, column in zip(THREATS, outcomes.T, strict=True)}
