"""BERT-Attack on hand-made encoders and sources: the text that the rule gives, in as few forwards as it takes.

On hand-made masked LM outputs: test_candidates.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hf_mmcoa.attacks.bert_attack import BertAttack
from hf_mmcoa.models.encoder import DualEncoder
from hf_mmcoa.substitutes.synonyms import SynonymTable
from hf_mmcoa.substitutes.vocabulary import HotFlipCandidates, NeighbourCandidates
from hf_mmcoa.substitutes.words import count_changes

TEMPLATE = "This is a photo of a {}"


class Weights:
    """Unit embeddings (cos, sin) of the sum of the words' angles: the farther the sum moves, the larger the KL.

    A word that is not listed counts 0, and so does "[UNK]": a word's importance is its own angle.
    """

    def __init__(self, **angles: float) -> None:
        self.angles = angles
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> torch.Tensor:
        self.calls.append(texts)
        sums = [sum(self.angles.get(word.strip(".,").lower(), 0.0) for word in text.split()) for text in texts]
        return torch.stack([torch.tensor(sums).cos(), torch.tensor(sums).sin()], dim=1)


def proposing(**proposals: str) -> SynonymTable:
    return SynonymTable({word: listed.split() for word, listed in proposals.items()})


def anything(*candidates: str) -> Callable:
    """A source that proposes the same for every word."""
    return lambda texts, words, k: [{index: list(candidates)[:k] for index in indices} for indices in words]


def test_the_most_important_word_takes_the_candidate_of_the_largest_kl():
    encode = Weights(red=0.2, dog=0.5, car=0.1, hound=0.6, puppy=1.4, crimson=3.0)
    attack = BertAttack(candidates=proposing(red="crimson", dog="hound puppy canine", car="auto"))
    # dog moves 0.5 and is first; hound then moves 0.1, puppy 0.9, canine 0.5. "crimson" would move most, unasked.
    assert attack(["A red dog, in a car."], encode) == ["A red puppy, in a car."]


def test_two_calls_of_encode_attack_any_number_of_texts_and_repeated_texts_cost_nothing():
    encode = Weights(red=0.1, dog=0.5, cat=0.6, feline=1.0, hound=1.0)
    texts = ["a red dog", "a red cat", "a red dog", "of the", "a red cat"]
    attack = BertAttack(candidates=proposing(dog="hound canine", cat="feline"))
    assert attack(texts, encode) == ["a red hound", "a red feline", "a red hound", "of the", "a red feline"]
    clean_and_variants, candidates = encode.calls
    assert clean_and_variants == [
        "a red dog", "a red cat", "a [UNK] dog", "a red [UNK]", "a [UNK] cat", "a red [UNK]"
    ]  # fmt: skip
    assert candidates == ["a red hound", "a red canine", "a red feline"]


def test_a_word_without_candidates_passes_its_turn_and_only_such_texts_get_another_round():
    encode = Weights(red=0.1, dog=0.5, cat=0.6, crimson=0.7, feline=1.0)
    asked = []

    def source(texts, words, k):
        asked.append([(text, *indices) for text, indices in zip(texts, words, strict=True)])
        return proposing(red="crimson", cat="feline")(texts, words, k)

    assert BertAttack(candidates=source)(["a red dog", "a red cat"], encode) == ["a crimson dog", "a red feline"]
    assert asked == [[("a red dog", 2), ("a red cat", 2)], [("a red dog", 1)]]
    assert encode.calls[1:] == [["a red feline"], ["a crimson dog"]]


def test_stop_words_and_the_word_itself_are_no_candidates():
    encode = Weights(dog=0.5)
    attack = BertAttack(candidates=anything("The", "DOG", "...", "", "dog!"))
    assert attack(["a dog"], encode) == ["a dog"]
    assert len(encode.calls) == 1


def test_template_words_are_protected_by_place_not_by_spelling():
    encode = Weights(photo=2.0)
    texts = ["This is a photo of a photo", "a photo of a photo"]
    attack = BertAttack(candidates=proposing(photo="snapshot"), template=TEMPLATE)
    # In the first text only the class name may change; the second does not follow the template and has no fixed words.
    assert attack(texts, encode) == ["This is a photo of a snapshot", "a snapshot of a photo"]
    release = BertAttack(candidates=proposing(photo="snapshot"), template=TEMPLATE, protect_template=False)
    assert release(texts[:1], encode) == ["This is a snapshot of a photo"]


def test_a_template_with_a_tail_protects_both_ends():
    attack = BertAttack(candidates=anything("thing"), template="a photo of a {}, a type of food.")
    encode = Weights(photo=1.0, type=0.9, food=0.8, pie=0.1)
    assert attack(["a photo of a pie, a type of food."], encode) == ["a photo of a thing, a type of food."]


def test_class_names_are_forbidden_unless_allowed():
    names = ("cat", "Polar-Bear", "oak_tree", "maple tree")
    encode = Weights(cat=0.1, maple=0.5, oak=1.5, tree=0.2, bear=1.5, tiny=0.3)
    texts = [f"This is a photo of a {name}" for name in ("maple tree", "dog")]
    source = anything("Cat", "oak", "tiny")
    forbidding = BertAttack(candidates=source, template=TEMPLATE, class_names=names)
    assert forbidding(texts, encode) == ["This is a photo of a tiny tree", "This is a photo of a oak"]
    allowing = BertAttack(candidates=source, template=TEMPLATE, class_names=names, forbid_class_names=False)
    assert allowing(texts, encode)[0] == "This is a photo of a oak tree"
    attack = BertAttack(candidates=proposing(brown="polar", cub="bear"), class_names=names)
    texts = ["a brown bear", "a brown dog", "a polar cub", "a white cub"]  # completed from the left, and from the right
    assert attack(texts, Weights(cub=0.1)) == ["a brown bear", "a polar dog", "a polar cub", "a white bear"]


def test_a_class_name_is_not_put_together_by_two_changes():
    encode = Weights(brown=0.1, cub=0.3, bear=1.0, polar=0.5, white=0.2)
    source = proposing(brown="polar white", cub="bear")
    allowed = BertAttack(candidates=source, max_changes=2, class_names=["polar bear"], forbid_class_names=False)
    assert allowed(["a brown cub"], encode) == ["a polar bear"]
    assert BertAttack(candidates=source, max_changes=2, class_names=["polar bear"])(["a brown cub"], encode) == [
        "a white bear"
    ]


def test_a_class_name_that_is_a_stop_word_is_attacked_like_any_other():
    encode = Weights(can=0.1, tin=0.9)
    texts = ["This is a photo of a can"]
    assert BertAttack(candidates=proposing(can="tin"), template=TEMPLATE)(texts, encode) == texts
    attack = BertAttack(candidates=proposing(can="tin"), template=TEMPLATE, class_names=["can", "cup"])
    assert attack(texts, encode) == ["This is a photo of a tin"]


def test_max_changes_bounds_the_changed_words():
    encode = Weights(red=0.2, dog=0.3, car=0.1, crimson=0.5, hound=0.9, auto=0.4)
    source = proposing(red="crimson", dog="hound", car="auto")
    results = [BertAttack(candidates=source, max_changes=n)(["red dog car"], encode) for n in range(4)]
    assert results == [["red dog car"], ["red hound car"], ["crimson hound car"], ["crimson hound auto"]]


def test_a_later_change_is_kept_only_if_the_kl_rises():
    encode = Weights(red=0.2, dog=0.3, hound=0.9, crimson=-0.3)  # crimson would take back what hound gained
    attack = BertAttack(candidates=proposing(red="crimson", dog="hound"), max_changes=2)
    assert attack(["red dog"], encode) == ["red hound"]


def test_a_substitute_of_two_words_shifts_no_later_change():
    encode = Weights(zero=0.3, dog=0.2, goose=0.9, hound=0.6)
    attack = BertAttack(candidates=SynonymTable({"zero": ["goose egg"], "dog": ["hound"]}), max_changes=3)
    assert attack(["a zero, a dog"], encode) == ["a goose egg, a hound"]


MUGS = SynonymTable({"Beer mug": ["stein", "glass krug", "big clay pot"], "mug": ["cup"], "red": ["crimson"]})


def test_a_phrase_and_a_word_in_it_are_both_candidates_and_the_phrase_is_one_change():
    attack = BertAttack(candidates=MUGS, template="a photo of a {}")
    assert attack.variants(["a photo of a beer mug"]) == [
        ["a photo of a beer mug", "a photo of a stein", "a photo of a glass krug", "a photo of a beer cup"]
    ]
    for beer, mug in ((0.5, 0.1), (0.1, 0.5)):  # whichever of its words is visited first
        encode = Weights(beer=beer, mug=mug, stein=2.5, cup=0.3)
        assert attack(["a photo of a beer mug"], encode) == ["a photo of a stein"]
    assert attack(["a photo of a beer mug"], Weights(mug=0.5, stein=0.6, cup=2.0)) == ["a photo of a beer cup"]


def test_words_that_a_substitute_adds_count_and_no_word_changes_twice():
    attack = BertAttack(candidates=MUGS, max_changes=2)
    assert set(attack.variants(["a red beer mug"])[0]) == {
        f"a {red} {mug}" for red in ("red", "crimson") for mug in ("beer mug", "stein", "glass krug", "beer cup")
    } | {"a red big clay pot"}
    encode = Weights(red=0.1, mug=0.4, big=1.5, crimson=0.3)
    assert attack(["a red beer mug"], encode) == ["a red big clay pot"]
    assert BertAttack(candidates=MUGS, max_changes=3)(["a red beer mug"], encode) == ["a crimson big clay pot"]
    three = BertAttack(candidates=SynonymTable({"zero": ["round goose egg", "nil"]}))
    assert three.variants(["a zero"]) == [["a zero", "a nil"]], "three words for one are not one change"


@pytest.mark.parametrize("max_changes", [1, 2, 3, 4])
def test_no_text_exceeds_its_budget_by_an_independent_count(max_changes):
    attack = BertAttack(candidates=MUGS, max_changes=max_changes)
    text = "a red beer mug, a mug"
    assert attack.phrases(text) == [(2, 4)]
    counts = [count_changes(text, each, attack.phrases(text)) for each in attack.variants([text])[0]]
    assert max(counts) == max_changes and counts.count(0) == 1
    (adv_text,) = attack([text], Weights(red=0.2, mug=0.3, stein=0.9, cup=0.8, crimson=0.3))
    assert 0 < count_changes(text, adv_text, attack.phrases(text)) <= max_changes


def test_a_phrase_may_hold_a_stop_word_but_no_word_of_the_template():
    source = SynonymTable({"chest of drawers": ["dresser"], "photo of a chest": ["snapshot"], "a chest": ["box"]})
    attack = BertAttack(candidates=source, template="a photo of a {}")
    assert attack.variants(["a photo of a chest of drawers"])[0][1:] == ["a photo of a dresser"]
    free = BertAttack(candidates=source, template="a photo of a {}", protect_template=False)
    assert len(free.variants(["a photo of a chest of drawers"])[0]) == 4


def test_a_phrase_puts_no_class_name_in_its_place():
    names = ["ice bear", "polar bear", "Beer_Stein"]
    source = SynonymTable({"polar bear": ["ice-bear", "white bear"], "mug": ["stein"], "small ice": ["tiny ice"]})
    attack = BertAttack(candidates=source, class_names=names)
    assert attack.variants(["a polar bear", "a beer mug"]) == [["a polar bear", "a white bear"], ["a beer mug"]]
    assert attack.variants(["a small ice bear"]) == [["a small ice bear"]], "the name beside it stands"


def test_any_source_of_plain_functions_may_propose_phrases_and_words_it_was_not_asked_for_are_ignored():
    def source(texts, words, k):
        return [{0: ["that"], 1: ["hound"], (1, 3): ["pair"], (2, 4): ["trio"]} for _ in texts]

    attack = BertAttack(candidates=source)
    assert attack.variants(["the dog with it"]) == [["the dog with it", "the hound with it", "the pair it"]]


def test_decomposed_texts_names_and_templates_are_attacked_as_composed_ones():
    cafe = "cafe\u0301"
    attack = BertAttack(
        candidates=SynonymTable({cafe: ["bar"], "pub": ["caf\u00e9"], "photo": ["print"]}),
        template=f"{cafe} photo {{}}",
        class_names=[cafe],
    )
    assert attack.variants([f"{cafe} photo {cafe}"]) == [["caf\u00e9 photo caf\u00e9", "caf\u00e9 photo bar"]]
    assert attack([f"{cafe} photo {cafe}"], Weights()) == ["caf\u00e9 photo bar"]
    assert attack.variants(["a pub"]) == [["a pub"]]


@pytest.mark.parametrize("texts", [[], ["of the"], ["", "..."]])
def test_nothing_to_attack_needs_no_encoder(texts):
    encode = Weights()
    assert BertAttack(candidates=anything("thing"))(texts, encode) == texts
    assert not encode.calls
    assert BertAttack(candidates=anything("thing"), max_changes=0)(["a dog"], encode) == ["a dog"]
    assert not encode.calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_candidates": 0}, "`num_candidates` must be at least 1, got 0"),
        ({"max_changes": -1}, "`max_changes` must not be negative, got -1"),
        ({"template": "a photo"}, "exactly one {}"),
        ({"class_names": "cat"}, "got the string 'cat'"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BertAttack(candidates=anything(), **arguments)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: torch.zeros(1, 2), "one row per text"),
        (
            lambda texts: torch.tensor([[1.0, 0.0], [1.0, torch.nan], [1.0, 0.0]]),
            r"non-finite embedding for 'a \[UNK\] dog'",
        ),
    ],
)
def test_a_broken_encoder_is_named(encode, message):
    with pytest.raises(ValueError, match=message):
        BertAttack(candidates=anything("thing"))(["a red dog"], encode)
    with pytest.raises(ValueError, match="got the string"):
        BertAttack(candidates=anything("thing"))("a red dog", encode)


@pytest.mark.parametrize("source", [NeighbourCandidates, HotFlipCandidates])
def test_on_a_clip_the_attack_moves_the_embedding_and_touches_nothing(tiny_clip, tiny_processor, source):
    encoder = DualEncoder(tiny_clip.train(), tiny_processor)
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    texts = ["This is a photo of a cat", "This is a photo of a red car"]
    attack = BertAttack(
        candidates=source(tiny_clip, tiny_processor.tokenizer), template=TEMPLATE, class_names=["cat", "dog", "red car"]
    )
    attacked = attack(texts, encoder.encode_texts)
    assert len(attacked) == 2
    for old, new in zip(texts, attacked, strict=True):
        assert old.split()[:6] == new.split()[:6] and len(old.split()) == len(new.split())
        assert sum(a != b for a, b in zip(old.split(), new.split(), strict=True)) == 1
    assert attacked[0] != "This is a photo of a dog"
    with torch.no_grad():
        assert attack(texts, encoder.encode_texts) == attacked
    assert tiny_clip.training and all(parameter.grad is None for parameter in tiny_clip.parameters())
    assert all(torch.equal(before[name], value) for name, value in tiny_clip.state_dict().items())


def test_repr_is_short_enough_for_a_result_file():
    attack = BertAttack(candidates=proposing(dog="hound"), class_names=["cat"] * 1000)
    assert "class_names" not in repr(attack).split("forbid_class_names")[0]
    assert "SynonymTable(1 words, 1 substitutes" in repr(attack) and len(repr(attack)) < 250
