"""Projected gradient descent on the token embeddings of the own class's prompt, for each image its own worst case.

`TextEmbeddingPGD` moves a prompt without any image; here the image says where to. The loss is the zero-shot margin of
cosines, `max_{j != y} I.c_j - I.g(t_y')`, which does not saturate. The other classes' prompts stay clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..gradients import shorten, unit, value_and_gradient
from ..models import encoding
from ..models.encoder import DualEncoder
from ..models.encoding import word_positions
from .contracts import check_labels


@dataclass(frozen=True)
class RadiusCurve:
    """Accuracy over the radius, R radii.

    Args:
        radii: rising, in mean row norms of the token-embedding table.
        robust: which samples are still classified correctly at each radius, (R, N); never again once misclassified.
        margins: highest other score minus that of the own class, cosines, at the worst point found, (R, N); not
            negative where misclassified.
        lengths: how far the worst point found moves a token at most, in the unit of `radii`, (R, N).
    """

    radii: tuple[float, ...]
    robust: Tensor
    margins: Tensor
    lengths: Tensor

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy at each radius; it never rises."""
        return tuple(self.robust.double().mean(1).tolist())


@dataclass(frozen=True, kw_only=True)
class ImageTextPGD:
    """Raise each image's margin by moving the word tokens of its class's prompt inside an l2 ball.

    Only word positions move, each token in a ball of its own. The worst point of all steps and starts is kept, the
    clean prompt included. A sample is left alone from the step on that makes it misclassified.

    Args:
        num_steps: gradient steps per start.
        step_size: length of the first step as a share of the radius; it falls linearly to 0. The default is one that
            missed fewest on a digits model: constant steps of `2.5 / num_steps` left 78.3% where these leave 70.0%
            (50 steps, 5 restarts), and Adam 78.3%.
        restarts: random starts, each uniform in direction and radius; 0 leaves the start at the worst point so far.
        batch_size: images at a time. It bounds the memory; the random starts are drawn per batch and depend on it.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> curve = ImageTextPGD().radius_curve(encoder, prompts, image_embeds, labels, [0, 0.5, 1])  # doctest: +SKIP
        >>> curve.accuracies  # doctest: +SKIP
    """

    num_steps: int = 20
    step_size: float = 1.0
    restarts: int = 2
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name, least in (("num_steps", 0), ("step_size", 0), ("restarts", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")

    def radius_curve(
        self,
        encoder: DualEncoder,
        prompts: Sequence[str],
        image_embeds: Tensor,
        labels: Tensor,
        radii: Sequence[float],
        generator: torch.Generator | None = None,
        restarts_at: Sequence[float] | None = None,
    ) -> RadiusCurve:
        """Attack at each radius, from the solution of the radius below among other starts.

        The smaller ball lies in the larger one, and what was misclassified there stays so: accuracy cannot rise.

        Args:
            encoder: the model under attack.
            prompts: clean prompts, C of them.
            image_embeds: unit embeddings, (N, dim).
            labels: own class, (N,).
            radii: rising, per token, in mean row norms of the token-embedding table; 0 is the clean prompt.
            generator: of the random starts, on the model's device; a fresh one seeded 0 when None.
            restarts_at: radii at which random starts are made too; all of them when None. At the others the attack only
                goes on from the solution of the radius below, which is cheaper.

        Raises:
            ValueError: if the radii are negative or do not rise, or images and labels do not fit.
        """
        radii = tuple(map(float, radii))
        if not radii or radii[0] < 0 or any(low >= high for low, high in pairwise(radii)):
            raise ValueError(f"`radii` must rise from 0 or more, got {list(radii)}.")
        if len(prompts) < 2:
            raise ValueError(f"`prompts` needs at least two classes to tell apart, got {list(prompts)}.")
        check_labels(image_embeds, labels, len(prompts))
        if len(labels) == 0:
            raise ValueError("`image_embeds` is empty: there is no sample to attack.")
        tokens = encoder.tokenize(list(prompts))
        device = tokens["input_ids"].device
        generator = torch.Generator(device).manual_seed(0) if generator is None else generator
        with torch.no_grad():
            clean = encoder.encode_texts(list(prompts))
        unit_length = _mean_row_norm(encoder)
        parts = []
        images, classes = image_embeds.detach().to(device).float(), labels.to(device)
        for rows in torch.arange(len(labels), device=device).split(self.batch_size):
            batch = _Batch(encoder, tokens, clean, images[rows], classes[rows])
            for radius in radii:
                if radius > 0:
                    starts = self.restarts if restarts_at is None or radius in restarts_at else 0
                    self._attack(batch, radius * unit_length, starts, generator)
                parts.append(torch.stack([batch.margins, batch.deltas.norm(dim=-1).amax(1) / unit_length]))
        by_batch = [torch.stack(parts[start : start + len(radii)]) for start in range(0, len(parts), len(radii))]
        margins, lengths = torch.cat(by_batch, dim=2).to(labels.device).unbind(1)
        return RadiusCurve(radii, margins < 0, margins, lengths)

    def _attack(self, batch: _Batch, radius: Tensor, restarts: int, generator: torch.Generator) -> None:
        for start in range(restarts + 1):
            rows = batch.standing()
            if len(rows) == 0:
                return
            # The first start is the solution of the smaller ball, or the clean prompt.
            delta = batch.deltas[rows] if start == 0 else radius * batch.random_directions(rows, generator)
            for step in range(self.num_steps):
                grad = batch.try_points(rows, delta)
                still = batch.margins[rows] < 0
                rows, delta = rows[still], delta[still]
                if len(rows) == 0:
                    break
                step_size = self.step_size * radius * (1 - step / self.num_steps)
                moved = delta + step_size * batch.movable(rows) * unit(grad[still], -1)
                delta = shorten(moved, radius, -1)
            if len(rows):
                with torch.no_grad():
                    batch.try_points(rows, delta, differentiate=False)


class _Batch:
    """Some images under attack: the worst point found for each, and its margin.

    Args:
        encoder: the model.
        tokens: of the class prompts, (C, length).
        clean: unit embeddings of the class prompts, (C, dim).
        images: unit embeddings, (batch, dim).
        labels: own class, (batch,).
    """

    def __init__(
        self, encoder: DualEncoder, tokens: dict[str, Tensor], clean: Tensor, images: Tensor, labels: Tensor
    ) -> None:
        self._model, self._images = encoder.model, images
        self._ids, self._mask = tokens["input_ids"][labels], tokens["attention_mask"][labels]
        scores = images @ clean.T
        self._rivals = scores.scatter(1, labels.unsqueeze(1), float("-inf")).amax(1)
        with torch.no_grad():
            self._tokens = encoding.token_embeddings(self._model, tokens["input_ids"]).float()[labels]
        self.deltas = torch.zeros_like(self._tokens)  # (batch, length, width)
        self._words = word_positions(self._model, self._ids, self._mask).unsqueeze(-1)
        margins = self._rivals - scores.gather(1, labels.unsqueeze(1)).squeeze(1)
        self.margins = _broken_if_not_finite(margins)

    def standing(self) -> Tensor:
        """Return the numbers of the samples that are still classified correctly."""
        return (self.margins < 0).nonzero().squeeze(1)

    def movable(self, rows: Tensor) -> Tensor:
        """Return True on the tokens that may move, (rows, length, 1)."""
        return self._words[rows]

    def random_directions(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return points of the unit ball for each word token, uniform in direction and radius."""
        noise = torch.randn(self.deltas[rows].shape, generator=generator, device=self.deltas.device)
        lengths = torch.rand((*noise.shape[:2], 1), generator=generator, device=noise.device)
        return self._words[rows] * lengths * unit(noise, -1)

    def try_points(self, rows: Tensor, deltas: Tensor, differentiate: bool = True) -> Tensor:
        """Keep the points that are worse than the ones before, and return the margin's gradient there."""

        def margins_at(points: Tensor) -> Tensor:
            shifted = self._tokens[rows] + points
            texts = encoding.text_embeds(self._model, self._ids[rows], self._mask[rows], shifted)
            return self._rivals[rows] - (self._images[rows] * texts).sum(-1)

        margins, grad = value_and_gradient(margins_at, deltas) if differentiate else (margins_at(deltas), deltas)
        margins = _broken_if_not_finite(margins)
        worse = margins > self.margins[rows]
        self.deltas[rows] = torch.where(worse.view(-1, 1, 1), deltas, self.deltas[rows])
        self.margins[rows] = torch.where(worse, margins, self.margins[rows])
        return grad


def nearest_class_distances(encoder: DualEncoder, class_words: Sequence[str]) -> Tensor:
    """Return how far each class word's token embedding is from the nearest other class word's, (C,).

    Args:
        encoder: the model.
        class_words: class names alone, without a template, C of them. A name of several tokens is their mean.

    Returns:
        Euclidean distances in the table's own unit; 0 for two classes of the same tokens.

    Raises:
        ValueError: if there are fewer than two words, or one has no token.
    """
    if isinstance(class_words, str) or len(class_words) < 2:
        raise ValueError(f"`class_words` needs at least two classes, got {class_words!r}.")
    tokens = encoder.tokenize(list(class_words))
    with torch.no_grad():
        embeds = encoding.token_embeddings(encoder.model, tokens["input_ids"]).double()
    words = word_positions(encoder.model, **tokens).unsqueeze(-1)
    counts = words.sum(1)
    if not counts.all():
        raise ValueError(f"`class_words` holds {class_words[int(counts.argmin())]!r}, which has no token.")
    means = (embeds * words).sum(1) / counts  # (C, width)
    distances = (means.unsqueeze(1) - means).norm(dim=-1)
    return distances.fill_diagonal_(float("inf")).amin(1).float()


def radius_shares(encoder: DualEncoder, class_words: Sequence[str], rho: float) -> Tensor:
    """Return the radius rho as a share of the distance to the nearest other class word, rho / d, (C,).

    Training moves the words apart, and a radius in mean row norms does not see it; 1 reaches the neighbour.

    Args:
        encoder: the model.
        class_words: see `nearest_class_distances`.
        rho: radius in mean row norms of the token-embedding table.

    Returns:
        Shares; infinite where two classes have the same tokens.
    """
    if rho < 0:
        raise ValueError(f"`rho` must not be negative, got {rho}.")
    return rho * _mean_row_norm(encoder) / nearest_class_distances(encoder, class_words)


def _mean_row_norm(encoder: DualEncoder) -> Tensor:
    return encoding.token_table(encoder.model).float().norm(dim=-1).mean()


def _broken_if_not_finite(margins: Tensor) -> Tensor:
    return torch.where(margins.isfinite(), margins, float("inf"))
