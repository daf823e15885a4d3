"""The embedded data set: fixed splits, real pictures, substitutes that belong to one class each."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hf_mmcoa.data import digits
from hf_mmcoa.data.digits import CLASS_NAMES, SPLITS
from hf_mmcoa.substitutes.digits import SYNONYMS
from hf_mmcoa.testbed.digits import load_captioned_digits


def test_splits_are_disjoint_complete_and_stratified():
    rows = {split: digits._split_rows(digits._pictures()[1])[split] for split in SPLITS}
    assert {split: len(found) for split, found in rows.items()} == SPLITS
    assert sorted(row for found in rows.values() for row in found) == list(range(1797))
    for split, size in SPLITS.items():
        counts = np.bincount(digits.load_digits(split)["label"], minlength=10)
        assert abs(counts - size / 10).max() <= 0.05 * size


def test_the_test_split_never_changes():
    rows = digits._split_rows(digits._pictures()[1])["test"]
    assert hashlib.sha256(str(rows).encode()).hexdigest()[:16] == "ae53f845cfbd67fc"


def test_pictures_are_the_scans():
    row = digits.load_digits("test")[0]
    assert row["image"].size == (8, 8)
    levels = np.asarray(row["image"])
    assert levels.max() <= 255 and len(np.unique(levels)) > 3


def test_captions_name_their_class():
    for row in load_captioned_digits(seed=1).select(range(50)):
        assert CLASS_NAMES[row["label"]] in row["text"].split()


def test_no_substitute_is_a_class_word_or_serves_two_classes():
    listed = [word for _, words in SYNONYMS.table for word in words]
    assert len(listed) == len(set(listed)) and not set(listed) & set(CLASS_NAMES)
    assert [word for word, _ in SYNONYMS.table] == list(CLASS_NAMES)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation, test, got 'dev'"):
        digits.load_digits("dev")
