"""The `shared` adversary: one text per class, the same for all images, that leaves the fewest samples robust.

The classes interact here, through all images at once. Where the combinations are few, all of them are tried; elsewhere
coordinate descent from several starts: the texts of one class are exchanged for the best ones given all the others',
class after class, until nothing changes. Exchanging class k's text changes column k of the scores alone.

Memory beside the scores' blocks: starts x samples x classes float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EXACT_WORK = 2**26  # scores compared when all combinations are tried: about two seconds on one core
EXACT_SCORES = 2**25  # scores kept for that: 128 MiB
BLOCK = 2**23  # scores compared at a time
MAX_SWEEPS = 50  # descent takes 3 to 6; a bound in case that rounding makes it go round in circles
TOLERANCE = 1e-6  # of a mean margin: less is rounding


class ScoreBlocks(Protocol):
    """`exhaustive.Scores`: cosines between N images and the texts of C pools."""

    sizes: list[int]
    labels: Tensor

    def of_pool(self, pool: int) -> Iterator[tuple[int, Tensor]]:
        """Yield a class's scores in blocks: number of the first text, (N, texts)."""

    def of_choices(self, choices: Tensor) -> Tensor:
        """Return the scores of one text per class, (N, C), given its number in each pool, (C,)."""


@dataclass(frozen=True)
class SharedChoice:
    """The choice found: the text's number in each class's pool, (C,), and the search that found it."""

    choices: Tensor
    search: str


def choose_shared_texts(scores: ScoreBlocks, num_random_starts: int = 3, seed: int = 0) -> SharedChoice:
    """Choose one text per class so that as few samples as possible are classified correctly.

    Args:
        scores: of all images and texts.
        num_random_starts: starts of the descent beside two: the clean prompts, and for each class the text of the worst
            mean margin while all other prompts are clean.
        seed: of the random starts.

    Raises:
        ValueError: if `num_random_starts` is negative.
    """
    if num_random_starts < 0:
        raise ValueError(f"`num_random_starts` must not be negative, got {num_random_starts}.")
    combinations, samples = math.prod(scores.sizes), len(scores.labels)
    few = combinations * samples * len(scores.sizes) <= EXACT_WORK and samples * sum(scores.sizes) <= EXACT_SCORES
    return _best_of_all(scores, combinations) if few else _descend(scores, num_random_starts, seed)


