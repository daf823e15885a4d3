"""Randomised smoothing of class prompts over synonyms, with its certificate (SAFER, arXiv:2005.14424).

SAFER samples the vote. Here sets of synonyms are short and the classes are drawn independently, so it is computed: the
probability that a class wins is a sum over its own synonyms of a product over the other classes. docs/methods.md,
section 10, has the equations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..attacks.contracts import TextEncoder

SAME = 1e-9  # votes that differ by less are a draw: sums in float64 are off by less
PASSES = 5  # of the search for `all`
BLOCK = 64  # images at a time


class SmoothedPools:
    """Classify images by a vote over the synonyms of every class prompt, and attack and certify the vote.

    Every prompt is replaced by a text drawn uniformly from its set, each class apart; the class that most often has the
    nearest prompt wins. A text without a set is read as it is. A draw is a misclassification.

    Args:
        texts: what the attacker may write for each class, the clean prompt first, C pools.
        encode: texts to unit embeddings, (texts, dim).
        sets: what a known text may be replaced by, all equally likely, as of `synonym_sets`.

    Raises:
        ValueError: if a pool or a set is empty.

    Example:
        >>> pools = SmoothedPools(pools, encoder.encode_texts, synonym_sets(prompts, known))  # doctest: +SKIP
        >>> pools.certified(image_embeds, labels, others=False).double().mean()  # doctest: +SKIP
    """

    def __init__(self, texts: Sequence[Sequence[str]], encode: TextEncoder, sets: Mapping[str, Sequence[str]]) -> None:
        if not all(texts) or not all(sets.values()):
            raise ValueError("`texts` and `sets`: a pool holds at least its clean prompt, and a set at least one text.")
        # Texts that are replaced by the same ones are one choice of the attacker.
        self._sets = [list(dict.fromkeys(frozenset(sets.get(text, (text,))) for text in pool)) for pool in texts]
        distinct = sorted(set[str]().union(*(one for pool in self._sets for one in pool)))
        row_of = {text: row for row, text in enumerate(distinct)}
        with torch.no_grad():
            self._embeds = encode(distinct).double()
        self._rows = [[torch.tensor(sorted(row_of[text] for text in one)) for one in pool] for pool in self._sets]

    def votes(self, image_embeds: Tensor) -> Tensor:
        """Return the share of the vote that each class has with the clean prompts, (images, C).

        The rest to 1 are ties, which no class wins.

        Args:
            image_embeds: unit embeddings, (images, dim).
        """
        parts = [self._votes(*self._chosen(scores, self._clean(scores))) for scores in self._blocks(image_embeds)]
        return torch.cat(parts)

    def correct(self, image_embeds: Tensor, labels: Tensor, others: bool) -> Tensor:
        """Return which images are classified correctly under every choice of texts that was tried, (images,).

        Args:
            image_embeds: unit embeddings, (images, dim).
            labels: own classes, (images,).
            others: attack the other classes' prompts too. Without, all choices are tried. With, the classes interact in
                the vote, and they are exchanged one after the other: the true number may be lower.
        """
        stands = torch.zeros(len(labels), dtype=torch.bool)
        for label in labels.unique().tolist():
            rows = (labels == label).nonzero().squeeze(1)
            parts = [self._stands(scores, label, others) for scores in self._blocks(image_embeds[rows])]
            stands[rows] = torch.cat(parts)
        return stands

    def certified(self, image_embeds: Tensor, labels: Tensor, others: bool) -> Tensor:
        """Return which images are proven to be classified correctly under every choice of texts, (images,).

        The lead of the own class over the next is compared with twice the `distance`: no attack is run.

        Args:
            image_embeds: unit embeddings, (images, dim).
            labels: own classes, (images,).
            others: prove it for attacks on the other classes' prompts too.
        """
        lead = _lead(self.votes(image_embeds), labels)
        distances = torch.tensor(self.distances, dtype=torch.double)
        distance = 1 - (1 - distances).prod() if others else distances[labels]
        return lead > 2 * distance + SAME

    @property
    def distances(self) -> list[float]:
        """Return for each class how far, in total variation, a text of its pool can move what is drawn, in [0, 1].

        It is 1 where the attacker may write a text that shares no synonym with the clean prompt.
        """
        return [max(_total_variation(pool[0], one) for one in pool) for pool in self._sets]

    def _blocks(self, image_embeds: Tensor) -> Iterable[Tensor]:
        """Yield the cosines of some images with all texts, (block, texts)."""
        for part in image_embeds.detach().double().split(BLOCK):
            yield part @ self._embeds.T

    def _clean(self, scores: Tensor) -> Tensor:
        return torch.zeros(len(scores), len(self._rows), dtype=torch.long)

    def _chosen(self, scores: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines that may be drawn for each class, and how likely each is, (images, C, longest) twice."""
        longest = max(len(rows) for pool in self._rows for rows in pool)
        drawn = scores.new_zeros(*choices.shape, longest)
        weights = torch.zeros_like(drawn)
        for index, pool in enumerate(self._rows):
            for at in choices[:, index].unique().tolist():
                images = choices[:, index] == at
                drawn[images, index, : len(pool[at])] = scores[images][:, pool[at]]
                weights[images, index, : len(pool[at])] = 1 / len(pool[at])
        return drawn, weights

    def _votes(self, drawn: Tensor, weights: Tensor) -> Tensor:
        wins = [
            (weights[:, index] * self._above(drawn[:, index], drawn, weights, {index})).sum(1)
            for index in range(drawn.shape[1])
        ]
        return torch.stack(wins, dim=1)

    @staticmethod
    def _above(values: Tensor, drawn: Tensor, weights: Tensor, without: set[int]) -> Tensor:
        """Return how likely a cosine is above those drawn for all classes but some, (images, values)."""
        likely = torch.ones_like(values)
        for index in set(range(drawn.shape[1])) - without:
            below = drawn[:, None, index] < values.unsqueeze(-1)  # (images, values, longest)
            likely *= (below * weights[:, None, index]).sum(-1)
        return likely

    def _stands(self, scores: Tensor, label: int, others: bool) -> Tensor:
        """Return which images of one class stand, (images,)."""
        stands = self._exchange(scores, self._clean(scores), label, label)[1] < -SAME
        if not others:
            return stands
        for start in (self._clean, partial(self._worst_means, label=label)):
            left = stands.nonzero().squeeze(1)  # who has fallen is not attacked again
            stands[left] = self._search(scores[left], start(scores[left]), label) < -SAME
        return stands

    def _search(self, scores: Tensor, choices: Tensor, label: int) -> Tensor:
        """Return the worst harm that exchanges of one class's text after the other find, (images,)."""
        harm = torch.full((len(scores),), -torch.inf, dtype=torch.double)
        for _ in range(PASSES if len(scores) else 0):
            before = harm
            for index in range(len(self._rows)):
                choices[:, index], harm = self._exchange(scores, choices, index, label)
            if torch.equal(before, harm):
                break
        return harm

    def _worst_means(self, scores: Tensor, label: int) -> Tensor:
        """Return the choice of the lowest mean cosine for the own class and of the highest for all others."""
        means = [torch.stack([scores[:, rows].mean(1) for rows in pool], dim=1) for pool in self._rows]
        return torch.stack([(-m if index == label else m).argmax(1) for index, m in enumerate(means)], dim=1)

    def _exchange(self, scores: Tensor, choices: Tensor, index: int, label: int) -> tuple[Tensor, Tensor]:
        """Return the worst choice for one class, and another class's highest vote less the own one's, (images,)."""
        drawn, weights = self._chosen(scores, choices)
        rows = torch.cat(self._rows[index]).unique()
        values = scores[:, rows]  # what may be drawn for this class, (images, values)
        votes = torch.zeros(*values.shape, drawn.shape[1], dtype=torch.double)  # given that this value is drawn
        votes[..., index] = self._above(values, drawn, weights, {index})
        for other in set(range(drawn.shape[1])) - {index}:
            likely = weights[:, other] * self._above(drawn[:, other], drawn, weights, {index, other})
            beats = drawn[:, None, other] > values.unsqueeze(-1)
            votes[..., other] = (beats * likely.unsqueeze(1)).sum(-1)
        sizes = torch.tensor([len(each) for each in self._rows[index]])
        owner = torch.arange(len(sizes)).repeat_interleave(sizes)
        places = torch.searchsorted(rows, torch.cat(self._rows[index]))
        of_sets = votes.new_zeros(len(votes), len(sizes), votes.shape[2])  # (images, choices, C)
        of_sets.index_add_(1, owner, votes[:, places] / sizes[owner, None])
        harm = -_lead(of_sets, torch.full(of_sets.shape[:2], label))
        worst, at = harm.max(1)
        return at, worst


def _lead(votes: Tensor, labels: Tensor) -> Tensor:
    """Return the own class's vote less the highest other one."""
    own = votes.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return own - votes.scatter(-1, labels.unsqueeze(-1), -torch.inf).amax(-1)


def _total_variation(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the distance between two uniform distributions: the mass that they do not share."""
    return 1 - len(one & other) / max(len(one), len(other))
