"""Prompts with a nonsense word: what a text encoder has lost if they match images better than every class prompt does.

Training against replaced words has a short cut: an encoder that moves every text it does not know towards all images
is robust when the true class's prompt is replaced (the adversary "own"), for whatever stands there then wins. Such a
model answers "dlrow" to any picture. No accuracy under attack shows that, so it is counted beside them.
"""

from __future__ import annotations

import hashlib
from itertools import count

import torch
from torch import Tensor

from ..substitutes.english import is_english

NUM_WORDS = 200
"""Few enough to cost nothing. The share of images that any of them beats grows with their number."""


def nonsense_words(number: int = NUM_WORDS) -> list[str]:
    """Return strings of four to eight letters that are no English words; the same for every model and data set.

    Example:
        >>> nonsense_words(3)
        ['wiap', 'phbuol', 'qdxdarsm']
    """
    found: list[str] = []
    for place in count():
        digest = hashlib.sha256(f"nonsense {place}".encode()).digest()
        word = "".join(chr(ord("a") + byte % 26) for byte in digest[1 : 5 + digest[0] % 5])
        if not is_english(word) and word not in found:
            found.append(word)
        if len(found) == number:
            break
    return found


def beaten(image_embeds: Tensor, prompt_embeds: Tensor, nonsense_embeds: Tensor) -> tuple[int, int]:
    """Count what is nearer to an image than all class prompts are.

    Args:
        image_embeds: unit embeddings of clean images, (batch, dim).
        prompt_embeds: of the clean class prompts, (C, dim).
        nonsense_embeds: of the prompts with nonsense words, (words, dim).

    Returns:
        The number of pairs of an image and a nonsense word, and of images with one such word or more.
    """
    best = (image_embeds @ prompt_embeds.T).amax(dim=1, keepdim=True)
    wins: Tensor = image_embeds @ nonsense_embeds.T > best
    return int(wins.sum()), int(torch.count_nonzero(wins.any(dim=1)))