def _best_of_all(scores: ScoreBlocks, combinations: int) -> SharedChoice:
    labels, sizes = scores.labels, scores.sizes
    columns = [torch.cat([part for _, part in scores.of_pool(index)], dim=1) for index in range(len(sizes))]
    best, fewest = 0, len(labels) + 1
    step = max(1, BLOCK // len(labels))
    for start in range(0, combinations, step):
        numbers = torch.arange(start, min(start + step, combinations), device=labels.device)
        own = torch.full((len(labels), len(numbers)), float("-inf"), device=labels.device)
        rival = torch.full_like(own, float("-inf"))
        for index, at in enumerate(torch.unravel_index(numbers, sizes)):
            chosen, mine = columns[index][:, at], labels == index
            own[mine] = _not_finite_as(chosen[mine], float("-inf"))
            rival = torch.where(mine.unsqueeze(1), rival, rival.maximum(_not_finite_as(chosen, float("inf"))))
        robust = (own > rival).sum(0)
        if int(robust.min()) < fewest:
            fewest, best = int(robust.min()), start + int(robust.argmin())
    return SharedChoice(torch.stack(torch.unravel_index(torch.tensor(best), sizes)), "exhaustive")


class _State:
    """The current choice of one start, its scores, and what is needed to exchange one class's text."""

    def __init__(self, scores: ScoreBlocks, choices: Tensor) -> None:
        self.choices, self.labels = choices.clone(), scores.labels
        self._others = scores.of_choices(choices)  # (N, C)
        column = self.labels.unsqueeze(1)
        self.own = _not_finite_as(self._others.gather(1, column).squeeze(1), float("-inf"))  # (N,)
        self._others = _not_finite_as(self._others, float("inf")).clone()
        self._others.scatter_(1, column, float("-inf"))
        self._rank()

    def _rank(self) -> None:
        """Find the two highest other classes: without one of them the other is the highest."""
        self._highest, self._highest_at = self._others.topk(2, dim=1)

    def rivals(self, index: int) -> Tensor:
        """Return the highest score of a class that is neither the own one nor `index`, (N,)."""
        first, second = self._highest.unbind(1)
        return torch.where(self._highest_at[:, 0] == index, second, first)

    def harms(self, index: int, part: Tensor) -> Tensor:
        """Rate every text of a block for class `index`; lower is worse for the model.

        The number of robust samples, and below 1 the mean margin (in [-2, 2]), which decides between equal numbers.

        Args:
            index: the class whose text is exchanged.
            part: its texts' scores, (N, texts).

        Returns:
            (texts,), float64.
        """
        rivals, mine = self.rivals(index), (self.labels == index).nonzero().squeeze(1)
        lowest = _not_finite_as(part[mine], float("-inf"))
        margins = torch.maximum(_not_finite_as(part, float("inf")), rivals.unsqueeze(1))
        torch.sub(self.own.unsqueeze(1), margins, out=margins)
        margins[mine] = lowest - rivals[mine].unsqueeze(1)
        robust = (margins > 0).sum(0)
        mean = margins.clamp_(-2, 2).sum(0) / len(margins)
        return robust + (mean.double() + 2) / 8

    def exchange(self, index: int, text: int, column: Tensor) -> None:
        """Put the text of this number, with its scores (N,), in the place of class `index`'s."""
        mine = self.labels == index
        self.choices[index] = text
        self.own = torch.where(mine, _not_finite_as(column, float("-inf")), self.own)
        self._others[:, index] = torch.where(mine, float("-inf"), _not_finite_as(column, float("inf")))
        self._rank()

    def value(self) -> float:
        """Return the rating of the current choice, as `harms` gives it."""
        margins = self.own - self._highest[:, 0]
        return int((margins > 0).sum()) + (float(margins.clamp(-2, 2).double().mean()) + 2) / 8


def _descend(scores: ScoreBlocks, num_random_starts: int, seed: int) -> SharedChoice:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.zeros(len(scores.sizes), dtype=torch.long)
    starts = [clean, _worst_mean_margins(scores, clean)] + [
        torch.tensor([int(torch.randint(size, (), generator=generator)) for size in scores.sizes])
        for _ in range(num_random_starts)
    ]
    states = [_State(scores, start) for start in starts]
    unchanged = [0] * len(states)  # classes in a row at which a start found nothing better
    for _ in range(MAX_SWEEPS):
        for index in range(len(scores.sizes)):
            active = [place for place, state in enumerate(states) if unchanged[place] < len(state.choices)]
            if not active:
                break
            found = _best_texts(scores, index, [states[place] for place in active])
            for place, better in zip(active, found, strict=True):
                unchanged[place] = 0 if better is not None else unchanged[place] + 1
                if better is not None:
                    states[place].exchange(index, *better)
    best = min(states, key=_State.value)
    return SharedChoice(best.choices, f"coordinate descent from {len(states)} starts")


def _best_texts(scores: ScoreBlocks, index: int, states: list[_State]) -> list[tuple[int, Tensor] | None]:
    """Return for each state the text of class `index` that is worse for the model than its own, with its scores."""
    reached = [state.value() - TOLERANCE for state in states]
    found: list[tuple[int, Tensor] | None] = [None] * len(states)
    if scores.sizes[index] == 1:
        return found
    for start, part in scores.of_pool(index):  # computed once for all starts
        for place, state in enumerate(states):
            harms = state.harms(index, part)
            at = int(harms.argmin())
            if float(harms[at]) < reached[place]:
                reached[place] = float(harms[at])
                found[place] = (start + at, part[:, at].clone())
    return found


def _worst_mean_margins(scores: ScoreBlocks, clean: Tensor) -> Tensor:
    """Return for each class the text of the lowest mean margin while the others are clean, (C,)."""
    state = _State(scores, clean)
    chosen = []
    for index in range(len(clean)):
        means = torch.cat([state.harms(index, part) % 1 for _, part in scores.of_pool(index)])
        chosen.append(int(means.argmin()))
    return torch.tensor(chosen)


def _not_finite_as(scores: Tensor, value: float) -> Tensor:
    """Return the scores with `value` in the place of NaN and infinities; the same tensor where there are none."""
    if bool(scores.sum().isfinite()):  # one pass; a sum of cosines is finite unless one of them is not
        return scores
    return torch.where(scores.isfinite(), scores, value)
