"""How many texts there are, the limit on them, and pools that say something is wrong."""

from __future__ import annotations

import itertools
import string
import warnings

import pytest
import torch

from hf_mmcoa.attacks import BertAttack, LevenshteinAttack, SynonymTable
from hf_mmcoa.attacks.enumeration import LegalTexts, count_texts, legal_texts, unused_keys

LETTERS = string.ascii_lowercase
HUNDRED = ["".join(letters) for letters in itertools.product("bcdfg", "aeiou", "lmns")]


def one_edit(text: str, alphabet: str) -> set[str]:
    """All strings within one edit, by the definition."""
    found = {text} | {text[:at] + text[at + 1 :] for at in range(len(text))}
    for letter in alphabet:
        found |= {text[:at] + letter + text[at:] for at in range(len(text) + 1)}
        found |= {text[:at] + letter + text[at + 1 :] for at in range(len(text))}
    return found


def table(words: dict[str, tuple[str, ...]], **settings) -> BertAttack:
    return BertAttack(candidates=SynonymTable(words), **settings)


def longest(index: int, texts: list[str]) -> torch.Tensor:
    return torch.tensor([[float(len(text)) for text in texts]])


def findings(legal: LegalTexts) -> dict[str, tuple[bool | None, str]]:
    return {each["check"].removeprefix("legal texts: "): (each["passed"], each["detail"]) for each in legal.findings}


def test_one_edit_strings_of_a_hundred_prompts_are_all_there_and_counted_before() -> None:
    assert len(set(HUNDRED)) == 100
    prompts = [f"a photo of a {name}" for name in HUNDRED]
    attack = LevenshteinAttack(alphabet=LETTERS)

    legal = legal_texts(attack, prompts)

    assert legal.search == "exhaustive"
    for prompt, pool in zip(prompts, legal.pools, strict=True):
        # 16 characters: 17 places for 26 letters less one repetition per letter, 16 substitutions, and deletions, of
        # which equal neighbours give one.
        letters = sum(letter.isalpha() for letter in prompt)
        runs = 1 + sum(one != other for one, other in itertools.pairwise(prompt))
        assert len(prompt) == 16
        whole = 1 + (17 * 26 - letters) + (16 * 26 - letters) + runs
        others = {other for other in prompts if other != prompt}
        assert len(one_edit(prompt, LETTERS)) == whole
        assert pool[0] == prompt and len(set(pool)) == len(pool)
        assert set(pool) == one_edit(prompt, LETTERS) - others
    bound = count_texts(attack, prompts)
    assert bound == 100 * (1 + 17 * 26 + 16 * 26 + 16)
    assert sum(map(len, legal.pools)) <= bound <= 1.05 * sum(map(len, legal.pools))


@pytest.mark.parametrize("edits", [2, 3])
def test_several_edits_are_all_listed_where_they_fit(edits: int) -> None:
    prompts = ["cat", "an ox"]
    attack = LevenshteinAttack(max_edits=edits, alphabet="aq")
    expected = []
    for prompt in prompts:
        reached = {prompt}
        for _ in range(edits):
            reached |= {each for text in reached for each in one_edit(text, "aq")}
        expected.append(reached)

    legal = legal_texts(attack, prompts)

    assert legal.search == "exhaustive"
    assert list(map(set, legal.pools)) == expected
    assert sum(map(len, expected)) <= count_texts(attack, prompts)


def test_a_forbidden_word_may_lie_on_the_way() -> None:
    attack = LevenshteinAttack(max_edits=2, alphabet="rd", dictionary=frozenset({"car"}))
    (pool,) = legal_texts(attack, ["cat"]).pools
    assert "car" not in pool and "card" in pool  # from "car", or from "catd"
    everything = set(legal_texts(LevenshteinAttack(max_edits=2, alphabet="rd"), ["cat"]).pools[0])
    assert set(pool) == everything - {"car"}
    ways = {"car", "catd", "cad", "cart"}  # all that lie between "cat" and "card"
    attack = LevenshteinAttack(max_edits=2, alphabet="rd", dictionary=frozenset(ways))
    assert set(legal_texts(attack, ["cat"]).pools[0]) == everything - ways


