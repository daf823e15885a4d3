"""Intervals and tests of accuracies, on outcomes in which one attacked prompt decides most images of its class."""

from __future__ import annotations

import numpy as np
import pytest
from result_dicts import make_result

from hf_mmcoa.evaluation import compare
from hf_mmcoa.evaluation.clusters import effective_sample_size
from hf_mmcoa.evaluation.statistics import wilson_interval
from hf_mmcoa.evaluation.uncertainty import accuracy_interval, difference_interval, interval_fields, paired_test, unit
from hf_mmcoa.report.table import estimate

CLASSES, SIZE = 10, 36
LABELS = [row // SIZE for row in range(CLASSES * SIZE)]
TEXT = ["clean", "text/words"]


def simulated(generator: np.random.Generator, mean: float = 0.5, icc: float = 0.6) -> str:
    """Outcomes of which two of one class correlate by `icc`."""
    spread = (1 - icc) / icc
    rates = generator.beta(mean * spread, (1 - mean) * spread, CLASSES)
    return "".join(str(int(stands)) for stands in generator.random(len(LABELS)) < rates[LABELS])


def result_of(text: str, seed: int = 0) -> dict[str, object]:
    return make_result({"clean": "1" * len(text), "text/words": text}, seed=seed, labels=LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.5, 0.2])
def test_the_interval_of_a_text_accuracy_covers_and_the_one_over_images_does_not(mean: float) -> None:
    generator, covered, naive, runs = np.random.default_rng(0), 0, 0, 100
    for _ in range(runs):
        result = result_of(simulated(generator, mean))
        (low, high), shown = result["text_accuracy_interval"], estimate([result], "text_accuracy")
        assert (shown.low, shown.high, shown.over) == (low, high, "classes")
        covered += low <= mean <= high
        low, high = wilson_interval(result["outcomes"]["text/words"].count("1"), len(LABELS))
        naive += low <= mean <= high
    assert 0.90 <= covered / runs <= 0.99
    assert naive / runs < 0.4


@pytest.mark.slow
def test_the_interval_over_seeds_and_classes_covers_and_the_one_over_seeds_does_not() -> None:
    """Seeds that share their classes' difficulty agree with one another more than with the truth."""
    generator, covered, over_seeds, runs = np.random.default_rng(1), 0, 0, 100
    for _ in range(runs):
        rates = 0.5 + generator.uniform(-0.45, 0.45, CLASSES)
        texts = ["".join(str(int(s)) for s in generator.random(len(LABELS)) < rates[LABELS]) for _ in range(3)]
        found = estimate([result_of(text, seed) for seed, text in enumerate(texts)], "text_accuracy")
        covered += found.low <= 0.5 <= found.high
        values = [text.count("1") / len(text) for text in texts]
        half = 4.3027 * np.std(values, ddof=1) / 3**0.5  # Student's t
        over_seeds += abs(np.mean(values) - 0.5) <= half
    assert found.over == "seeds and classes"
    assert 0.90 <= covered / runs <= 0.99
    assert over_seeds / runs < 0.7


@pytest.mark.parametrize("mean", [0.02, 0.1])
def test_few_prompts_that_stand_are_no_certainty(mean: float) -> None:
    """The plain cluster bootstrap covers 0.85 to 0.89 of these: its resamples often hold none of a few classes."""
    generator, covered, runs = np.random.default_rng(2), 0, 100
    for _ in range(runs):
        low, high = interval_fields("text_accuracy", simulated(generator, mean), LABELS, TEXT)["text_accuracy_interval"]
        covered += low <= mean <= high
    assert covered / runs > 0.92


def test_one_prompt_is_no_difference() -> None:
    """36 images that only the second model has, all of one class: p is 2 / 2^36 over images, and 1 over classes."""
    first = "".join("1" if label < 5 else "0" for label in LABELS)
    second = "".join("1" if label < 6 else "0" for label in LABELS)
    found = compare(result_of(first), result_of(second))["text_accuracy"]
    assert (found["only_first"], found["only_second"]) == (0, SIZE)
    assert (found["p_value"], found["test"], found["over"]) == (1.0, "sign flips", "classes")
    interval = difference_interval([first], [second], LABELS, "classes")
    assert interval.estimate == pytest.approx(0.1) and interval.low < 0 < 0.1 < interval.high
    assert paired_test([first], [second], LABELS, "images").p_value < 1e-9


def test_an_image_is_one_image_under_all_seeds() -> None:
    """Seven images of ten that change in each of three seeds are seven, not 21."""
    first, second = "0000000111", "1111111111"
    found = paired_test([first] * 3, [second] * 3, [0] * 10, "images")
    assert (found.only_first, found.only_second, found.test) == (0, 21, "sign flips")
    assert found.p_value == pytest.approx(2 / 2**7)
    one = paired_test([first], [second], [0] * 10, "images")
    assert one.test == "McNemar" and one.p_value == pytest.approx(found.p_value)


def test_models_that_agree_have_a_difference_of_some_width() -> None:
    for outcome in ("0" * 360, "1" * 360):
        found = difference_interval([outcome] * 3, [outcome] * 3, LABELS, "classes")
        assert (found.low, found.estimate, found.high) == pytest.approx((-0.3085, 0, 0.3085), abs=1e-4)


def test_no_end_leaves_the_possible() -> None:
    generator = np.random.default_rng(3)
    for seeds in (1, 2, 3):
        for mean in (0.01, 0.5, 0.99):
            one, other = ([simulated(generator, mean) for _ in range(seeds)] for _ in range(2))
            for over in ("classes", "images"):
                found = accuracy_interval(one, LABELS, over)
                assert 0 <= found.low <= found.estimate <= found.high <= 1 and found.low < found.high
                found = difference_interval(one, other, LABELS, over)
                assert -1 <= found.low <= found.estimate <= found.high <= 1 and found.low < found.high


def test_each_number_says_what_it_generalises_over() -> None:
    assert unit(["clean"]) == unit(["clean", "image/pgd-ce"]) == "images"
    for attack in ("text/words", "text/embedding", "multimodal/joint", "text/words/own:unseen"):
        assert unit(["clean", attack]) == "classes"
    outcome = simulated(np.random.default_rng(0))
    fields = interval_fields("text_accuracy", outcome, LABELS, TEXT)
    assert fields["text_accuracy_interval_over"] == "classes"
    signs = [int(sign) for sign in outcome]
    assert fields["text_accuracy_effective_samples"] == effective_sample_size(signs, LABELS) < 30
    fields = interval_fields("image_accuracy", outcome, LABELS, ["clean", "image/pgd-ce"])
    stands = wilson_interval(outcome.count("1"), len(outcome))
    assert fields == {"image_accuracy_interval": stands, "image_accuracy_interval_over": "images"}


def test_samples_of_one_class_are_one_cluster_of_classes():
    """A few rows drawn from a folder may all be of one class; tables and cards name what an interval is over."""
    found = accuracy_interval(["1101111111"], [3] * 10, "classes")
    assert found.generalises_over == ("classes",) and found.low < 0.2 and found.high > 0.99
    fields = interval_fields("text_accuracy", "1101111111", [3] * 10, ["clean", "text/words"])
    assert fields["text_accuracy_interval_over"] == "classes"
