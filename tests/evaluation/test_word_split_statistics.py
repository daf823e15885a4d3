"""Word splits as a level: intervals and tests cover it, and one model under ten splits is one result where words are no
matter.
"""

from __future__ import annotations

import numpy as np
import pytest

from hf_mmcoa.evaluation.clusters import paired_crossed_test
from hf_mmcoa.evaluation.uncertainty import Repetition, accuracy_interval, difference_interval, paired_test
from hf_mmcoa.report.conditions import interval_sentence
from hf_mmcoa.report.table import estimate

CLASSES, SIZE = 10, 4
LABELS = [row // SIZE for row in range(CLASSES * SIZE)]
GRID = [Repetition(seed, split) for seed in range(5) for split in range(10)]


def simulated(generator, mean=0.5, split=0.15, word=0.15):
    """Outcomes of five seeds and ten splits: a class, a seed, a split and the words of a class in a split each add."""
    of_class, of_seed = generator.normal(0, 0.15, CLASSES), generator.normal(0, 0.05, 5)
    of_split, of_words = generator.normal(0, split, 10), generator.normal(0, word, (10, CLASSES))
    rates = [
        (mean + of_class + of_seed[one.seed] + of_split[one.word_split] + of_words[one.word_split])[LABELS]
        for one in GRID
    ]
    return ["".join(str(int(sign)) for sign in generator.random(len(LABELS)) < row) for row in rates]


def covers(found, truth):
    return found.low <= truth <= found.high


@pytest.mark.slow
def test_the_interval_over_splits_covers_and_those_that_leave_them_out_do_not():
    generator, runs = np.random.default_rng(0), 40
    covered = one_split = as_seeds = 0
    for _ in range(runs):
        # The splits decide here: nothing but they and the pictures' noise varies.
        of_split = generator.normal(0, 0.15, 10)
        outcomes = [
            "".join(str(int(sign)) for sign in generator.random(len(LABELS)) < 0.5 + of_split[one.word_split])
            for one in GRID
        ]
        found = accuracy_interval(outcomes, LABELS, "classes", GRID)
        covered += covers(found, 0.5)
        one_split += covers(accuracy_interval(outcomes[::10], LABELS, "classes"), 0.5)
        as_seeds += covers(accuracy_interval(outcomes, LABELS, "classes"), 0.5)  # 50 results, as if independent
    assert found.generalises_over == ("seeds", "word splits", "classes")
    assert 0.9 <= covered / runs <= 1
    assert one_split / runs < 0.75 and as_seeds / runs < 0.85


@pytest.mark.slow
def test_all_levels_together_have_about_the_nominal_coverage_and_error():
    generator, runs, covered, differ, wrong = np.random.default_rng(1), 40, 0, 0, 0
    for _ in range(runs):
        one, other = simulated(generator), simulated(generator)
        covered += covers(accuracy_interval(one, LABELS, "classes", GRID), 0.5)
        differ += covers(difference_interval(one, other, LABELS, "classes", GRID), 0)
        wrong += paired_test(one, other, LABELS, "classes", GRID).p_value < 0.05
    assert covered / runs >= 0.9 and differ / runs >= 0.9 and wrong / runs <= 0.1
    better = simulated(generator, mean=0.9, split=0.02, word=0.02), simulated(generator, mean=0.2)
    found = paired_test(*better, LABELS, "classes", GRID)
    assert found.p_value < 0.05 and found.over == "seeds, word splits and classes" and found.pairs == 50 * len(LABELS)
    assert difference_interval(*better[::-1], LABELS, "classes", GRID).low > 0


def test_one_split_gives_the_numbers_of_seeds_alone():
    generator = np.random.default_rng(2)
    one, other = (simulated(generator)[::10] for _ in range(2))
    for split in (0, 7):
        same = [Repetition(seed, split) for seed in range(5)]
        for over in ("classes", "images"):
            assert accuracy_interval(one, LABELS, over, same) == accuracy_interval(one, LABELS, over)
            pair = one, other, LABELS, over
            assert difference_interval(*pair, same) == difference_interval(*pair)
            assert paired_test(*pair, same) == paired_test(*pair)


def test_a_model_that_splits_do_not_change_is_one_result_a_seed():
    generator = np.random.default_rng(3)
    one, other = (simulated(generator)[::10] for _ in range(2))
    ten, others = ([outcome for outcome in each for _ in range(10)] for each in (one, other))
    for over in ("classes", "images"):
        assert accuracy_interval(ten, LABELS, over, GRID) == accuracy_interval(one, LABELS, over)
        assert difference_interval(ten, others, LABELS, over, GRID) == difference_interval(one, other, LABELS, over)
        assert paired_test(ten, others, LABELS, over, GRID) == paired_test(one, other, LABELS, over)
    results = [{"clean_accuracy": each.count("1") / 40, "outcomes": {"clean": each}, "labels": LABELS} for each in ten]
    shown, once = estimate(results, "clean_accuracy", repetitions=GRID), estimate(results[::10], "clean_accuracy")
    assert (shown.count, shown.over, shown.low, shown.high) == (5, "seeds and images", once.low, once.high)
    assert shown.value == pytest.approx(once.value)


def test_clean_accuracies_of_models_trained_per_split_are_averaged_first():
    found = accuracy_interval(["10", "11"], [0, 1], "images", [Repetition(0, 0), Repetition(0, 1)])
    assert (found.estimate, found.generalises_over) == (0.75, ("images",))
    test = paired_test(["10", "11"], ["00", "00"], [0, 1], "images", [Repetition(0, 0), Repetition(0, 1)])
    assert (test.only_first, test.only_second, test.pairs, test.test) == (2, 0, 2, "sign flips")


def test_the_crossed_test_by_hand():
    # Differences 1, 1, 1, 0: the seeds' means 1 and 0.5 and the splits' 1 and 0.5 have variance 0.125 / 2 each; their
    # sum 0.125 has two degrees of freedom: t = 0.75 / 0.3536 = 2.121.
    levels = {"seeds": [0, 1, 0, 1], "word splits": [0, 0, 1, 1]}
    assert paired_crossed_test([1, 1, 1, 0], [0] * 4, levels) == pytest.approx(0.1679, abs=1e-4)
    assert paired_crossed_test([1] * 4, [1] * 4, levels) == 1
    assert paired_crossed_test([1] * 4, [0] * 4, levels) == 0  # which `paired_test` bounds by the number of classes
    found = paired_test(["11"] * 4, ["00"] * 4, [0, 1], "classes", [Repetition(*place) for place in np.ndindex(2, 2)])
    assert found.p_value == 0.5


def test_the_footnote_names_the_levels():
    assert "of all others over seeds, word splits and classes" in interval_sentence(True, True)
    assert "of all others over word splits and classes" in interval_sentence(False, True)
    assert "one model measured under several splits is one result" in interval_sentence(True, True)
    assert "word split" not in interval_sentence(True)
