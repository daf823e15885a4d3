"""The vote is the exact one, its attacks are the exhaustive ones, and the certificate holds and is not empty."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from hf_mmcoa.attacks.prompt_pools import PromptPools
from hf_mmcoa.defences import SmoothedPools

CLASSES, PER_CLASS, DIM = 3, 4, 4


def random_problem(seed: int, known: int = PER_CLASS):
    """Texts "k:i" of three classes with random embeddings; sets are overlapping windows of neighbours."""
    draw = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(CLASSES, DIM, generator=draw), dim=-1)
    pools = [[f"{own}:{at}" for at in range(PER_CLASS)] for own in range(CLASSES)]
    vectors = {
        text: F.normalize(centres[own] + 0.5 * torch.randn(DIM, generator=draw), dim=0)
        for own, pool in enumerate(pools)
        for text in pool
    }
    sets = {pool[at]: [pool[(at + step) % known] for step in range(3)] for pool in pools for at in range(known)}
    labels = torch.randint(CLASSES, (30,), generator=draw)
    images = F.normalize(centres[labels] + 0.3 * torch.randn(30, DIM, generator=draw), dim=-1)
    return pools, lambda texts: torch.stack([vectors[text] for text in texts]), sets, images, labels


def votes_by_enumeration(texts, encode, sets, images):
    """The votes over every combination of synonyms, one after the other."""
    drawn = list(itertools.product(*(sets.get(text, [text]) for text in texts)))
    won = torch.zeros(len(images), len(texts), dtype=torch.double)
    for combination in drawn:
        scores = images.double() @ encode(list(combination)).double().T
        best, second = scores.topk(2, dim=1).values.T
        won[torch.arange(len(images)), scores.argmax(1)] += (best > second).double()
    return won / len(drawn)


@pytest.mark.parametrize("seed", range(2))
def test_votes_are_those_of_all_combinations(seed):
    pools, encode, sets, images, _ = random_problem(seed)
    found = SmoothedPools(pools, encode, sets).votes(images)
    torch.testing.assert_close(found, votes_by_enumeration([pool[0] for pool in pools], encode, sets, images))


@pytest.mark.parametrize(("seed", "known"), [(0, 4), (1, 4), (2, 3)])
def test_certified_is_never_above_what_brute_force_leaves(seed, known):
    pools, encode, sets, images, labels = random_problem(seed, known)
    smoothed = SmoothedPools(pools, encode, sets)
    column = labels.unsqueeze(1)

    def stands(texts):
        votes = votes_by_enumeration(texts, encode, sets, images)
        return votes.gather(1, column).squeeze(1) > votes.scatter(1, column, -1).amax(1) + 1e-9

    clean = [pool[0] for pool in pools]
    own = torch.ones(len(images), dtype=torch.bool)
    for index, pool in enumerate(pools):
        for text in pool:
            own &= stands([*clean[:index], text, *clean[index + 1 :]]) | (labels != index)
    every = torch.stack([stands(texts) for texts in itertools.product(*pools)]).all(0)
    assert torch.equal(smoothed.correct(images, labels, others=False), own)
    assert torch.equal(smoothed.correct(images, labels, others=True), every)  # the search finds the worst here
    for others, brute in ((False, own), (True, every)):
        assert not (smoothed.certified(images, labels, others=others) & ~brute).any()
    if known == PER_CLASS:  # windows of 3 of 4 share 2 of 3
        assert smoothed.distances == pytest.approx([1 / 3] * CLASSES)
        assert 0 < smoothed.certified(images, labels, others=False).sum() <= own.sum() < len(images)
    else:  # one text has no set
        assert smoothed.distances == [1.0] * CLASSES and not smoothed.certified(images, labels, others=False).any()


def test_a_worked_example_is_certified_where_the_plain_classifier_falls():
    """Three of four synonyms of class 0 are near the image; the vote stands under all, the plain prompt does not."""
    vectors = {"a": [1.0, 0], "b": [1.0, 0], "c": [1.0, 0], "d": [0, 1.0], "other": [0.8, 0.6]}
    pools, one = [["a", "b", "c", "d"], ["other"]], torch.tensor([[1.0, 0.0]])
    label = torch.tensor([0])

    def encode(texts):
        return torch.tensor([vectors[text] for text in texts])

    smoothed = SmoothedPools(pools, encode, dict.fromkeys("abcd", "abcd"))
    assert smoothed.votes(one).tolist() == [[0.75, 0.25]] and smoothed.distances == [0.0, 0.0]
    assert smoothed.certified(one, label, others=False) and smoothed.certified(one, label, others=True)
    assert not PromptPools(pools, encode).correct(one, label, others=False)
    # Two synonyms of four apart: a lead of 1/2 is not more than 2 * 1/2.
    apart = SmoothedPools(pools, encode, {**dict.fromkeys("abd", "abcd"), "c": "cd"})
    assert apart.distances[0] == 0.5 and not apart.certified(one, label, others=False)


def test_a_draw_is_lost():
    vectors = {"a": [1.0, 0], "b": [0, 1.0], "other": [0.6, 0.8]}
    smoothed = SmoothedPools(
        [["a"], ["other"]], lambda texts: torch.tensor([vectors[text] for text in texts]), {"a": ["a", "b"]}
    )
    image, label = torch.tensor([[0.8, 0.6]]), torch.tensor([0])  # cosines 0.8, 0.6 and 0.96
    assert smoothed.votes(image).tolist() == [[0.0, 1.0]]
    image = torch.tensor([[1.0, 0.0]])  # 1, 0 and 0.6: half each
    assert smoothed.votes(image).tolist() == [[0.5, 0.5]]
    assert not smoothed.correct(image, label, others=False) and not smoothed.certified(image, label, others=False)


def test_an_empty_pool_or_set_is_refused():
    with pytest.raises(ValueError, match="a pool holds at least its clean prompt"):
        SmoothedPools([["a"], []], lambda texts: torch.eye(len(texts)), {})
    with pytest.raises(ValueError, match="a set at least one text"):
        SmoothedPools([["a"]], lambda texts: torch.eye(len(texts)), {"a": []})