def test_two_words_are_listed_where_they_fit_and_as_many_as_predicted() -> None:
    words = {"small": ("tiny", "little"), "black": ("dark",), "cat": ("feline", "kitty", "puss")}
    attack = table(words, max_changes=2, num_candidates=2)
    legal = legal_texts(attack, ["small black cat", "a car"])
    assert legal.search == "exhaustive"
    assert list(map(len, legal.pools)) == [1 + (2 + 1 + 2) + (2 * 1 + 2 * 2 + 1 * 2), 1]
    assert count_texts(attack, ["small black cat", "a car"]) == 15
    assert [list(pool) for pool in legal.pools] == attack.variants(["small black cat", "a car"])


def test_a_beam_goes_on_from_the_texts_of_most_harm() -> None:
    words = {"small": ("tiny", "minuscule"), "black": ("dark", "jet"), "cat": ("feline", "puss")}
    attack = table(words, max_changes=2)
    legal = legal_texts(attack, ["small black cat"], max_texts=18, harm=longest, beam_width=1)
    assert legal.search == "beam of 1 texts"
    one = {"tiny black cat", "minuscule black cat", "small dark cat", "small jet cat", "small black feline"}
    two = {f"minuscule {rest}" for rest in ("dark cat", "jet cat", "black feline", "black puss")}
    assert set(legal.pools[0]) == {"small black cat", "small black puss"} | one | two
    characters = LevenshteinAttack(max_edits=2, alphabet="ab")
    assert legal_texts(characters, ["cat", "dog"], max_texts=150, harm=longest).search == "beam of 2 texts"


def test_a_beam_never_exceeds_the_limit() -> None:
    for max_texts in (84, 100, 200, 300):
        legal = legal_texts(LevenshteinAttack(max_edits=3, alphabet="ab"), ["cats"], max_texts=max_texts, harm=longest)
        assert legal.search.startswith("beam") and sum(map(len, legal.pools)) <= max_texts
        assert max(map(len, legal.pools[0])) == 7  # three insertions


@pytest.mark.parametrize("harm", [None, longest])
def test_too_many_texts_are_named_with_the_way_out(harm) -> None:
    attack = LevenshteinAttack(max_edits=2, alphabet=LETTERS)
    number = count_texts(attack, ["a photo of a cat"])
    with pytest.raises(ValueError, match=rf"with 2 changes has up to {number:,} legal texts.*raise `max_texts`"):
        legal_texts(attack, ["a photo of a cat"], max_texts=1000, harm=harm)
    with pytest.raises(ValueError, match=r"One change has 875.*`harm`"):
        legal_texts(attack, ["a photo of a cat"], max_texts=100_000)
    with pytest.raises(ValueError, match="`max_texts` is 500"):
        legal_texts(LevenshteinAttack(alphabet=LETTERS), ["a photo of a cat"], max_texts=500, harm=harm)


def test_an_unknown_attack_is_counted_after_it_listed() -> None:
    class Upper:
        def __call__(self, texts, encode):
            return list(texts)

        def variants(self, texts):
            return [[text, text + "!", text + "!"] for text in texts]

    assert legal_texts(Upper(), ["a", "b"]).pools == (("a", "a!"), ("b", "b!"))
    with pytest.raises(ValueError, match="has 6 legal texts"):
        legal_texts(Upper(), ["a", "b"], max_texts=5)
    with pytest.raises(TypeError, match="Upper cannot be predicted"):
        count_texts(Upper(), ["a"])


def test_keys_in_no_prompt_are_named() -> None:
    prompts = ["a photo of a Cat", "a photo of a beer mug"]
    assert unused_keys(["cat", "mug", "beer mug", "dog", "photo of", "at", "Beer-Mug"], prompts) == ["dog", "at"]
    with pytest.warns(UserWarning, match="1 of 2 keys of the candidate table occur in no prompt.*'dog'"):
        legal = legal_texts(table({"cat": ("feline",), "dog": ("hound",)}), prompts)
    assert findings(legal)["every key of the table occurs in a prompt"] == (False, "in no prompt: 'dog'")


def test_phrases_and_what_they_cost_are_predicted_and_listed() -> None:
    words = {"beer mug": ("stein", "big clay pot"), "mug": ("cup",), "red": ("crimson", "dark red")}
    for changes in (1, 2, 3):
        attack = table(words, max_changes=changes)
        (pool,) = legal_texts(attack, ["a red beer mug"]).pools
        assert list(pool) == attack.variants(["a red beer mug"])[0]
        # An upper bound: it also counts "beer mug" and "mug" changed together, which overlap.
        assert len(pool) <= count_texts(attack, ["a red beer mug"]) <= 2 * len(pool)
    assert count_texts(table(words), ["a red beer mug"]) == 4, "a text of each substitute that costs one change"


