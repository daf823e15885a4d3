"""Robust test-time prompt tuning (R-TPT, arXiv:2504.11195): fit the words of the prompts to each image, then vote.

Each image is seen in many views. The words that all prompts begin with are tuned until the confident views are surer of
their own answers, and views vote by how close they lie to other views.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models import encoding
from ..models.encoder import DualEncoder
from .defence import seeded
from .views import random_views

ADAM = (0.9, 0.999, 1e-8)  # betas and epsilon of torch's AdamW, which the release uses
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, kw_only=True)
class RTPT:
    """Tune the context of the prompts for each image by point-wise entropy, and weigh its views by reliability.

    With views v of an image, p_v their class probabilities and c the token embeddings that all prompts begin with:

        c <- AdamW(c, grad mean_(v in S) H(p_v(c))),   S the share `selected` of views of lowest entropy at the start
        r_v = mean cosine of view v with its `neighbours` nearest views,   w = softmax(r / temperature)
        logits = sum_v w_v logits_v(c)

    Views are crops and flips; the release adds AugMix, whose operations on 8-bit pictures are not differentiable. The
    logits are differentiable through the tuning too. One step of AdamW has nearly the length `learning_rate` in every
    coordinate whatever the gradient, so little of their gradient comes through it.

    Args:
        num_views: views of an image, itself among them; the release's.
        selected: share of the views whose entropy is minimised; the release's.
        num_steps: steps of AdamW; the release's.
        learning_rate: of AdamW; the release's.
        neighbours: nearest views that a view's reliability is the mean over; the release's.
        temperature: of the weights; the release's.
        smallest: smallest area of a crop, as a share of the image; that of a random resized crop.
        flip: probability of a horizontal flip; 0 where mirrored images mean something else, such as digits.

    Raises:
        ValueError: if a setting is out of range, or in the call if the prompts do not begin with the same word.

    Example:
        >>> RTPT(num_views=16)(images, prompts, encoder)  # doctest: +SKIP
    """

    num_views: int = 64  # TomSheng21/R-TPT: rtpt.py, as the five below
    selected: float = 0.1
    num_steps: int = 1
    learning_rate: float = 5e-3
    neighbours: int = 20
    temperature: float = 0.01
    smallest: float = 0.08
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("num_views", 2), ("num_steps", 0), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        for name in ("selected", "smallest"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share in (0, 1], got {getattr(self, name)}.")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"`flip` is a probability in [0, 1], got {self.flip}.")
        if not (self.learning_rate >= 0 and self.temperature > 0):
            raise ValueError(
                "`learning_rate` must not be negative and `temperature` must be positive, got "
                f"{self.learning_rate} and {self.temperature}."
            )

    def __call__(
        self, images: Tensor, texts: Sequence[str], model: DualEncoder, generator: torch.Generator | None = None
    ) -> Tensor:
        """See `Defence`."""
        views = random_views(images, self.num_views, seeded(images, generator), smallest=self.smallest, flip=self.flip)
        embeds = model.encode_images(views.flatten(0, 1)).view(len(images), self.num_views, -1)  # (batch, views, dim)
        context = _Context(model, texts)
        tuned = self._tune(context, embeds, model.logit_scale.detach())
        logits = model.logit_scale * embeds @ context.text_embeds(tuned).mT  # (batch, views, classes)
        return (self._reliabilities(embeds).unsqueeze(-1) * logits).sum(1)

    def _tune(self, context: _Context, embeds: Tensor, scale: Tensor) -> Tensor:
        """Return each image's context, (batch, tokens, width), with its graph where gradients are enabled."""
        unrolled = torch.is_grad_enabled() and embeds.requires_grad
        tokens = context.tokens.expand(len(embeds), -1, -1)
        moment, square = torch.zeros_like(tokens), torch.zeros_like(tokens)
        chosen: Tensor | None = None
        first, second, epsilon = ADAM
        for step in range(1, self.num_steps + 1):
            with torch.enable_grad(), _twice_differentiable(unrolled):
                point = tokens if tokens.requires_grad else tokens.detach().requires_grad_()
                entropies = _entropy(scale * embeds @ context.text_embeds(point).mT)  # (batch, views)
                if chosen is None:
                    count = max(1, int(self.selected * self.num_views))
                    chosen = entropies.detach().argsort(1)[:, :count]
                loss = entropies.gather(1, chosen).mean(1).sum()
                (grad,) = torch.autograd.grad(loss, point, create_graph=unrolled)
            moment = first * moment + (1 - first) * grad
            square = second * square + (1 - second) * grad.square()
            # The root has no derivative at zero, where AdamW does not move.
            root = (square / (1 - second**step)).clamp(min=torch.finfo(square.dtype).tiny).sqrt()
            moved = moment / (1 - first**step) / (root + epsilon)
            tokens = (1 - self.learning_rate * WEIGHT_DECAY) * tokens - self.learning_rate * moved
        return tokens

    def _reliabilities(self, embeds: Tensor) -> Tensor:
        """Return the weight of each view in the vote, (batch, views)."""
        cosines = embeds @ embeds.mT
        itself = torch.eye(self.num_views, dtype=torch.bool, device=embeds.device)
        nearest = cosines.masked_fill(itself, float("-inf")).topk(min(self.neighbours, self.num_views - 1), dim=-1)
        return (nearest.values.mean(-1) / self.temperature).softmax(-1)


class _Context:
    """The token embeddings that all prompts begin with, (tokens, width), and the prompts around them."""

    def __init__(self, model: DualEncoder, texts: Sequence[str]) -> None:
        encoded = model.tokenize(list(texts))
        self._model, self._ids, self._mask = model.model, encoded["input_ids"], encoded["attention_mask"]
        words = encoding.word_positions(self._model, self._ids, self._mask).all(0)
        shared = ((self._ids == self._ids[0]).all(0) | ~words).long().cumprod(0).bool() & words
        self._places = shared.nonzero().squeeze(1)
        if not len(self._places):
            raise ValueError(
                f"R-TPT tunes the words that all prompts begin with, and {texts[0]!r} and the others share none: use "
                'a template such as "a photo of a {}".'
            )
        with torch.no_grad():
            self._embeds = encoding.token_embeddings(self._model, self._ids)  # (classes, length, width)
        self.tokens = self._embeds[0, self._places]

    def text_embeds(self, tokens: Tensor) -> Tensor:
        """Return unit text embeddings under each image's context (batch, tokens, width), (batch, classes, dim)."""
        batch, classes = len(tokens), len(self._ids)
        embeds = self._embeds.expand(batch, -1, -1, -1).index_copy(
            2, self._places, tokens[:, None].expand(-1, classes, -1, -1).to(self._embeds.dtype)
        )
        found = encoding.text_embeds(
            self._model, self._ids.repeat(batch, 1), self._mask.repeat(batch, 1), embeds.flatten(0, 1)
        )
        return found.view(batch, classes, -1)


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax over the last dimension, in nats."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


@contextlib.contextmanager
def _twice_differentiable(wanted: bool) -> Iterator[None]:
    """Choose the attention kernel that has a second derivative, if one is needed: the fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH) if wanted else contextlib.nullcontext():
        yield
