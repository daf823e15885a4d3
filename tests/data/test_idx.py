"""Idx files are read whole or refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from repositories import names_of

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.load import load_benchmark


def write_idx(path: Path, values: np.ndarray, compress: bool) -> None:
    data = struct.pack(">4B", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()
    path = path.with_name(path.name + ".gz") if compress else path
    path.write_bytes(gzip.compress(data) if compress else data)


@pytest.mark.parametrize("compress", [False, True])
def test_fashion_mnist_from_idx_files(tmp_path: Path, compress: bool) -> None:
    images = np.arange(3 * 2 * 5, dtype=np.uint8).reshape(3, 2, 5)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images, compress)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([9, 0, 1], dtype=np.uint8), compress)
    dataset = load_benchmark("fashion-mnist", data_dir=tmp_path, accept_differences=True)
    np.testing.assert_array_equal(np.asarray(dataset[1]["image"]), images[1])
    assert list(dataset["label"]) == [9, 0, 1]
    assert names_of(dataset)[0] == "t shirt top" and names_of(dataset)[9] == "ankle boot"
    assert describe(dataset).differences == ("'test' has 3 rows, not 10,000",)


def test_cut_off_or_foreign_idx_files_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((3, 2, 5), dtype=np.uint8), False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    write_idx(labels, np.zeros(3, dtype=np.uint8), False)
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off or too long: 2 values of 3"):
        load_benchmark("fashion-mnist", data_dir=tmp_path)
    labels.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="no idx file"):
        load_benchmark("fashion-mnist", data_dir=tmp_path)
