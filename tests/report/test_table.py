"""The table says what the results say."""

from __future__ import annotations

import pytest
from result_dicts import OUTCOMES, make_result

from hf_mmcoa.evaluation import ThreatModel
from hf_mmcoa.report.table import accuracies, describe, estimate, markdown_table, robustness_table


def test_numbers_and_intervals_are_those_of_the_results():
    lines = robustness_table(
        {"before": make_result(), "after": make_result({**OUTCOMES, "image/pgd-ce": "1" * 9 + "0"})}
    ).split("\n")
    assert lines[0].split() == ["before", "after"]
    # Wilson, 4 of 10 and 9 of 10, z = 1.96: (0.4 + 0.192) / 1.384 -+ 0.260 and so on.
    assert lines[2].split() == ["image", "40.0", "[16.8,", "68.7]", "90.0", "[59.6,", "98.2]"]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_rows_stand_in_reading_order_and_name_the_substitutes():
    more = {
        **OUTCOMES,
        "text/words:unseen": "1000000000",
        "multimodal/independent:unseen": "0" * 10,
        "text/embedding": "1" * 10,
    }
    labels = accuracies([make_result(more)])
    assert list(labels.values()) == [
        *("clean", "image", "text (known)", "text (unseen)", "text embedding"),
        *("multimodal (known)", "multimodal (unseen)", "worst case"),
    ]
    named = make_result(more, candidates={"WordNet": "a", "unseen": "b"})
    assert accuracies([named])["text_accuracy"] == "text (WordNet)"


def test_several_results_give_their_mean_and_a_t_interval():
    results = [make_result(dict.fromkeys(OUTCOMES, "1" * n + "0" * (10 - n)), seed=n) for n in (6, 7, 8)]
    found = estimate(results, "image_accuracy")
    assert found.value == pytest.approx(0.7)
    half = 4.3027 * 0.1 / 3**0.5  # Student's t with two degrees of freedom, standard deviation 0.1
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half), abs=1e-4)
    assert "mean of 3" in robustness_table({"MMCoA": results})


def test_an_interval_of_a_mean_stays_within_all_and_nothing():
    results = [
        make_result(dict.fromkeys(OUTCOMES, outcome), seed=seed) for seed, outcome in enumerate(("1" * 10, "0" * 10))
    ]
    assert (estimate(results, "clean_accuracy").low, estimate(results, "clean_accuracy").high) == (0, 1)


def test_a_number_that_one_model_lacks_is_a_dash():
    table = robustness_table(
        {
            "before": make_result({"clean": "11"}, row_ids=[0, 1]),
            "after": make_result({"clean": "11", "image/pgd-ce": "10"}),
        }
    )
    assert next(line for line in table.split("\n") if line.startswith("image")).split()[1] == "-"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilon": 0.2}, "epsilon: 0.1 and 0.2"),
        ({"dataset": "other"}, "other"),
        ({"labels": [0] * 10}, "rows and labels"),
    ],
)
def test_different_conditions_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        robustness_table({"before": make_result(), "after": make_result(**changes)})


def test_the_seed_may_differ():
    assert robustness_table({"before": make_result(), "after": make_result(seed=1)})


def test_no_results_are_refused():
    with pytest.raises(ValueError, match="empty"):
        robustness_table({})


def test_markdown_holds_the_same_numbers_and_no_foreign_markup():
    table = markdown_table({"a | b ![x](http://y)": make_result(), "<b>": make_result()})
    lines = table.split("\n")
    assert lines[0] == r"| accuracy under | a \| b \!\[x\](http\://y) | \<b\> |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[3] == "| image | 40.0 [16.8, 68.7] | 40.0 [16.8, 68.7] |"


def test_one_line_says_which_preset_was_run():
    spec = ThreatModel.preset("standard", epsilon="4/255").to_dict()
    assert describe(spec).startswith(
        "preset standard: image L∞ 4/255, apgd-ce, apgd-margin, apgd-targeted, 25 steps; text"
    )
    assert describe(spec | {"image_attacks": ["apgd-ce"]}).startswith("image L∞ 4/255, apgd-ce, 25 steps; text")
    assert describe(ThreatModel.preset("quick").to_dict()).startswith("preset quick: ")


def test_one_line_describes_the_threat():
    spec = make_result(epsilon="4/255", restarts=3, max_changes=2)["attack_spec"]
    assert (
        describe(spec)
        == "image L∞ 4/255, pgd-ce, 50 steps x 3 restarts; text 2 words of 10 candidates; multimodal independent"
    )
