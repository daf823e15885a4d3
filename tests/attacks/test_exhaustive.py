"""The three text adversaries against a brute force in numpy that imports none of our code but the encoder's call."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.attacks import BertAttack, LevenshteinAttack, SynonymTable, shared_choice
from hf_mmcoa.attacks import exhaustive as exhaustive_module
from hf_mmcoa.attacks.exhaustive import EncodedTexts, Scores, TextRobustness, attack_pools, attack_prompts
from hf_mmcoa.models.encoder import DualEncoder

TABLE = {"cat": ("feline", "small"), "dog": ("hound", "large", "picture"), "car": ("automobile",)}
PROMPTS = ["This is a photo of a cat", "This is a photo of a dog", "This is a photo of a red car"]
POOLS = [
    [prompt, *(prompt.replace(word, substitute) for substitute in TABLE[word])]
    for prompt, word in zip(PROMPTS, TABLE, strict=True)
]


class ReadFrom:
    """An encoder that reads embeddings from a table and counts what it is asked."""

    def __init__(self, embeds: dict[str, list[float]]) -> None:
        self.embeds, self.asked = embeds, []

    def __call__(self, texts: list[str]) -> torch.Tensor:
        self.asked += texts
        return torch.tensor([self.embeds[text] for text in texts])


def unit_vectors(count: int, dim: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


def random_problem(sizes: list[int], samples: int, dim: int = 6, seed: int = 0):
    """Pools of random unit vectors around a centre per class, and images around the same centres."""
    centres = unit_vectors(len(sizes), dim, seed)
    embeds, pools = {}, []
    for index, size in enumerate(sizes):
        texts = [f"class {index} text {number}" for number in range(size)]
        noise = unit_vectors(size, dim, 100 * seed + index + 1)
        vectors = torch.nn.functional.normalize(centres[index] + 0.7 * noise, dim=1)
        embeds.update(zip(texts, vectors.tolist(), strict=True))
        pools.append(texts)
    labels = torch.arange(samples) % len(sizes)
    images = torch.nn.functional.normalize(centres[labels] + 0.5 * unit_vectors(samples, dim, seed + 1000), dim=1)
    return pools, ReadFrom(embeds), images, labels


def brute_force(pools, embed, images, labels):
    """Robust samples under own and all, and the fewest under any shared choice: loops over pools, in float64."""
    images, labels = images.double().numpy(), labels.tolist()
    score = [[images @ np.asarray(embed(text), dtype=np.float64) for text in pool] for pool in pools]
    score = [[column.astype(np.float32) for column in pool] for pool in score]
    own, every = [], []
    for row, label in enumerate(labels):
        mine = min(column[row] for column in score[label])
        others = [k for k in range(len(pools)) if k != label]
        own.append(mine > max(score[k][0][row] for k in others))
        every.append(mine > max(column[row] for k in others for column in score[k]))
    shared = {}
    for choice in itertools.product(*(range(len(pool)) for pool in pools)):
        chosen = [score[k][at] for k, at in enumerate(choice)]
        shared[choice] = [
            all(chosen[label][row] > chosen[k][row] for k in range(len(pools)) if k != label)
            for row, label in enumerate(labels)
        ]
    return own, every, shared


def assert_equals_brute_force(result: TextRobustness, own, every, shared) -> None:
    assert result.own.robust.tolist() == own
    assert result.all.robust.tolist() == every
    assert result.shared.search == "exhaustive"
    assert int(result.shared.robust.sum()) == min(map(sum, shared.values()))
    (choice,) = {tuple(row) for row in result.shared.choices.tolist()}
    assert result.shared.robust.tolist() == shared[choice]


@pytest.mark.parametrize("seed", range(5))
def test_random_pools_equal_a_brute_force(seed: int) -> None:
    pools, encode, images, labels = random_problem([3, 4, 1, 5], samples=60, seed=seed)
    own, every, shared = brute_force(pools, encode.embeds.get, images, labels)
    assert len(set(map(sum, shared.values()))) > 2 and 0 < sum(own) < 60  # the problem asks for something

    assert_equals_brute_force(attack_pools(pools, EncodedTexts(encode), images, labels), own, every, shared)


def test_a_table_on_a_clip_equals_a_brute_force(tiny_clip: CLIPModel, tiny_processor: CLIPProcessor) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    labels = torch.arange(40) % 3
    with torch.no_grad():
        texts = [text for pool in POOLS for text in pool]
        embeds = dict(zip(sorted(texts), encoder.encode_texts(sorted(texts)), strict=True))
        clean = torch.stack([embeds[prompt] for prompt in PROMPTS])
    centred = clean - clean.mean(0)  # an untrained encoder's prompts lie close together
    images = torch.nn.functional.normalize(centred[labels] + 0.1 * unit_vectors(40, 32, 0), dim=1)
    own, every, shared = brute_force(POOLS, lambda text: embeds[text].numpy(), images, labels)
    assert sum(every) <= sum(own) < 40 and len(set(map(sum, shared.values()))) > 2

    result = attack_prompts(BertAttack(candidates=SynonymTable(TABLE)), PROMPTS, encoder.encode_texts, images, labels)

    assert [list(pool) for pool in result.pools] == POOLS
    assert_equals_brute_force(result, own, every, shared)
    assert (result.search, result.num_texts, result.pool_sizes) == ("exhaustive", 9, (3, 4, 2))


def test_the_chosen_texts_are_the_ones_that_decide() -> None:
    pools, encode, images, labels = random_problem([3, 4, 2, 5], samples=60)
    result = attack_pools(pools, EncodedTexts(encode), images, labels)
    for name in ("own", "all", "shared"):
        adversary = getattr(result, name)
        for row, label in enumerate(labels.tolist()):
            prompts = result.prompts(name, row)
            scores = encode(prompts) @ images[row]
            margin = float(scores[label] - max(scores[k] for k in range(4) if k != label))
            assert float(adversary.margins[row]) == pytest.approx(margin, abs=1e-6)
            if name == "own":
                assert [prompt for k, prompt in enumerate(prompts) if k != label] == [
                    pool[0] for k, pool in enumerate(pools) if k != label
                ]
    with pytest.raises(ValueError, match="`adversary`"):
        result.prompts("both", 0)


@pytest.mark.parametrize("seed", range(4))
def test_coordinate_descent_finds_what_all_combinations_hold(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pools, encode, images, labels = random_problem([4, 5, 3, 4, 2], samples=80, seed=seed)
    exact = attack_pools(pools, EncodedTexts(encode), images, labels)
    monkeypatch.setattr(shared_choice, "EXACT_WORK", 0)

    found = attack_pools(pools, EncodedTexts(encode), images, labels, num_random_starts=3)

    clean = attack_pools([pool[:1] for pool in pools], EncodedTexts(encode), images, labels).shared
    assert found.shared.search == "coordinate descent from 5 starts"
    assert int(found.shared.robust.sum()) == int(exact.shared.robust.sum()) < int(clean.robust.sum())
    _, _, shared = brute_force(pools, encode.embeds.get, images, labels)
    assert found.shared.robust.tolist() == shared[tuple(found.shared.choices[0].tolist())]


@pytest.mark.parametrize("exact", [True, False])
def test_robust_under_all_is_robust_under_the_others(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        monkeypatch.setattr(shared_choice, "EXACT_WORK", 0)
    strictly = 0
    for seed in range(6):
        pools, encode, images, labels = random_problem([3, 4, 3], samples=60, seed=seed)
        result = attack_pools(pools, EncodedTexts(encode), images, labels)
        assert not (result.all.robust & ~result.own.robust).any()
        assert not (result.all.robust & ~result.shared.robust).any()
        assert (result.all.margins <= result.own.margins).all() and (result.all.margins <= result.shared.margins).all()
        strictly += int((result.shared.robust & ~result.all.robust).any())
    assert strictly


def test_the_order_holds_whatever_a_block_rounds_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, encode, images, labels = random_problem([2, 1, 1], samples=60)
    of_choices, noise = Scores.of_choices, 0.3 * unit_vectors(60, 3, 7)
    monkeypatch.setattr(Scores, "of_choices", lambda self, choices: of_choices(self, choices) + noise)
    result = attack_pools(pools, EncodedTexts(encode), images, labels)
    assert result.all.robust.any() and not (result.all.robust & ~result.shared.robust).any()


def test_scores_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, encode, images, labels = random_problem([30, 17, 40], samples=50, dim=64)
    whole = attack_pools(pools, EncodedTexts(encode), images, labels)
    monkeypatch.setattr(exhaustive_module, "BLOCK", 50)  # one text at a time
    monkeypatch.setattr(shared_choice, "BLOCK", 5000)
    parts = attack_pools(pools, EncodedTexts(encode, batch_size=7), images, labels)
    for name in ("own", "all", "shared"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert torch.equal(one.robust, other.robust) and torch.equal(one.margins, other.margins)
        assert torch.equal(one.choices, other.choices)


def test_every_text_is_encoded_once() -> None:
    pools, encode, images, labels = random_problem([3, 4, 2], samples=12)
    pools = [[*pool, pool[1], pools[1][2]] for pool in pools]  # repeated in a pool, and in all of them
    result = attack_pools(pools, EncodedTexts(encode, batch_size=4), images, labels)
    assert len(encode.asked) == len(set(encode.asked)) == result.num_texts == 9
    assert result.pool_sizes == (4, 4, 3)


def test_a_tie_is_a_misclassification() -> None:
    a, b, between = [1.0, 0.0], [0.0, 1.0], [math.sqrt(0.5)] * 2
    images, labels = torch.tensor([a, b]), torch.tensor([0, 1])
    tied = attack_pools([["a"], ["b"]], EncodedTexts(ReadFrom({"a": between, "b": between})), images, labels)
    assert not any(getattr(tied, name).robust.any() for name in ("own", "all", "shared"))

    encode = ReadFrom({"a": a, "b": b, "both": between})
    shared_text = attack_pools([["a", "both"], ["b", "both"]], EncodedTexts(encode), images, labels)
    assert shared_text.own.robust.all() and not shared_text.all.robust.any()


def test_a_text_in_two_pools_ties_with_itself_in_any_block() -> None:
    pools, encode, images, labels = random_problem([9, 40], samples=300, dim=511)
    common = pools[0][5]
    result = attack_pools([[pools[0][0], common], [*pools[1], common]], EncodedTexts(encode), images, labels)
    assert not result.all.robust.any() and (result.all.margins <= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_misclassifications(value: float) -> None:
    images, labels = torch.eye(3), torch.tensor([0, 1, 2])
    encode = ReadFrom({"a": [1.0, 0, 0], "b": [0, 1.0, 0], "c": [0, 0, 1.0], "broken": [value, value, value]})
    own = attack_pools([["a", "broken"], ["b"], ["c"]], EncodedTexts(encode), images, labels)
    assert own.own.robust.tolist() == [False, True, True]
    assert not own.all.robust.any() and not own.shared.robust.any()

    images[0] = value
    broken_image = attack_pools([["a"], ["b"], ["c"]], EncodedTexts(encode), images, labels)
    for name in ("own", "all", "shared"):
        assert getattr(broken_image, name).robust.tolist() == [False, True, True]


def test_characters_fall_back_to_a_beam_and_say_so(tiny_clip: CLIPModel, tiny_processor: CLIPProcessor) -> None:
    encoder = DualEncoder(tiny_clip, tiny_processor)
    prompts = ["a cat", "a dog", "red car"]
    images, labels = unit_vectors(12, 32, 0), torch.arange(12) % 3
    attack = {edits: LevenshteinAttack(max_edits=edits, alphabet="xyz") for edits in (1, 2)}

    one, full = (attack_prompts(attack[k], prompts, encoder.encode_texts, images, labels) for k in (1, 2))
    beam = attack_prompts(
        attack[2], prompts, encoder.encode_texts, images, labels, max_texts=sum(full.pool_sizes) - 1, beam_width=4
    )

    assert (one.search, full.search, beam.search) == ("exhaustive", "exhaustive", "beam of 4 texts")
    for small, large, whole in zip(one.pools, beam.pools, full.pools, strict=True):
        assert set(small) < set(large) < set(whole)
    assert (full.all.margins <= beam.all.margins).all() and (beam.all.margins <= one.all.margins).all()
    gap = (one.all.margins - full.all.margins).mean()
    assert (one.all.margins - beam.all.margins).mean() > 0.5 * gap > 0  # most of what the second edit is worth
    assert beam.num_texts == len({text for pool in beam.pools for text in pool})


def test_wrong_input_is_refused() -> None:
    pools, encode, images, labels = random_problem([2, 2], samples=4)
    for arguments, message in (
        ((pools[:1], images, labels), "at least two classes"),
        ((pools, images[:0], labels[:0]), "not empty"),
        ((pools, images, labels[:2]), "one per image"),
        ((pools, images, labels + 1), r"`labels` must lie in \[0, 2\), got 1 to 2"),
        (([pools[0], []], images, labels), "the pool of class 1 is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            attack_pools(arguments[0], EncodedTexts(encode), *arguments[1:])
    with pytest.raises(ValueError, match="one row per text"):
        attack_pools(pools, EncodedTexts(lambda texts: torch.ones(1, 2)), images, labels)
    with pytest.raises(ValueError, match="`num_random_starts`"):
        attack_pools(pools, EncodedTexts(encode), images, labels, num_random_starts=-1)
