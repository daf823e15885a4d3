from __future__ import annotations

import pytest

from hf_mmcoa.evaluation.attack_names import AttackName, worst_case_attacks


@pytest.mark.parametrize(
    "name",
    [
        "clean",
        "image/pgd-ce",
        "image/mine: of/slashes",
        "text/words/own",
        "text/words/own:unseen",
        "multimodal/sga/own",
    ],
)
def test_a_name_is_the_sum_of_its_parts(name):
    assert str(AttackName.parse(name)) == name


def test_the_ceiling_covers_every_adversary_and_the_others_only_themselves():
    attacks = ["clean", "image/pgd-ce"]
    attacks += [f"text/words/{adversary}{end}" for adversary in ("blind", "shared", "own", "all") for end in ("", ":x")]
    attacks += ["text/characters/own", "multimodal/independent/own", "multimodal/independent/all:x"]
    groups = worst_case_attacks(attacks)
    assert groups["text_own_accuracy"] == ["clean", "text/words/own", "text/characters/own"]
    assert groups["text_own_x_accuracy"] == ["clean", "text/words/own:x", "text/characters/own"]
    assert groups["text_shared_accuracy"] == ["clean", "text/words/shared"]
    every = [f"text/words/{adversary}" for adversary in ("blind", "shared", "own", "all")]
    assert groups["text_all_accuracy"] == groups["text_accuracy"] == ["clean", *every, "text/characters/own"]
    assert groups["multimodal_own_accuracy"] == [
        "clean",
        "image/pgd-ce",
        "text/words/own",
        "text/characters/own",
        "multimodal/independent/own",
    ]
    assert "multimodal_shared_accuracy" not in groups  # no such attack was run on both
    assert groups["worst_case_accuracy"] == attacks
