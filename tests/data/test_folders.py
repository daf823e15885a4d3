"""Folders as people keep them: further folders, loose and hidden files, numbers for names."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from repositories import image_folder, labels_of, names_of, picture, write_parquet

from hf_mmcoa.data.layout import layout_of
from hf_mmcoa.data.load import load_benchmark


def touched(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(folder / path)
    return folder


@pytest.mark.parametrize("wrapper", ["", "pets/"])
@pytest.mark.parametrize("further", ["eval", "custom", "train_small"])
def test_a_further_folder_is_a_split_of_its_own(tmp_path: Path, wrapper: str, further: str) -> None:
    for split, values in (("train", [1, 2]), ("test", [3]), (further, [4, 5, 6])):
        image_folder(tmp_path / wrapper / split, cat=values, dog=values)
    image_folder(tmp_path / wrapper / further, zebra=[7])
    for split, rows, classes in (("train", 4, 2), ("test", 2, 2), (further, 7, 3)):
        dataset = load_benchmark(str(tmp_path), split=split)
        assert (len(dataset), len(names_of(dataset))) == (rows, classes)


@pytest.mark.parametrize("loose", ["preview.png", "extra/0.png", "features.parquet", "backup.tar"])
def test_what_lies_beside_splits_is_left_out_and_named(tmp_path: Path, loose: str) -> None:
    image_folder(tmp_path / "train", cat=[1, 2], dog=[3])
    image_folder(tmp_path / "test", cat=[4], dog=[5])
    (tmp_path / loose).parent.mkdir(exist_ok=True)
    picture(9).save(tmp_path / loose, "PNG")
    with pytest.warns(UserWarning, match=f"1 files belong to no split and are left out: {loose}"):
        assert len(load_benchmark(str(tmp_path), split="train")) == 3
    with pytest.warns(UserWarning, match="left out"):
        assert len(load_benchmark(str(tmp_path), split="test")) == 2


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["train.parquet", "test.parquet", "train_small.parquet"], {"train": 1, "test": 1, "train_small": 1}),
        (["train/0000.parquet", "test/0000.parquet", "custom/0000.parquet"], {"train": 1, "test": 1, "custom": 1}),
        (["train-0.tar", "train-1.tar", "test-0.tar", "more.tar"], {"train": 2, "test": 1, "more": 1}),
        (["train_part1.parquet", "train_part2.parquet"], {"train": 2}),
        (["data/train-00000-of-00002-a1.parquet", "data/train-00001-of-00002-b2.parquet"], {"train": 2}),
        (["data/old-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"old": 1, "test": 1}),
        (["train_small.parquet", "test_small.parquet"], {"train": 1, "test": 1}),
        (["a-train.parquet", "b-train.parquet"], {"a-train": 1, "b-train": 1}),
        (["cifar10-train/cat/0.png", "cifar10-test/cat/0.png"], {"train": 1, "test": 1}),
        (["train2017/cat/0.png", "val2017/cat/0.png"], {"train": 1, "val": 1}),
        (["a.parquet", "b.parquet"], {"train": 2}),
        (["data/0000.parquet", "assets/figure.png"], {"train": 1}),
        (["train/metadata.csv", "train/0.png", "test/metadata.csv", "test/0.png"], {"train": 2, "test": 2}),
        (["metadata.parquet", "images/0.png"], {"train": 2}),
    ],
)  # fmt: skip
def test_names_of_files_say_their_split(paths: list[str], splits: dict[str, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {split: len(files) for split, files in layout_of(paths)[1].items()} == splits


def test_splits_below_classes_or_of_several_data_sets_are_refused(tmp_path: Path) -> None:
    touched(tmp_path, "cat/train/0.png", "cat/test/0.png", "dog/train/0.png", "dog/test/0.png")
    with pytest.raises(ValueError, match=r"several folders hold splits: cat, dog\. .*split/class/picture"):
        load_benchmark(str(tmp_path))


def test_splits_without_class_folders_are_refused(tmp_path: Path) -> None:
    touched(tmp_path, "train/0.png", "test/0.png")  # "train" and "test" would be the classes
    with pytest.raises(ValueError, match=r"without class folders .*metadata"):
        load_benchmark(str(tmp_path))


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", cat=[1], dog=[3])
    image_folder(tmp_path / "test", cat=[4], dog=[5])
    touched(tmp_path, "test/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/test/cat/._0.png", "test/dog/._0.png")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.parquet").write_bytes(b"")
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["cat", "dog"] and len(dataset) == 2


def test_pictures_at_differing_depths_are_refused_by_name(tmp_path: Path) -> None:
    touched(tmp_path, "cat/0.png", "cat/kittens/1.png", "dog/0.png")
    with pytest.raises(ValueError, match=r"differing depths: cat/0\.png and cat/kittens/1\.png"):
        load_benchmark(str(tmp_path), split="train")


def test_a_loose_table_does_not_hide_the_class_folders(tmp_path: Path) -> None:
    image_folder(tmp_path, cat=[1], dog=[3])
    write_parquet(tmp_path / "old.parquet", features=labels_of(["x", "y"]), label=[1])
    with pytest.warns(UserWarning, match=r"left out: old\.parquet"):
        assert names_of(load_benchmark(str(tmp_path), split="train")) == ["cat", "dog"]


WORDS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lynx"]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("kind", ["folders", "words", "integers"])
def test_numbers_for_names_are_read_as_numbers(tmp_path: Path, start: int, kind: str) -> None:
    """Line i of `classnames.txt` is class i; ordered as texts, 10 would come before 2."""
    numbers = range(start, start + 12)
    (tmp_path / "classnames.txt").write_text("\n".join(WORDS) + "\n")
    if kind == "folders":
        image_folder(tmp_path / "test", **{str(n): [n] for n in numbers})
    else:
        labels = [str(n) if kind == "words" else n for n in numbers]
        write_parquet(tmp_path / "test.parquet", label=labels, offset=[0] * 12)
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == WORDS
    brightness = [np.asarray(image).max() - (start if kind == "folders" else 0) for image in dataset["image"]]
    assert list(dataset["label"]) == brightness and sorted(brightness) == list(range(12))


def test_numbers_that_do_not_fit_the_names_are_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", **{str(n): [n] for n in range(2, 12)})
    (tmp_path / "classnames.txt").write_text("\n".join(WORDS))
    with pytest.raises(ValueError, match=r"numbers from 2 to 11 \(10 of them\), and there are 12 class names"):
        load_benchmark(str(tmp_path))
    (tmp_path / "classnames.txt").write_text("ant\n\nbee\n")
    with pytest.raises(ValueError, match="line 2 is empty"):
        load_benchmark(str(tmp_path))


def test_a_number_that_no_folder_has_keeps_its_class(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", **{str(n): [n] for n in (0, 2, 10, 11)})
    (tmp_path / "classnames.txt").write_text("\n".join(WORDS))
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == WORDS and sorted(dataset["label"]) == [0, 2, 10, 11]


def test_numbers_without_names_are_in_their_order(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", **{str(n): [n] for n in range(11)})
    with pytest.warns(UserWarning, match="class names are numbers"):
        dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == [str(n) for n in range(11)]
    assert list(dataset["label"]) == [np.asarray(image).max() for image in dataset["image"]]


def test_names_that_are_not_used_are_not_ignored_in_silence(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", cat=[1], dog=[2])
    (tmp_path / "classnames.txt").write_text("tabby\nhound\n")
    with pytest.warns(UserWarning, match=r"classnames\.txt in .* is not used"):
        assert names_of(load_benchmark(str(tmp_path))) == ["cat", "dog"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved", "saved apart"])
@pytest.mark.parametrize("words", [["ant", "bee", "cat", "dog"], [0, 1, 2, 3]])
def test_labels_are_numbered_over_all_splits(tmp_path: Path, kind: str, words: list[str] | list[int]) -> None:
    rows = {"train": words, "test": words[1:3]}
    if kind.startswith("saved"):
        saved = datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"image": [picture(i) for i in range(len(labels))], "label": labels},
                    features=datasets.Features(
                        {"image": datasets.Image(), **datasets.Dataset.from_dict({"label": words}).features}
                    ),
                )
                for split, labels in rows.items()
            }
        )
        saved.save_to_disk(tmp_path)
        if kind == "saved apart":
            (tmp_path / "dataset_dict.json").unlink()
    for split, labels in rows.items() if not kind.startswith("saved") else ():
        files = [f"{i}.png" for i in range(len(labels))]
        touched(tmp_path, *(f"{split}/{file}" for file in files))
        table = pd.DataFrame({"file_name": files, "label": labels})
        if kind == "csv":
            table.to_csv(tmp_path / split / "metadata.csv", index=False)
        elif kind == "jsonl":
            table.to_json(tmp_path / split / "metadata.jsonl", orient="records", lines=True)
        else:
            table.to_parquet(tmp_path / split / "metadata.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = load_benchmark(str(tmp_path), split="test")
    assert names_of(dataset) == list(map(str, words)) and list(dataset["label"]) == [1, 2]


def test_words_of_one_split_alone_take_their_classes_from_the_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", label=["dog", "bee"])
    (tmp_path / "classnames.txt").write_text("ant\nbee\ncat\ndog\n")
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["ant", "bee", "cat", "dog"] and list(dataset["label"]) == [3, 1]


def test_a_decomposed_folder_is_found_in_the_composed_file(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", **{"cafe\u0301": [1], "bar": [2]})
    (tmp_path / "classnames.txt").write_text("zoo\ncaf\u00e9\nbar\n", encoding="utf-8")
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["zoo", "caf\u00e9", "bar"]
    assert {np.asarray(row["image"]).max(): row["label"] for row in dataset} == {1: 1, 2: 2}


def test_a_stream_whose_numbers_are_in_another_order_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", **{str(n): [n] for n in range(12)})
    (tmp_path / "classnames.txt").write_text("\n".join(WORDS))
    with pytest.raises(ValueError, match=r"another order than theirs; use `streaming=False`"):
        load_benchmark(str(tmp_path), streaming=True)
