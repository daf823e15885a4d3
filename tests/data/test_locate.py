"""Files are found in folders and on the Hub, and an error says where they were looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from repositories import cifar100, hub_error, image_folder, labels_of, names_of, write_parquet

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.load import load_benchmark


def test_only_the_split_in_use_is_read_and_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar100(tmp_path / "mirror")
    (folder / "cifar100" / "train-00000-of-00001.parquet").write_bytes(b"half a download")
    asked: list[Any] = []

    def snapshot_download(hub_id: str, **options: Any) -> str:
        asked.append((hub_id, options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    dataset = load_benchmark("cifar100", accept_differences=True)
    assert len(dataset) == 3
    assert asked == [
        ("uoft-cs/cifar100", "aadb3af77e9048adbea6b47c21a81e47dd092ae5", ["*/test-*.parquet", "README.md"])
    ]
    assert describe(dataset).source == "uoft-cs/cifar100" and describe(dataset).revision == asked[0][1]


@pytest.mark.parametrize("folder", ["", "uoft-cs/cifar100", "cifar100"])
def test_data_dir_is_a_repository_or_a_folder_of_them(tmp_path: Path, folder: str) -> None:
    cifar100(tmp_path / folder)
    assert len(load_benchmark("cifar100", data_dir=tmp_path, accept_differences=True)) == 3


def test_validation_and_valid_are_the_test_sets_of_food_and_tiny_imagenet(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "data" / "validation-00000-of-00001.parquet", features=labels_of(["apple_pie", "baklava"]), label=[1]
    )
    for split in ("test", "validation"):
        dataset = load_benchmark("food101", split=split, data_dir=tmp_path, accept_differences=True)
        assert names_of(dataset) == ["apple pie", "baklava"] and describe(dataset).split == split
        assert "'validation' has 1 rows, not 25,250" in describe(dataset).differences


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(ValueError, match=r"Did you mean cifar10 or cifar100.*Known: .*pcam"):
        load_benchmark("cifarr10")


def test_missing_split_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cifar10 has no split 'validation'; it has test, train"):
        load_benchmark("cifar10", split="validation")
    image_folder(tmp_path / "train", cat=[1], dog=[1])
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        load_benchmark(str(tmp_path))


def test_no_network_says_which_files_are_missing_and_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark("cifar10")
    for part in (
        "*/test-*.parquet of uoft-cs/cifar10",
        str(tmp_path / "hub" / "datasets--uoft-cs--cifar10"),
        "data_dir",
    ):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match="all files of someone/thing"):
        load_benchmark("someone/thing")
    with pytest.raises(FileNotFoundError, match=r"streaming uoft-cs/cifar10 reads \*/test-\*\.parquet"):
        load_benchmark("cifar10", streaming=True)


def test_without_a_network_only_the_first_source_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def snapshot_download(hub_id: str, local_files_only: bool, **_: Any) -> str:
        asked.append((hub_id, local_files_only))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError):
        load_benchmark("dtd")
    assert asked == [("tanganke/dtd", False), ("mteb/dtd", True)]  # every attempt takes half a minute of retries


def test_an_unregistered_repository_is_listed_and_only_its_split_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, features=labels_of(["Cat", "dog"]), label=[1, 0])
    asked: list[Any] = []

    def snapshot_download(hub_id: str, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return str(tmp_path)

    paths = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.parquet")]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: [*paths, ".gitattributes"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    dataset = load_benchmark("someone/pictures")
    assert names_of(dataset) == ["cat", "dog"] and describe(dataset).name == "someone/pictures"
    assert asked == [["data/test-00000-of-00001.parquet", "README.md", "classnames.txt"]]
    with pytest.raises(ValueError, match="someone/pictures has no split 'validation'; it has test, train"):
        load_benchmark("someone/pictures", split="validation")


def test_data_dir_without_the_files_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark("cifar10", data_dir=tmp_path)
    assert "*/test-*.parquet" in str(caught.value) and str(tmp_path / "uoft-cs" / "cifar10") in str(caught.value)


def test_fallback_is_used_with_a_warning_when_the_first_choice_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", features=labels_of(names), label=[3])

    def snapshot_download(hub_id: str, **_: Any) -> str:
        if hub_id == "tanganke/stl10":
            raise hub_error(RepositoryNotFoundError)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.warns(UserWarning, match="stl10: using mteb/stl10 instead"):
        dataset = load_benchmark("stl10")
    assert describe(dataset).source == "mteb/stl10"


def test_words_of_one_downloaded_split_are_numbered_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "test.parquet", label=["dog", "bee"])
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["test.parquet", "train.parquet"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.warns(UserWarning, match="numbered in this split alone: train of someone/words"):
        assert names_of(load_benchmark("someone/words")) == ["bee", "dog"]


def test_splits_joined_by_a_plus_are_read_one_after_the_other(tmp_path: Path) -> None:
    names = ["daisy", "rose"]
    for split, labels in (("train", [0, 1]), ("validation", [1, 1, 0]), ("test", [0])):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", features=labels_of(names), label=labels)
    both = load_benchmark("flowers102", "train+validation", data_dir=tmp_path, accept_differences=True)
    assert both["label"] == [0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match=r"flowers102 has no split 'train\+train'"):
        load_benchmark("flowers102", "train+train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"caltech256 has no split 'train\+all'"):  # the same rows twice
        load_benchmark("caltech256", "train+all", data_dir=tmp_path)
    assert len(load_benchmark("digits", "train+validation")) == len(load_benchmark("digits", "train")) + len(
        load_benchmark("digits", "validation")
    )


@pytest.mark.parametrize(("split", "rows"), [("train+validation", 5), ("all", 7), ("train", 2)])
def test_class_folders_of_several_splits_are_all_read(tmp_path: Path, split: str, rows: int) -> None:
    image_folder(tmp_path / "caltech256" / "train", cat=[1], dog=[1])
    image_folder(tmp_path / "caltech256" / "validation", cat=[1, 2], dog=[1])
    image_folder(tmp_path / "caltech256" / "test", cat=[1], dog=[1])
    assert len(load_benchmark("caltech256", split, data_dir=tmp_path, accept_differences=True)) == rows


def test_one_of_two_joined_splits_is_not_taken_for_both(tmp_path: Path) -> None:
    image_folder(tmp_path / "flowers102" / "train", daisy=[1], rose=[1])
    with pytest.raises(FileNotFoundError, match=r"split 'train\+validation': files are missing"):
        load_benchmark("flowers102", "train+validation", data_dir=tmp_path)
