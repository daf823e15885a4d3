"""Class names and labels of small repositories, each with one trap of a real one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from repositories import CIFAR100, cifar100, labels_of, names_of, write_parquet, write_tar

from hf_mmcoa.data.benchmark_info import describe
from hf_mmcoa.data.benchmarks import find_benchmark
from hf_mmcoa.data.class_names import readable_names
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.prompts import class_prompts


def test_cifar100_reads_crab_and_the_fine_label(tmp_path: Path) -> None:
    dataset = load_benchmark("cifar100", data_dir=cifar100(tmp_path), accept_differences=True)
    assert dataset.column_names == ["image", "label"]
    assert names_of(dataset)[26] == "crab" and names_of(dataset)[1] == "aquarium fish"
    assert dataset[0]["label"] == 26 and np.asarray(dataset[2]["image"]).max() == 2
    info = describe(dataset)
    assert (info.name, info.template, info.perturb_at) == ("cifar100", "This is a photo of a {}", "native")
    assert info.class_names[26] == "crab" and len(info.templates) == 18
    assert info.differences == ("'test' has 3 rows, not 10,000",)


def test_order_of_the_classes_is_the_repositorys_affair(tmp_path: Path) -> None:
    dataset = load_benchmark("cifar100", data_dir=cifar100(tmp_path, names=CIFAR100[::-1]), accept_differences=True)
    assert describe(dataset).differences == ("'test' has 3 rows, not 10,000",)
    assert names_of(dataset)[0] == "worm"


def test_class_names_from_the_readme_where_the_parquet_file_has_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=[1, 0])
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': airplane\n          '1': bird\n---\n"
    )
    assert names_of(load_benchmark("stl10", data_dir=tmp_path, accept_differences=True)) == ["airplane", "bird"]


HOMONYMS = {
    "n02666347": "abacus", "n03373237": "fly", "n04465666": "tractor", "n04598010": "wooden spoon", "n07056680": "reel",
    "n07646821": "goose", "n07647870": "drumstick", "n07657664": "plate", "n07975909": "bee", "n08496334": "apron",
    "n08620881": "pole", "n08742578": "chihuahua", "n12520864": "broom", "n13001041": "mushroom", "n13652335": "nail",
    "n13652994": "chain", "n13719102": "slug", "n14991210": "orange",
}  # fmt: skip


def test_tiny_imagenet_synsets_and_their_homonyms_become_words(tmp_path: Path) -> None:
    words = {**HOMONYMS, "n01443537": "goldfish", "n02669723": "academic gown", "n02480495": "orangutan"}
    path = tmp_path / "data" / "valid-00000-of-00001.parquet"
    write_parquet(path, features=labels_of(list(words)), label=list(range(21)))
    dataset = load_benchmark("tiny-imagenet", data_dir=tmp_path, accept_differences=True)
    assert names_of(dataset) == list(words.values())
    assert describe(dataset).differences == ("'valid' has 21 rows, not 10,000", "21 classes, not 200")


def test_unknown_synsets_are_read_from_a_word_list_that_is_never_run(tmp_path: Path) -> None:
    synsets = ["n01443537", "n99999991", "n99999992"]
    path = tmp_path / "data" / "valid-00000-of-00001.parquet"
    write_parquet(path, features=labels_of(synsets), label=[0, 1, 2])
    with pytest.raises(ValueError, match=r"2 classes are WordNet ids.*n99999991"):
        load_benchmark("tiny-imagenet", data_dir=tmp_path, accept_differences=True)
    (tmp_path / "classes.py").write_text(
        f"open({str(tmp_path / 'was_run')!r}, 'w')\nnames = {{\n"
        "    'n99999991': \"judge's wig, horsehair wig\",\n    \"n99999992\": 'moon_rock',\n}\n"
    )
    dataset = load_benchmark("tiny-imagenet", data_dir=tmp_path, accept_differences=True)
    assert names_of(dataset) == ["goldfish", "judge's wig", "moon rock"]
    assert not (tmp_path / "was_run").exists()


def test_imagenet_keeps_the_first_synonym_and_tells_namesakes_apart() -> None:
    path = Path(__file__).parents[2] / "hf_mmcoa" / "data" / "class_names.json"
    raw = list(json.loads(path.read_text())["synsets"].values())
    assert len(raw) == 1000 and raw[0] == "tench, Tinca tinca"
    raw[517] = "crane2"  # the repository's ClassLabel cannot hold "crane" twice either
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = readable_names(raw, find_benchmark("imagenet"))
    assert len(set(names)) == 1000 and names[0] == "tench"
    assert [names[i] for i in (134, 517, 264, 474)] == [
        "crane bird", "construction crane", "cardigan welsh corgi", "cardigan",
    ]  # fmt: skip


def test_caltech256_labels_start_at_one_and_names_are_in_a_text_column(tmp_path: Path) -> None:
    labels = [*range(1, 258), 1]
    texts = [f"{n:03}.thing-{n}" if n != 3 else "003.boom-box-101" for n in labels]
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=labels, text=texts)
    dataset = load_benchmark("caltech256", data_dir=tmp_path)
    assert dataset["label"][0] == 0 and max(dataset["label"]) == 256 and dataset["label"][-1] == 0
    assert names_of(dataset)[:3] == ["thing 1", "thing 2", "boom box"] and len(names_of(dataset)) == 257
    assert dataset.column_names == ["image", "label"]


def test_caltech256_labels_that_start_at_zero_are_left_alone(tmp_path: Path) -> None:
    labels = list(range(257))
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=labels, text=[f"c{n}" for n in labels])
    assert list(load_benchmark("caltech256", data_dir=tmp_path)["label"]) == labels


def test_cars_keep_their_year_so_that_prompts_stay_distinct(tmp_path: Path) -> None:
    raw = ["Audi S4 Sedan 2007", "Audi S4 Sedan 2012", "Honda Odyssey Minivan 2007", "Honda Odyssey Minivan 2012"]
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", features=labels_of(raw), label=[0, 1, 2, 3])
    write_parquet(tmp_path / "data" / "contrast-00000-of-00001.parquet", features=labels_of(raw), label=[0])
    names = names_of(load_benchmark("cars", data_dir=tmp_path, accept_differences=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts = class_prompts(names, "A photo of a {}.")
    assert prompts[0] == "A photo of a audi s4 sedan 2007." and len(set(prompts)) == 4
    with pytest.warns(UserWarning, match="2 distinct prompts for 4 classes"):
        class_prompts([name[:-5] for name in raw])  # what the release does


def test_pcam_booleans_become_the_papers_pair(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "valid-00000-of-00001.parquet", label=[True, False, True])
    dataset = load_benchmark("pcam", split="validation", data_dir=tmp_path, accept_differences=True)
    assert list(dataset["label"]) == [1, 0, 1]
    assert class_prompts(names_of(dataset), describe(dataset).template) == [
        "This is a photo of healthy lymph node tissue",
        "This is a photo of lymph node tumor tissue",
    ]


def test_eurosat_names_become_phrases_and_all_splits_join(tmp_path: Path) -> None:
    raw = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
           "Residential", "River", "SeaLake"]  # fmt: skip
    for number, split in enumerate(("train", "validation", "test")):
        path = tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, features=labels_of(raw), label=[number] * (number + 1), image_id=["x"] * (number + 1))
    dataset = load_benchmark("eurosat", split="all", data_dir=tmp_path, accept_differences=True)
    assert list(dataset["label"]) == [0, 1, 1, 2, 2, 2]
    assert len(describe(dataset).differences) == 3 and describe(dataset).split == "all"
    assert class_prompts(names_of(dataset), describe(dataset).template)[2:4] == [
        "A centered satellite photo of brushland or shrubland.", "A centered satellite photo of a highway or a road.",
    ]  # fmt: skip


def test_sun397_paths_become_names(tmp_path: Path) -> None:
    names = readable_names(["/a/abbey", "/c/control_tower/outdoor"], find_benchmark("sun397"))
    assert names == ["abbey", "control tower outdoor"]


def test_repositories_with_numbers_for_names_are_noticed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", features=labels_of(["1", "10", "100"]), label=[0])
    with pytest.raises(ValueError, match=r"3 classes have no name but a number \(1, 10, 100\)"):
        load_benchmark("flowers102", data_dir=tmp_path)


def test_webdataset_without_its_names_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "test" / "0.tar", [0])
    with pytest.raises(FileNotFoundError, match=r"classnames\.txt"):
        load_benchmark("country211", data_dir=tmp_path)


def test_word_labels_are_numbered_over_all_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", label=["cat", "dog", "owl"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=["owl", "dog"])
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["cat", "dog", "owl"] and list(dataset["label"]) == [2, 1]


def test_two_encodings_of_an_accent_are_one_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", label=["cafe\u0301", "owl", "caf\u00e9"])
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["caf\u00e9", "owl"] and list(dataset["label"]) == [0, 1, 0]
    with pytest.warns(UserWarning, match="stand for several classes: caf\u00e9"):
        assert readable_names(["cafe\u0301", "caf\u00e9"]) == ["caf\u00e9 0", "caf\u00e9 1"]


def test_names_that_collide_after_the_clean_up_stay_distinct(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", features=labels_of(["Red_Panda", "red panda", "Owl"]), label=[0, 1, 2])
    assert names_of(load_benchmark(str(tmp_path), split="train")) == ["Red_Panda", "red panda", "owl"]
    with pytest.warns(UserWarning, match="1 class names stand for several classes: missile"):
        assert readable_names(["missile", "owl", "missile"]) == ["missile 0", "owl", "missile 2"]


def test_numbers_as_names_are_warned_of(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", label=[0, 1])
    with pytest.warns(UserWarning, match="class names are numbers"):
        load_benchmark(str(tmp_path))
