"""A data set's description survives what people do to it."""

from __future__ import annotations

from pathlib import Path

import datasets
from repositories import image_folder, labels_of

from hf_mmcoa.data.benchmark_info import BenchmarkInfo, describe
from hf_mmcoa.data.load import load_benchmark


def test_description_survives_what_people_do_to_a_data_set(tmp_path: Path) -> None:
    image_folder(tmp_path / "data" / "train", cat=range(6), dog=range(6))
    dataset = load_benchmark(str(tmp_path / "data"), split="train", shots=2, seed=3)
    info = describe(dataset)
    assert len(dataset) == 4 and (info.shots, info.seed, len(info.row_ids)) == (2, 3, 4)
    whole = load_benchmark(str(tmp_path / "data"), split="train")
    assert [whole[i]["label"] for i in info.row_ids] == list(dataset["label"])
    dataset.save_to_disk(tmp_path / "saved")
    for changed in (
        dataset.select([0, 1]),
        dataset.shuffle(seed=0),
        dataset.filter(lambda label: label == 1, input_columns="label"),
        dataset.map(lambda row: {"more": 1}),
        dataset.train_test_split(test_size=1, seed=0)["train"],
        datasets.load_from_disk(str(tmp_path / "saved")),
        datasets.concatenate_datasets([dataset, dataset]),
    ):
        assert describe(changed) == info


def test_any_other_data_set_is_described_by_defaults() -> None:
    features = datasets.Features(labels_of(["cat", "dog"]))
    dataset = datasets.Dataset.from_dict({"label": [0]}, features=features)
    assert describe(dataset) == BenchmarkInfo(name="", class_names=("cat", "dog"))