def test_a_beam_over_phrases_stays_within_limit_and_budget() -> None:
    words = {
        "beer mug": ("stein", "big clay pot"),
        "mug": ("cup",),
        "red": ("crimson", "scarlet", "ruby", "cherry"),
        "small": ("tiny", "minute", "little", "wee"),
    }
    attack = table(words, max_changes=2)
    legal = legal_texts(attack, ["a small red beer mug"], max_texts=30, harm=longest, beam_width=1)
    assert legal.search == "beam of 1 texts" and len(legal.pools[0]) <= 30
    assert set(legal.pools[0]) < set(attack.variants(["a small red beer mug"])[0])


def test_a_class_whose_every_candidate_is_another_class_is_named() -> None:
    attack = table({"cat": ("dog",), "dog": ("hound",)}, class_names=["cat", "dog"])
    legal = legal_texts(attack, ["a cat", "a dog"])
    assert legal.pools == (("a cat",), ("a dog", "a hound"))
    passed, detail = findings(legal)["not every candidate names a class"]
    assert passed is False and detail.startswith("all candidates of 'a cat' name a class")


def test_candidates_too_long_for_the_budget_are_named() -> None:
    words = {"zero": ("goose egg", "nil"), "one": ("a single thing",)}
    found = findings(legal_texts(table(words), ["a zero", "a one"]))
    assert found["every candidate fits the budget"] == (
        None,
        "dropped, as they add more words than `max_changes` 1 allows: 'goose egg', 'a single thing'",
    )
    assert found["every class has a candidate text"][0] is None
    assert findings(legal_texts(table(words, max_changes=3), ["a zero", "a one"])) == {}


def test_a_decomposed_prompt_and_key_are_the_composed_ones() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        legal = legal_texts(table({"caf\u00e9": ("bar",)}), ["a cafe\u0301"])
    assert legal.pools == (("a caf\u00e9", "a bar"),)


def test_nothing_odd_gives_no_finding() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        legal = legal_texts(table({"cat": ("feline",), "dog": ("hound",)}), ["a cat", "a dog"])
    assert legal.findings == ()


def test_a_text_that_is_another_class_is_left_out_and_named() -> None:
    attack = table({"cat": ("dog",), "dog": ("hound", "CAT")}, forbid_class_names=False)
    legal = legal_texts(attack, ["a cat", "a dog"])
    assert legal.pools == (("a cat",), ("a dog", "a hound"))
    passed, detail = findings(legal)["no text is another class's prompt"]
    assert passed is False and detail.startswith("2 texts are") and detail.endswith("nothing else is left for 'a cat'")


def test_no_candidate_for_any_class_is_a_failed_check() -> None:
    with pytest.warns(UserWarning, match="occur in no prompt"):
        legal = legal_texts(table({"zebra": ("horse",)}), ["a cat", "a dog"])
    passed, detail = findings(legal)["every class has a candidate text"]
    assert passed is False and "says nothing on robustness" in detail

    some = legal_texts(table({"cat": ("feline",)}), ["a cat", "a dog"])
    assert findings(some)["every class has a candidate text"] == (
        None,
        "1 of 2 classes have none and cannot be attacked: 'a dog'",
    )


def test_a_text_of_two_classes_is_named_and_can_be_left_out() -> None:
    attack = LevenshteinAttack(alphabet="r")
    legal = legal_texts(attack, ["cat", "car"])  # "ca", "cart" lie in both; "car" is the other's prompt
    assert "ca" in legal.pools[0] and "ca" in legal.pools[1] and "car" not in legal.pools[0]
    passed, detail = findings(legal)["no text belongs to two classes"]
    assert passed is None and "'ca'" in detail and "robust under `all`" in detail
    apart = legal_texts(attack, ["cat", "car"], drop_shared=True)
    assert not set(apart.pools[0]) & set(apart.pools[1])


@pytest.mark.parametrize(("name", "value"), [("max_texts", 0), ("beam_width", 0)])
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        legal_texts(LevenshteinAttack(), ["a cat"], **{name: value})
    with pytest.raises(ValueError, match="`prompts`"):
        legal_texts(LevenshteinAttack(), "a cat")
