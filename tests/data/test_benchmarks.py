"""Each trap of the public repositories, on a small repository of the same layout, through the real loading path."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image

from hf_mmcoa.data.benchmarks import BENCHMARKS, BenchmarkInfo, describe, find_benchmark, load_benchmark, readable_names
from hf_mmcoa.data.prompts import class_prompts


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value: int = 0, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def encoded(value: int = 0, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(value).save(file, kind)
    return file.getvalue()


def write_parquet(
    path: Path, image: str = "image", features: dict[str, Any] | None = None, **columns: list[Any]
) -> None:
    """A parquet shard as `push_to_hub` writes it, its features in the metadata; picture i has brightness i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = len(next(iter(columns.values())))
    rows = {image: [picture(i) for i in range(size)], **columns}
    typed = datasets.Dataset.from_dict(columns).features
    typed.update({image: datasets.Image(), **(features or {})})
    datasets.Dataset.from_dict(rows, features=datasets.Features(typed)).to_parquet(str(path))


def write_tar(path: Path, labels: Sequence[int], image: str = "jpg") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"jpg": "JPEG", "webp": "WEBP"}[image]
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels):
            for name, data in ((f"s{i:04}.cls", str(label).encode()), (f"s{i:04}.{image}", encoded(i, kind))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def labels_of(names: Sequence[str]) -> dict[str, Any]:
    return {"label": datasets.ClassLabel(names=list(names))}


def names_of(dataset: Any) -> list[str]:
    return dataset.features["label"].names


# --- the rows --------------------------------------------------------------------------------------------------------


def test_the_seventeen_of_the_paper_and_two_local_ones_are_rows() -> None:
    assert {row.name for row in BENCHMARKS} == {
        "cifar10", "cifar100", "stl10", "imagenet", "tiny-imagenet", "caltech101", "caltech256", "pets", "cars",
        "food101", "flowers102", "fgvc-aircraft", "sun397", "country211", "eurosat", "dtd", "pcam", "digits",
        "fashion-mnist",
    }  # fmt: skip
    assert len({row.name for row in BENCHMARKS}) == len(BENCHMARKS)


@pytest.mark.parametrize("row", BENCHMARKS, ids=lambda row: row.name)
def test_a_row_is_consistent(row: Any) -> None:
    assert all(template.count("{}") == 1 for template in (row.template, *row.templates))
    assert set(row.by_index) <= set(range(row.num_classes))
    for names in (row.class_names, row.expected_names):
        assert len(names) in (0, row.num_classes) and len(set(names)) == len(names)
    assert "test" in row.sources[0].splits
    for source in row.sources:
        if source.format != "embedded":
            assert {s for own in source.splits.values() for s in own} == set(source.files)
            assert set(source.counts) <= set(source.files)
        if source.format == "webdataset":
            assert all(glob.endswith(".tar") for glob in source.files.values())
        assert source.revision is None or len(source.revision) == 40


def test_small_pictures_are_attacked_at_their_own_size() -> None:
    native = {row.name for row in BENCHMARKS if row.perturb_at == "native"}
    assert native == {"cifar10", "cifar100", "stl10", "digits", "fashion-mnist"}


def test_names_are_found_whatever_their_spelling_and_by_hub_id() -> None:
    assert find_benchmark("CIFAR-10") is find_benchmark("cifar_10") is find_benchmark("cifar10")
    row = find_benchmark("clip-benchmark/wds_imagenet1k")
    assert row is not None and row.name == "imagenet" and row.sources[0].names_file == "classnames.txt"
    assert find_benchmark("someone/cifar10") is None


# --- the traps of parquet repositories -------------------------------------------------------------------------------


CIFAR100 = [name.replace(" ", "_") for name in find_benchmark("cifar100").expected_names]  # type: ignore[union-attr]
CIFAR100_RAW = ["cra" if name == "crab" else name for name in CIFAR100]


def cifar100(folder: Path, rows: int = 3, names: Sequence[str] = CIFAR100_RAW) -> Path:
    features = {
        "fine_label": datasets.ClassLabel(names=list(names)),
        "coarse_label": datasets.ClassLabel(num_classes=20),
    }
    columns: dict[str, list[int]] = {"fine_label": [26, 1, 99][:rows], "coarse_label": [0, 1, 2][:rows]}
    write_parquet(folder / "cifar100" / "test-00000-of-00001.parquet", "img", features, **columns)
    return folder


def test_cifar100_reads_crab_and_the_fine_label(tmp_path: Path) -> None:
    dataset = load_benchmark("cifar100", data_dir=cifar100(tmp_path), accept_differences=True)
    assert dataset.column_names == ["image", "label"]
    assert names_of(dataset)[26] == "crab" and names_of(dataset)[1] == "aquarium fish"
    assert dataset[0]["label"] == 26 and np.asarray(dataset[2]["image"]).max() == 2
    info = describe(dataset)
    assert (info.name, info.template, info.perturb_at) == ("cifar100", "This is a photo of a {}", "native")
    assert info.class_names[26] == "crab" and len(info.templates) == 18
    assert info.differences == ("'test' has 3 rows, not 10,000",)


def test_counts_and_names_are_asserted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'test' has 3 rows, not 10,000\. .*accept_differences=True"):
        load_benchmark("cifar100", data_dir=cifar100(tmp_path / "a"))
    renamed = ["zebra" if name == "worm" else name for name in CIFAR100]
    with pytest.raises(ValueError, match=r"no class worm; unexpected class zebra"):
        load_benchmark("cifar100", data_dir=cifar100(tmp_path / "b", names=renamed))


def test_order_of_the_classes_is_the_repositorys_affair(tmp_path: Path) -> None:
    dataset = load_benchmark("cifar100", data_dir=cifar100(tmp_path, names=CIFAR100[::-1]), accept_differences=True)
    assert describe(dataset).differences == ("'test' has 3 rows, not 10,000",)
    assert names_of(dataset)[0] == "worm"


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


def test_class_names_from_the_readme_where_the_parquet_file_has_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=[1, 0])
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': airplane\n          '1': bird\n---\n"
    )
    assert names_of(load_benchmark("stl10", data_dir=tmp_path, accept_differences=True)) == ["airplane", "bird"]


