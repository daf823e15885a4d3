"""Pictures that are arrays: their range and the place of their channels are found, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from hf_mmcoa.data.images import from_array
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.rows import ImageRows

FLOAT = datasets.Value("float32")
RGB = np.array([[[0, 51, 102], [153, 204, 255]]] * 5, dtype=np.uint8).repeat(3, 1)  # (5, 6, 3)


@pytest.mark.parametrize(
    "values",
    [
        RGB,
        RGB.astype(np.int64),
        RGB.astype(np.float32),
        RGB / 255,
        (RGB / 255).astype(np.float32) * np.float32(1.0000001),
        RGB.astype(np.float64) * 1.000001,
        RGB.transpose(2, 0, 1),
        (RGB / 255).transpose(2, 0, 1),
        np.concatenate([RGB, np.full((5, 6, 1), 255, np.uint8)], axis=2),
    ],
)
def test_an_array_is_the_picture_that_it_shows(values: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(from_array(values)), RGB)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (1, 5, 6)])
def test_grey_arrays(shape: tuple[int, ...]) -> None:
    grey = np.arange(30, dtype=np.uint8)
    for values in (grey, grey / 255):
        got = np.asarray(from_array(values.reshape(shape)))
        np.testing.assert_array_equal(got, np.repeat(grey.reshape(5, 6, 1), 3, axis=2))
    assert np.asarray(from_array(np.ones((5, 6), bool))).min() == 255


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 6, 2)), r"shape \(5, 6, 2\) is no picture"),
        (np.zeros((2, 5, 6, 3)), r"shape \(2, 5, 6, 3\)"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, 6, 3)), r"shape \(0, 6, 3\)"),
        (np.full((5, 6, 3), -0.5), r"from -0\.5 to -0\.5 .*Undo the mean and std"),
        (np.full((5, 6, 3), 300), "from 300 to 300"),
        (np.full((5, 6, 3), 65535, np.uint16), "from 65535"),
        (np.full((5, 6, 3), np.nan), "from nan"),
        (np.full((5, 6), "a"), "type <U1"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_array(values)


@pytest.mark.parametrize(
    "feature",
    [None, datasets.Array3D((5, 6, 3), "float32"), datasets.List(datasets.List(datasets.List(FLOAT)))],
)  # fmt: skip
def test_columns_of_float_arrays_are_not_black(tmp_path: Path, feature: Any) -> None:
    rows = {"image": [RGB.tolist() if feature is None else (RGB / 255).tolist()] * 2, "label": [0, 1]}
    label = datasets.ClassLabel(names=["cat", "dog"])
    features = None if feature is None else datasets.Features({"image": feature, "label": label})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    if features is None:
        dataset = dataset.cast_column("label", label)
    dataset.to_parquet(tmp_path / "test.parquet")
    loaded = load_benchmark(str(tmp_path))
    wanted = torch.from_numpy(RGB).permute(2, 0, 1) / 255
    for each in (dataset, loaded, dataset.with_format("numpy"), dataset.with_format("torch")):
        torch.testing.assert_close(ImageRows(each)[1]["image"], wanted)


def test_an_array_that_is_no_picture_names_its_row() -> None:
    dataset = datasets.Dataset.from_dict({"image": [RGB.tolist(), (-RGB.astype(int)).tolist()]})
    with pytest.raises(ValueError, match=r"row 1: .*values from -255 to 0"):
        ImageRows(dataset)[1]
