"""One MMCoA step as it is published, restated plainly by us: the slow side of `training_step`.

After METHODS, sections 2 to 4: every attack step encodes all class prompts again, padded to 77, and goes backwards
through both encoders down to the weights; texts are attacked one at a time, repeated or not; each term of the loss has
a forward of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_mmcoa.models.encoder import DualEncoder


class PublishedStep:
    """The parts of a step, so that a sample of the attack steps and texts can be timed.

    Args:
        encoder: the model.
        prompts: all class prompts.
        attack_text: one text to the attacked one.
        epsilon: radius of the image attack.
        step_size: of its steps.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        prompts: Sequence[str],
        attack_text: Callable[[str], str],
        epsilon: float,
        step_size: float,
    ) -> None:
        self.encoder, self.prompts, self.attack_text = encoder, list(prompts), attack_text
        self.epsilon, self.step_size = epsilon, step_size

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Padded to the context, (texts, 77)."""
        length = self.encoder.context_length
        return self.encoder.tokenizer(list(texts), padding="max_length", max_length=length, return_tensors="pt")[
            "input_ids"
        ]

    def forward(self, images: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings of both and the scale, from one forward of the model."""
        output = self.encoder.model(pixel_values=self.encoder.pixel_values(images), input_ids=self.tokens(texts))
        return output.image_embeds, output.text_embeds, self.encoder.logit_scale

    def attack_step(self, images: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
        """One step of PGD; it leaves gradients on all weights."""
        adv = (images + delta).detach().requires_grad_()
        image_embeds, text_embeds, scale = self.forward(adv, self.prompts)
        F.cross_entropy(scale * image_embeds @ text_embeds.T, labels, reduction="sum").backward()
        assert adv.grad is not None
        delta = (delta + self.step_size * adv.grad.sign()).clamp(-self.epsilon, self.epsilon)
        return (images + delta).clamp(0, 1) - images

    def attack_texts(self, texts: Sequence[str]) -> list[str]:
        """One after the other."""
        with torch.no_grad():
            return [self.attack_text(text) for text in texts]

    def loss(self, images: Tensor, adv_images: Tensor, texts: Sequence[str], adv_texts: Sequence[str]) -> Tensor:
        """Both terms, forwards and backwards."""
        total = torch.zeros(())
        for pictures, words in ((adv_images, texts), (images, adv_texts)):
            image_embeds, text_embeds, scale = self.forward(pictures, words)
            logits, targets = scale * image_embeds @ text_embeds.T, torch.arange(len(pictures))
            total = total + 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))
        total.backward()
        return total.detach()
