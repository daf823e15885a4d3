"""`load_benchmark` checks data against their row and takes the columns that it is told to."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from repositories import CIFAR100, cifar100, encoded, image_folder, names_of, write_parquet

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.rows import ImageRows


def test_counts_and_names_are_asserted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'test' has 3 rows, not 10,000\. .*accept_differences=True"):
        load_benchmark("cifar100", data_dir=cifar100(tmp_path / "a"))
    renamed = ["zebra" if name == "worm" else name for name in CIFAR100]
    with pytest.raises(ValueError, match=r"no class worm; unexpected class zebra"):
        load_benchmark("cifar100", data_dir=cifar100(tmp_path / "b", names=renamed))


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    labels = list(range(258))
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    write_parquet(path, features={"label": datasets.Value("int64")}, label=[0, -1])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="row 1 has label -1"):
        load_benchmark(str(tmp_path))
    write_parquet(tmp_path / "b" / "data" / "test-00000-of-00001.parquet", label=labels, text=[f"c{n}" for n in labels])
    with pytest.raises(ValueError, match="258 classes, not 257"):
        load_benchmark("caltech256", data_dir=tmp_path / "b")


def test_aircraft_are_variants_not_families(tmp_path: Path) -> None:
    variants, families = ["707-320", "737-200", "A300B4"], ["Boeing 707", "Boeing 737"]
    features = {"variant": datasets.ClassLabel(names=variants), "family": datasets.ClassLabel(names=families)}
    write_parquet(
        tmp_path / "a" / "data" / "test-00000-of-00001.parquet", features=features, variant=[2, 1], family=[1, 0]
    )
    dataset = load_benchmark("mteb/FGVCAircraft", data_dir=tmp_path / "a", accept_differences=True)
    assert names_of(dataset) == ["boeing 707 320", "boeing 737 200", "a300b4"] and list(dataset["label"]) == [2, 1]
    features = {"variation": datasets.ClassLabel(names=variants), "label": datasets.ClassLabel(names=families)}
    write_parquet(
        tmp_path / "b" / "data" / "test-00000-of-00001.parquet", features=features, variation=[2, 1], label=[1, 0]
    )
    dataset = load_benchmark("Donghyun99/FGVC-Aircraft", data_dir=tmp_path / "b", accept_differences=True)
    assert list(dataset["label"]) == [2, 1] and "3 classes, not 100" in describe(dataset).differences
    with pytest.raises(ValueError, match="2 classes, not 100"):
        load_benchmark("Donghyun99/FGVC-Aircraft", data_dir=tmp_path / "b", label_column="label")


def test_captions_instead_of_labels(tmp_path: Path) -> None:
    image_folder(tmp_path, pictures=[1, 2])
    lines = [{"file_name": f"pictures/{n}.png", "text": f"caption {n}"} for n in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = load_benchmark(str(tmp_path), split="train")
    assert dataset.column_names == ["image", "text"] and list(dataset["text"]) == ["caption 0", "caption 1"]
    assert describe(dataset).class_names == ()
    with pytest.raises(ValueError, match="captions only"):
        load_benchmark(str(tmp_path), split="train", shots=1)


def test_columns_by_flag(tmp_path: Path) -> None:
    features = {"shown": datasets.Image(), "kind": datasets.ClassLabel(names=["Cat", "dog"])}
    write_parquet(
        tmp_path / "test-00000-of-00001.parquet", "shown", features, kind=[1, 0], words=["a", "b"], label=[9, 9]
    )
    dataset = load_benchmark(str(tmp_path), image_column="shown", label_column="kind", text_column="words")
    assert dataset.column_names == ["image", "label", "text"] and names_of(dataset) == ["cat", "dog"]
    with pytest.raises(ValueError, match="'missing'"):
        load_benchmark(str(tmp_path), label_column="missing")


def test_digits_come_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    dataset = load_benchmark("digits", split="test", shots=2, seed=1)
    assert names_of(dataset)[:3] == ["zero", "one", "two"]
    assert np.bincount(dataset["label"]).tolist() == [2] * 10
    assert describe(dataset).perturb_at == "native"


def test_tars_of_img2dataset(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number in range(2):
            for suffix, data in (
                ("jpg", encoded(number, "JPEG")),
                ("txt", f"cafe\u0301 {number}".encode()),
                ("json", json.dumps({"key": f"{number}", "caption": "unused"}).encode()),
            ):
                member = tarfile.TarInfo(f"{number:09}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    dataset = load_benchmark(str(tmp_path), split="train")
    assert dataset.column_names == ["image", "text"]
    assert ImageRows(dataset)[1]["text"] == "caf\u00e9 1"
