"""What `MMCoATrainer` evaluates and predicts: the loss under the training attack, clean logits, and four accuracies.

A monitor for model selection: quicker and weaker than `evaluate_robustness`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks.settings import THREATS
from ..config import MMCoAConfig
from ..losses import class_targets, zero_shot_logits
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
        self._outcomes: list[Tensor] = []

    def count(self, outcomes: Tensor) -> None:
        """Add the outcomes of a batch, of all processes and without repeated rows, to the accuracies."""
        self._outcomes.append(outcomes.cpu())

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy under each of `THREATS` of all samples that were counted; nothing if there were none."""
        if not self._outcomes:
            return {}
        means = torch.cat(self._outcomes).mean(0).tolist()
        return {f"{threat}_accuracy": mean for threat, mean in zip(THREATS, means, strict=True)}

    @torch.no_grad()
    def class_logits(self, images: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the logits of images without attack among all class prompts, (batch, classes)."""
        encoder = self.attacker.encoder
        return zero_shot_logits(encoder.encode_images(images), prompt_embeds, encoder.dual.logit_scale).float()

    @torch.no_grad()
    def evaluate(self, batch: Batch, row_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Evaluate a batch, clean and under attack.

        Returns:
            Mean loss, scalar; logits without attack, (batch, classes), for captions among the distinct ones of the
            batch in their order; each sample's own column, (batch,); whether it is right under each of `THREATS`,
            (batch, 4).
        """
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
        pools = attacker.text_pools if "text_pools" in views else None
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
            pool_embeds=pools and encoder.encode_texts(pools.texts),
            pool_classes=pools and batch.anchor_ids.new_tensor(pools.classes),
            iterate_embeds=[encoder.encode_images(images) for images in iterates],
            image_features=features,
            adv_image_features=adv_features,
            adv_text_features=adv_text_features,
            patches=patches,
            adv_patches=adv_patches,
            more_captions=(),  # an evaluation reads one caption of a sample
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
        logits, labels = zero_shot_logits(image, text, encoder.dual.logit_scale).float(), batch.anchor_ids
        if self.prompts is None:
            order = _first_rows(labels, len(text)).argsort()  # columns, in the order in which the batch has them
            logits, labels = logits[:, order], order.argsort()[labels]
        return loss.detach(), logits, labels, torch.stack(right, dim=1).float()

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


def _first_rows(column_ids: Tensor, num_columns: int) -> Tensor:
    """Return the first row that has each column, (columns,)."""
    rows = torch.arange(len(column_ids), device=column_ids.device)
    return rows.new_full((num_columns,), len(rows)).scatter_reduce(0, column_ids, rows, "amin")
