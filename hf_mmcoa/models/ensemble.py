"""A text encoder that reads a prompt as a class name in several templates at once (CLIP, section 3.1.4)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import DualEncoder


class EnsembleEncoder(DualEncoder):
    """Embed a prompt of the first template as the normalised mean of its class name in all templates.

    An attack changes the prompt of the first template, and what it writes in place of the name stands in the prompt of
    every template. Shares the model with another encoder, whose images are embedded alike.

    Args:
        encoder: the model.
        templates: each with one `{}`; prompts come in the first.
    """

    def __init__(self, encoder: DualEncoder, templates: Sequence[str]) -> None:
        self.__dict__.update(encoder.__dict__)
        self.templates = [unicodedata.normalize("NFC", template) for template in templates]
        before, after = (re.escape(part) for part in self.templates[0].split("{}"))
        self._prompt = re.compile(f"{before}(.*){after}", re.DOTALL)

    def encode_texts(self, texts: list[str], batch_size: int = 256, truncation: bool = True) -> Tensor:
        """Map prompts of the first template to unit vectors, (texts, dim); see `DualEncoder.encode_texts`.

        Raises:
            ValueError: if a text is no prompt of the first template.
        """
        names = [self._name(text) for text in texts]
        embeds = [
            super(EnsembleEncoder, self).encode_texts(
                [template.replace("{}", name) for name in names], batch_size, truncation
            )
            for template in self.templates
        ]
        return F.normalize(torch.stack(embeds).mean(0), dim=-1)

    def _name(self, text: str) -> str:
        match = self._prompt.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no prompt of the template {self.templates[0]!r}, so the other {len(self.templates) - 1} "
                "templates of the ensemble have no counterpart: attack the words of class names, or one template."
            )
        return match[1]