def test_validation_and_valid_are_the_test_sets_of_food_and_tiny_imagenet(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "data" / "validation-00000-of-00001.parquet", features=labels_of(["apple_pie", "baklava"]), label=[1]
    )
    for split in ("test", "validation"):
        dataset = load_benchmark("food101", split=split, data_dir=tmp_path, accept_differences=True)
        assert names_of(dataset) == ["apple pie", "baklava"] and describe(dataset).split == split
        assert "'validation' has 1 rows, not 25,250" in describe(dataset).differences


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


# --- webdataset and class folders ------------------------------------------------------------------------------------


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


def test_webdataset_without_its_names_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "test" / "0.tar", [0])
    with pytest.raises(FileNotFoundError, match=r"classnames\.txt"):
        load_benchmark("country211", data_dir=tmp_path)


def image_folder(folder: Path, **classes: Sequence[int]) -> Path:
    for name, values in classes.items():
        (folder / name).mkdir(parents=True)
        for number, value in enumerate(values):
            picture(value).save(folder / name / f"{number}.png")
    return folder


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


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    image_folder(tmp_path, train=[1], plane=[2])
    dataset = load_benchmark(str(tmp_path), split="train")
    assert names_of(dataset) == ["plane", "train"] and len(dataset) == 2


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


def test_word_labels_are_numbered_over_all_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", label=["cat", "dog", "owl"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", label=["owl", "dog"])
    dataset = load_benchmark(str(tmp_path))
    assert names_of(dataset) == ["cat", "dog", "owl"] and list(dataset["label"]) == [2, 1]


def test_names_that_collide_after_the_clean_up_stay_distinct(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", features=labels_of(["Red_Panda", "red panda", "Owl"]), label=[0, 1, 2])
    assert names_of(load_benchmark(str(tmp_path), split="train")) == ["Red_Panda", "red panda", "owl"]
    with pytest.warns(UserWarning, match="1 class names stand for several classes: missile"):
        assert readable_names(["missile", "owl", "missile"]) == ["missile 0", "owl", "missile 2"]


def test_numbers_as_names_are_warned_of(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", label=[0, 1])
    with pytest.warns(UserWarning, match="class names are numbers"):
        load_benchmark(str(tmp_path))


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


# --- idx files, digits, streaming, few-shot --------------------------------------------------------------------------


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


def test_digits_come_from_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    dataset = load_benchmark("digits", split="test", shots=2, seed=1)
    assert names_of(dataset)[:3] == ["zero", "one", "two"]
    assert np.bincount(dataset["label"]).tolist() == [2] * 10
    assert describe(dataset).perturb_at == "native"


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


# --- errors ----------------------------------------------------------------------------------------------------------


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


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "401 Client Error")
    return error


def test_gated_repository_says_what_to_accept_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GatedRepoError, RepositoryNotFoundError):  # without a token the Hub may deny that it exists

        def refuse(*_: Any, kind: type[Exception] = kind, **__: Any) -> str:
            raise hub_error(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(PermissionError) as caught:
            load_benchmark("imagenet")
        for part in ("huggingface.co/datasets/ILSVRC/imagenet-1k", "HF_TOKEN", "clip-benchmark/wds_imagenet1k"):
            assert part in str(caught.value)


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


def test_empty_split_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", features=labels_of(["a", "b"]), label=[])
    with pytest.raises(ValueError, match="empty"):
        load_benchmark(str(tmp_path))
