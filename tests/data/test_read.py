"""Each format is read with the columns and rows that its files hold."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from repositories import cifar100, labels_of, names_of, write_parquet, write_tar

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.load import load_benchmark


@pytest.mark.parametrize("image", ["jpg", "webp"])
def test_one_shard_webdataset_with_a_text_file_beside_it(tmp_path: Path, image: str) -> None:
    """`nshards.txt` beside one tar makes a bare `load_dataset` return one row of text."""
    write_tar(tmp_path / "test" / "0.tar", [1, 0, 1], image)
    (tmp_path / "test" / "nshards.txt").write_text("1")
    (tmp_path / "classnames.txt").write_text("Andorra\nUnited Arab Emirates\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo i took in {c}.\n")
    assert load_benchmarkless(tmp_path) == ["text"]
    dataset = load_benchmark("country211", data_dir=tmp_path, accept_differences=True)
    assert list(dataset["label"]) == [1, 0, 1] and dataset[0]["image"].size == (4, 4)
    assert names_of(dataset) == ["andorra", "united arab emirates"]
    assert describe(dataset).template == "A photo I took in {}."
    assert list(load_benchmark(str(tmp_path))["label"]) == [1, 0, 1]  # the same trap without a row


def load_benchmarkless(folder: Path) -> list[str]:
    return datasets.load_dataset(str(folder), split="test").column_names


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "booleans"])
def test_streaming_gives_the_same_rows(tmp_path: Path, layout: str) -> None:
    if layout == "parquet":
        name = "cifar100"
        cifar100(tmp_path)
    elif layout == "booleans":
        name = "pcam"
        write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=[True, False])
    else:
        name = "country211"
        write_tar(tmp_path / "test" / "0.tar", [1, 0, 1])
        (tmp_path / "classnames.txt").write_text("Andorra\nUnited Arab Emirates\n")
    stream = load_benchmark(name, data_dir=tmp_path, streaming=True)
    whole = load_benchmark(name, data_dir=tmp_path, accept_differences=True)
    assert isinstance(stream, datasets.IterableDataset) and names_of(stream) == names_of(whole)
    for streamed, stored in zip(stream, whole, strict=True):
        assert streamed["label"] == stored["label"]
        np.testing.assert_array_equal(np.asarray(streamed["image"]), np.asarray(stored["image"]))
    assert describe(stream).name == name
    with pytest.raises(ValueError, match="streaming=False"):
        load_benchmark(name, data_dir=tmp_path, streaming=True, shots=1)


def test_empty_split_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", features=labels_of(["a", "b"]), label=[])
    with pytest.raises(ValueError, match="empty"):
        load_benchmark(str(tmp_path))
