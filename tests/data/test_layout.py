"""The layout of a folder is recognised from the names of its files."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from repositories import image_folder, labels_of, names_of, picture

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.load import load_benchmark


def test_class_folders_serve_a_registered_data_set(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", cra=[1], Apple=[2, 3])
    dataset = load_benchmark("cifar100", data_dir=tmp_path, accept_differences=True)
    assert sorted(zip(dataset["label"], [np.asarray(i).max() for i in dataset["image"]], strict=True)) == [
        (0, 2), (0, 3), (1, 1),
    ]  # fmt: skip
    assert names_of(dataset) == ["apple", "crab"]
    assert "'test' has 3 rows, not 10,000" in describe(dataset).differences


def test_class_folders_are_numbered_over_all_splits(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", cat=[1], dog=[2], owl=[3])
    image_folder(tmp_path / "test", dog=[4], owl=[5])
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["cat", "dog", "owl"] and list(dataset["label"]) == [1, 2]
    info = describe(dataset)
    assert (info.name, info.perturb_at, info.template) == (str(tmp_path), "model", "This is a photo of a {}")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_of_one_class_has_its_label(tmp_path: Path, streaming: bool) -> None:
    image_folder(tmp_path / "train", cat=[1], dog=[2, 3], owl=[4])
    image_folder(tmp_path / "test", dog=[5, 6])
    dataset = load_benchmark(str(tmp_path), split="test", streaming=streaming)
    assert dataset.features["label"].names == ["cat", "dog", "owl"]
    assert [row["label"] for row in dataset] == [1, 1]
    image_folder(tmp_path / "flat" / "train", cat=[1])
    with pytest.raises(ValueError, match="label"):  # one class in all: what its folder is called says nothing
        load_benchmark(str(tmp_path / "flat"), split="train").features["label"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    image_folder(tmp_path, train=[1], plane=[2])
    dataset = load_benchmark(str(tmp_path), split="train")
    assert names_of(dataset) == ["plane", "train"] and len(dataset) == 2


def test_save_to_disk(tmp_path: Path) -> None:
    rows = {"image": [picture(1), picture(2)], "label": [1, 0]}
    features = datasets.Features({"image": datasets.Image(), **labels_of(["cat", "dog"])})
    one = datasets.Dataset.from_dict(rows, features=features)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "two")
    assert list(load_benchmark(str(tmp_path / "one"))["label"]) == [1, 0]
    assert list(load_benchmark(str(tmp_path / "two"), split="test")["label"]) == [0]
    with pytest.raises(ValueError, match="no split 'validation'; it has test, train"):
        load_benchmark(str(tmp_path / "two"), split="validation")
