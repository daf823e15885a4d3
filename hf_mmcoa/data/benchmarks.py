"""The paper's data sets as rows, and one loader for them, any Hub repository and any local folder.

A row (`Benchmark`) says where the data lies, what to download, what names and prompts its classes have, at which size
the attack's budget applies, and how many rows there must be; the loader asserts it. Adding a data set adds a row, no
code. Files are read by the packaged `datasets` loaders (parquet, webdataset, imagefolder) with explicit file lists: no
script of a repository runs, the other splits are not downloaded, and a one-shard webdataset is not mistaken for text.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import json
import math
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from ..io import parse_json, read_json, read_text
from .columns import AUTO, Columns, resolve_columns
from .few_shot import few_shot_indices
from .labels import check_labels, read_labels
from .prompts import DEFAULT_TEMPLATE, clean_class_name

Format = Literal["parquet", "webdataset", "imagefolder", "saved", "idx", "embedded"]
Files = dict[str, list[str]]  # a repository's own split names to paths or hf:// addresses


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place a data set can be loaded from.

    Attributes:
        hub_id: Hub repository, or a word for the place if `format` is "idx" or "embedded".
        revision: the commit to load; None follows the main branch.
        config: the repository's configuration that `files` belong to, for the record.
        format: which loader reads the files.
        files: the repository's own split names to globs; only globs of the splits in use are downloaded.
        splits: our split names to the repository's; several are concatenated. Repository names work too.
        counts: rows of each of the repository's splits, asserted on load; a split that is absent is not checked.
        image_column, label_column: the columns; "auto" takes the usual names.
        names_file: text file at the top of the repository, line i = class i.
        names_column: column that holds each row's class name, where the label column has none.
        label_offset: the number of the first class in the repository.
        size_mb: size of the whole repository or configuration, in megabytes, where known.
        gated: whether terms must be accepted on the Hub first.
        local_dirs: folders searched when no `data_dir` is given, before any download.
        notes: what else to know; "unverified" marks what was not seen in the repository itself.
    """

    hub_id: str
    revision: str | None = None
    config: str | None = None
    format: Format = "parquet"
    files: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, int] = field(default_factory=dict)
    image_column: str = AUTO
    label_column: str = AUTO
    names_file: str | None = None
    names_column: str | None = None
    label_offset: int = 0
    size_mb: float | None = None
    licence: str = "unknown"
    gated: bool = False
    local_dirs: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set: where it comes from and what the paper says about it.

    Attributes:
        name: what to type.
        sources: first choice, then fallbacks, used with a warning when the first is gone.
        num_classes: asserted on load.
        template: the paper's prompt.
        ensemble: key of `templates.json`, OpenAI-style prompts as listed by CLIP_benchmark; None for none.
        perturb_at: "native" or "model": the size at which the attack's budget applies (METHODS.md, section 3).
        class_names: names by class number, for data without readable ones.
        expected_names: cleaned names, asserted on load as a set where the whole list is known.
        includes_names: cleaned names that must be among the classes, asserted on load.
        rename: names of the repository to better ones.
        replace: regular expressions applied to the repository's names, before any clean-up.
        by_index: cleaned names by class number, where the repository's names of two classes are alike. Used only when
            the number of classes is as expected.
        first_synonym: keep what stands before the first comma.
        notes: where the row departs from the paper or the repository from expectation.
    """

    name: str
    sources: tuple[Source, ...]
    num_classes: int
    template: str = DEFAULT_TEMPLATE
    ensemble: str | None = None
    perturb_at: Literal["native", "model"] = "model"
    class_names: tuple[str, ...] = ()
    expected_names: tuple[str, ...] = ()
    includes_names: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    replace: tuple[tuple[str, str], ...] = ()
    by_index: Mapping[int, str] = field(default_factory=dict)
    first_synonym: bool = False
    notes: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt ensemble, at least one template."""
        return (self.template,) if self.ensemble is None else tuple(_data_file("templates.json")[self.ensemble])


def _parquet(*splits: str) -> dict[str, str]:
    """Globs of the Hub's usual parquet layout, `<folder>/<split>-00000-of-00001.parquet`."""
    return {split: f"*/{split}-*.parquet" for split in splits}


def _tars(*splits: str) -> dict[str, str]:
    """Globs of the `wds_*` repositories. Only tars: `nshards.txt` beside them makes `datasets` guess "text"."""
    return {split: f"{split}/*.tar" for split in splits}


_TRAIN_TEST: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test",)}
_THREE: Mapping[str, tuple[str, ...]] = {**_TRAIN_TEST, "validation": ("validation",)}
_ALL_THREE: Mapping[str, tuple[str, ...]] = {**_THREE, "all": ("train", "validation", "test")}
_UNSEEN = "layout of the fallback unverified"

_CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_STL10_NAMES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR100_NAMES = (
    "apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple tree", "motorcycle", "mountain", "mouse", "mushroom", "oak tree", "orange", "orchid",
    "otter", "palm tree", "pear", "pickup truck", "pine tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow tree", "wolf",
    "woman", "worm",
)  # fmt: skip
_EUROSAT_PHRASES = {
    "AnnualCrop": "annual crop land",
    "Forest": "a forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "a highway or a road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "a river",
    "SeaLake": "a sea or a lake",
}

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="cifar10",
        num_classes=10,
        ensemble="cifar10",
        perturb_at="native",
        expected_names=_CIFAR10_NAMES,
        sources=(
            Source(
                hub_id="uoft-cs/cifar10",
                revision="0b2714987fa478483af9968de7c934580d0bb9a2",
                config="plain_text",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 50_000, "test": 10_000},
                image_column="img",
                label_column="label",
                size_mb=144,
            ),
            Source(
                hub_id="mteb/cifar10",
                revision="69a62dd171e24a133d193073e73fda4dbb823266",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="cifar100",
        num_classes=100,
        ensemble="cifar100",
        perturb_at="native",
        expected_names=_CIFAR100_NAMES,
        rename={"cra": "crab"},
        notes="Class 26 reads `cra` in the repository.",
        sources=(
            Source(
                hub_id="uoft-cs/cifar100",
                revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
                config="cifar100",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 50_000, "test": 10_000},
                image_column="img",
                label_column="fine_label",
                notes="size unverified, about 143 MB",
            ),
            Source(
                hub_id="mteb/cifar100",
                revision="ac5511f885f65fb75d31a9d8810a8440913f7721",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                label_column="fine_label",
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="stl10",
        num_classes=10,
        ensemble="stl10",
        perturb_at="native",
        expected_names=_STL10_NAMES,
        sources=(
            Source(
                hub_id="tanganke/stl10",
                revision="49ae7f94508f7feae62baf836db284306eab0b0f",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 5_000, "test": 8_000},
                image_column="image",
                label_column="label",
                size_mb=231,
            ),
            Source(
                hub_id="mteb/stl10",
                revision="2da456fe65204f88c2cb5e5ff17f85f442ef3eaa",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="imagenet",
        num_classes=1000,
        ensemble="imagenet",
        first_synonym=True,
        by_index={
            134: "crane bird",
            264: "cardigan welsh corgi",
            517: "construction crane",
            639: "tank suit",
            744: "projectile",
            836: "sunglass",
        },
        notes="`test` is the repository's validation; its own test labels are withheld. First synonyms repeat for "
        "crane, cardigan and maillot, OpenAI's names for missile and sunglasses: `by_index` tells them apart.",
        sources=(
            Source(
                hub_id="ILSVRC/imagenet-1k",
                files=_parquet("train", "validation"),
                splits={"train": ("train",), "test": ("validation",)},
                counts={"train": 1_281_167, "validation": 50_000},
                image_column="image",
                label_column="label",
                gated=True,
                licence="non-commercial ImageNet terms",
                notes="size unverified: validation about 6.7 GB, all over 150 GB",
            ),
            Source(
                hub_id="clip-benchmark/wds_imagenet1k",
                revision="b24c7a5a3ef12df09089055d1795e2ce7c7e7397",
                format="webdataset",
                files=_tars("train", "test"),
                splits=_TRAIN_TEST,
                counts={"test": 50_000},
                label_column="cls",
                names_file="classnames.txt",
                licence="non-commercial ImageNet terms",
                notes="names in classnames.txt unverified",
            ),
        ),
    ),
    Benchmark(
        name="tiny-imagenet",
        num_classes=200,
        ensemble="imagenet",
        first_synonym=True,
        includes_names=("abacus", "chihuahua"),
        notes="`test` is the repository's `valid`. Classes are synset ids, 18 of them homonyms that ImageNet-1k does "
        "not have; both are resolved by `class_names.json`. The release trains at native size and tests at 224. "
        "The ensemble is ImageNet's.",
        sources=(
            Source(
                hub_id="zh-plus/tiny-imagenet",
                files=_parquet("train", "valid"),
                splits={"train": ("train",), "test": ("valid",)},
                counts={"train": 100_000, "valid": 10_000},
                image_column="image",
                label_column="label",
                size_mb=161,
            ),
            Source(
                hub_id="mteb/tiny-imagenet",
                revision="e04e259f646f750bd0bdb2a56c2a4577d89bee3d",
                files=_parquet("train", "valid"),
                splits={"train": ("train",), "test": ("valid",)},
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="caltech101",
        num_classes=101,
        ensemble="caltech",
        notes="One split with all images, as the paper scores it; a train split only in the fallback, which adds a "
        "background class (102).",
        sources=(
            Source(
                hub_id="flwrlabs/caltech101",
                files=_parquet("train"),
                splits={"test": ("train",), "all": ("train",)},
                image_column="image",
                label_column="label",
                notes="8.7k rows, 8,677 unverified; size unverified, about 135 MB",
            ),
            Source(
                hub_id="mteb/Caltech101",
                revision="011e51e5fb01f0c820824734edb7a539ab8e6650",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 3_060, "test": 6_084},
                size_mb=138,
                notes="102 classes with background",
            ),
        ),
    ),
    Benchmark(
        name="caltech256",
        num_classes=257,
        template="A photo of a {}.",
        ensemble="caltech",
        replace=((r"^\d+\.", ""), (r"-101$", "")),
        notes="Clutter is a class. The paper scores all images: split `all`. The ensemble is Caltech-101's.",
        sources=(
            Source(
                hub_id="ilee0022/Caltech-256",
                files=_parquet("train", "validation", "test"),
                splits=_ALL_THREE,
                image_column="image",
                label_column="label",
                names_column="text",
                label_offset=1,
                size_mb=1150,
                notes="24.8k, 2.76k and 3.06k rows; exact counts and the spelling of the names unverified",
            ),
        ),
    ),
    Benchmark(
        name="pets",
        num_classes=37,
        template="A photo of a {}, a type of pet.",
        ensemble="pets",
        sources=(
            Source(
                hub_id="timm/oxford-iiit-pet",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 3_680, "test": 3_669},
                image_column="image",
                label_column="label",
                licence="CC BY-SA 4.0",
                size_mb=790,
            ),
            Source(
                hub_id="mteb/OxfordPets",
                revision="557b480fae8d69247be74d9503b378a09425096f",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="cars",
        num_classes=196,
        template="A photo of a {}.",
        ensemble="cars",
        notes="The year stays in the name. The release cuts it off, which leaves 189 distinct prompts for 196 classes.",
        sources=(
            Source(
                hub_id="tanganke/stanford_cars",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 8_144, "test": 8_041},
                image_column="image",
                label_column="label",
                size_mb=1980,
                notes="seven corruption splits (4 GB) are not downloaded",
            ),
            Source(
                hub_id="clip-benchmark/wds_cars",
                format="webdataset",
                files=_tars("train", "test"),
                splits=_TRAIN_TEST,
                label_column="cls",
                names_file="classnames.txt",
            ),
            Source(
                hub_id="mteb/StanfordCars",
                revision="09ffe9bc7864d3f1e851529e5c4b7e05601a04fb",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="food101",
        num_classes=101,
        template="A photo of {}, a type of food.",
        ensemble="food101",
        notes="The repository calls the official test set `validation`.",
        sources=(
            Source(
                hub_id="ethz/food101",
                revision="e06acf2a88084f04bce4d4a525165d68e0a36c38",
                files=_parquet("train", "validation"),
                splits={"train": ("train",), "test": ("validation",)},
                counts={"train": 75_750, "validation": 25_250},
                image_column="image",
                label_column="label",
                size_mb=5060,
            ),
            Source(
                hub_id="mteb/food101",
                revision="7cca05bfde8fdad4a9b39ed14a881c800cc1dca2",
                files=_parquet("train", "validation"),
                splits={"train": ("train",), "test": ("validation",)},
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="flowers102",
        num_classes=102,
        template="A photo of a {}, a type of flower.",
        ensemble="flowers",
        notes="Spellings differ between sources of the names (colts foot, colt's foot): only their number is asserted.",
        sources=(
            Source(
                hub_id="dpdl-benchmark/oxford_flowers102",
                files=_parquet("train", "validation", "test"),
                splits=_THREE,
                counts={"train": 1_020, "validation": 1_020, "test": 6_149},
                image_column="image",
                label_column="label",
                size_mb=3360,
            ),
            Source(
                hub_id="Donghyun99/Oxford-Flower-102",
                files=_parquet("train", "validation", "test"),
                splits=_THREE,
                counts={"train": 1_020, "validation": 1_020, "test": 6_149},
                size_mb=346,
                notes="labels and layout unverified",
            ),
        ),
    ),
    Benchmark(
        name="fgvc-aircraft",
        num_classes=100,
        template="A photo of a {}, a type of aircraft.",
        ensemble="fgvc-aircraft",
        replace=((r"^7", "Boeing 7"),),
        notes="Classes are the 100 variants, not the 70 families or the makers. Names that start with 7 get the prefix "
        "Boeing, as in the release; the release keeps hyphens, which our clean-up turns into spaces.",
        sources=(
            Source(
                hub_id="clip-benchmark/wds_fgvc_aircraft",
                format="webdataset",
                files=_tars("train", "test"),
                splits=_TRAIN_TEST,
                counts={"test": 3_333},
                label_column="cls",
                names_file="classnames.txt",
                notes="train has 3.33k rows",
            ),
            Source(
                hub_id="mteb/FGVCAircraft",
                revision="3ae0e4e94e37c610c26df758ec3255fa90d80e67",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 3_334, "test": 3_333},
                label_column="variant",
            ),
            Source(
                hub_id="Donghyun99/FGVC-Aircraft",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                label_column="variation",
                notes="its `label` is the 70 families; layout unverified",
            ),
        ),
    ),
    Benchmark(
        name="sun397",
        num_classes=397,
        ensemble="sun397",
        replace=((r"^/\w/", ""),),
        includes_names=("abbey",),
        notes="The paper scores all 108,754 images: `1aurent/SUN397`, split `all`.",
        sources=(
            Source(
                hub_id="tanganke/sun397",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                image_column="image",
                label_column="label",
                notes="19.9k rows each, 19,850 unverified; large pictures",
            ),
            Source(
                hub_id="1aurent/SUN397",
                files=_parquet("train"),
                splits={"all": ("train",)},
                image_column="image",
                label_column="label",
                notes="about 109k rows; names like /a/abbey",
            ),
            Source(
                hub_id="dpdl-benchmark/sun397",
                revision="7e6af6a2499ad708618be868e1471eac0aca1168",
                files=_parquet("train", "validation", "test"),
                splits=_THREE,
                notes="76.1k, 10.9k and 21.75k rows",
            ),
        ),
    ),
    Benchmark(
        name="country211",
        num_classes=211,
        template="A photo I took in {}.",
        ensemble="country211",
        notes="Names are those of classnames.txt; the release takes pycountry's, whose wording depends on its version.",
        sources=(
            Source(
                hub_id="clip-benchmark/wds_country211",
                revision="1699f138f0558342a1cbf99f7cf36b4361bb5ebc",
                format="webdataset",
                files=_tars("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 31_650, "test": 21_100},
                label_column="cls",
                names_file="classnames.txt",
                licence="CC BY-SA 4.0",
                size_mb=9500,
            ),
            Source(
                hub_id="mteb/wds_country211",
                revision="c3875324cab4803fa6d3afcd5947a97c84fad4c6",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                names_file="classnames.txt",
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="eurosat",
        num_classes=10,
        template="A centered satellite photo of {}.",
        ensemble="eurosat",
        rename=_EUROSAT_PHRASES,
        expected_names=tuple(_EUROSAT_PHRASES.values()),
        notes="The release scores all 27,000 images: split `all`. Its phrases carry articles, so of "
        "CLIP_benchmark's three templates only the one without an article is in the ensemble.",
        sources=(
            Source(
                hub_id="timm/eurosat-rgb",
                revision="b4e28552cd5f3932b6abc37eb20d3e84901ad728",
                files=_parquet("train", "validation", "test"),
                splits=_ALL_THREE,
                counts={"train": 16_200, "validation": 5_400, "test": 5_400},
                image_column="image",
                label_column="label",
                licence="MIT",
                size_mb=92,
            ),
            Source(
                hub_id="mteb/eurosat-rgb",
                revision="da02b77448e750b3b034e0b5da008167b9706571",
                files=_parquet("train", "validation", "test"),
                splits=_ALL_THREE,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="dtd",
        num_classes=47,
        template="A surface with a {} texture.",
        ensemble="dtd",
        includes_names=("polka dotted",),
        sources=(
            Source(
                hub_id="tanganke/dtd",
                revision="d2afa97d9f335b1a6b3b09c637aef667f98f966e",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                counts={"train": 3_760, "test": 1_880},
                image_column="image",
                label_column="label",
                size_mb=629,
                notes="partition 1 unverified",
            ),
            Source(
                hub_id="mteb/dtd",
                revision="96726183040de9e64a590d08eaac8de940dfcbdf",
                files=_parquet("train", "test"),
                splits=_TRAIN_TEST,
                notes=_UNSEEN,
            ),
        ),
    ),
    Benchmark(
        name="pcam",
        num_classes=2,
        template="This is a photo of {}",
        ensemble="pcam",
        class_names=("healthy lymph node tissue", "lymph node tumor tissue"),
        notes="Labels are booleans: metastatic tissue present. The paper's pair of prompts, without its misspelling.",
        sources=(
            Source(
                hub_id="1aurent/PatchCamelyon",
                files=_parquet("train", "valid", "test"),
                splits={"train": ("train",), "validation": ("valid",), "test": ("test",)},
                counts={"train": 262_144, "valid": 32_768, "test": 32_768},
                image_column="image",
                label_column="label",
                licence="CC0 1.0",
                size_mb=7640,
            ),
            Source(
                hub_id="clip-benchmark/wds_vtab-pcam",
                revision="502695fe1a141108650e3c5b91c8b5e0ff84ed49",
                format="webdataset",
                files=_tars("train", "test"),
                splits=_TRAIN_TEST,
                counts={"test": 32_768},
                label_column="cls",
                notes="its own names (classnames.txt) are not used: the paper's pair is",
            ),
        ),
    ),
    Benchmark(
        name="fashion-mnist",
        num_classes=10,
        perturb_at="native",
        class_names=_FASHION_NAMES,
        sources=(
            Source(
                hub_id="dataset-fashion-mnist",
                format="idx",
                files={"train": "train-*-ubyte*", "test": "t10k-*-ubyte*"},
                splits=_TRAIN_TEST,
                counts={"train": 60_000, "test": 10_000},
                local_dirs=("/usr/share/datasets/fashion-mnist",),
                licence="MIT",
                notes="the four idx files, plain or gzipped; on Debian `apt-get install dataset-fashion-mnist`",
            ),
        ),
    ),
    Benchmark(
        name="digits",
        num_classes=10,
        perturb_at="native",
        sources=(
            Source(
                hub_id="scikit-learn",
                format="embedded",
                splits=_THREE,
                notes="1,797 handwritten digits of 8x8 pixels that come with scikit-learn; no download",
            ),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkInfo:
    """What a loaded data set is: everything a result must say about its data.

    Attributes:
        name: the row's name, or the Hub id or folder.
        source: Hub id or folder it was read from.
        revision: the commit, if it came from the Hub and is pinned.
        split: the split asked for.
        class_names: from the ClassLabel column; empty for data with captions only.
        template: the paper's prompt, or the default.
        templates: the prompt ensemble.
        perturb_at: "native" or "model".
        shots, seed, row_ids: of a few-shot subset, its rows in the split; `row_ids` describes the data set as loaded
            and does not follow later calls of `select`, `shuffle` or `filter`.
        differences: how it differs from its row, where `accept_differences` let that pass.
        licence: licence of the data, where known.
    """

    name: str
    source: str = ""
    revision: str | None = None
    split: str = ""
    class_names: tuple[str, ...] = ()
    template: str = DEFAULT_TEMPLATE
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)
    perturb_at: Literal["native", "model"] = "model"
    shots: int | None = None
    seed: int | None = None
    row_ids: tuple[int, ...] = ()
    differences: tuple[str, ...] = ()
    licence: str = "unknown"


_INFO_KEY = "hf_mmcoa"


def describe(dataset: datasets.Dataset | datasets.IterableDataset) -> BenchmarkInfo:
    """The `BenchmarkInfo` of a data set from `load_benchmark`, or defaults for any other one.

    It travels as JSON in `dataset.info.description`: through `select`, `shuffle`, `filter`, `map`, `save_to_disk`,
    and through `concatenate_datasets` of parts with the same description. Class names come from the ClassLabel column.
    """
    features = dataset.features or {}
    label = next((f for f in features.values() if isinstance(f, datasets.ClassLabel)), None)
    names = tuple(label.names) if label is not None else ()
    try:
        stored = parse_json(dataset.info.description, "the description")[_INFO_KEY]
        stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return BenchmarkInfo(**{**stored, "class_names": names})
    except (ValueError, TypeError, KeyError, AttributeError):  # anybody's text
        return BenchmarkInfo(name="", class_names=names)


def _attach(dataset: Any, info: BenchmarkInfo) -> Any:
    stored = asdict(info)
    del stored["class_names"]  # the ClassLabel column has them, and must be the only one
    dataset.info.description = json.dumps({_INFO_KEY: stored})
    return dataset


def find_benchmark(name: str) -> Benchmark | None:
    """The row of that name, or of that Hub id, whose source then comes first; None if no row has it.

    Case and `-`, `_`, blanks do not count in names: CIFAR-10 is cifar10.
    """

    def key(text: str) -> str:
        return re.sub(r"[-_ ]", "", text.lower())

    for row in BENCHMARKS:
        if key(row.name) == key(name):
            return row
        for source in row.sources:
            if source.hub_id == name:
                return replace(row, sources=(source,))
    return None


def load_benchmark(
    name: str,
    split: str = "test",
    shots: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    streaming: bool = False,
    accept_differences: bool = False,
) -> Any:
    """A data set with columns `image` and `label` (ClassLabel, cleaned names); `text` if asked for or if all there is.

    Args:
        name: a name of `BENCHMARKS`, a Hub id, or a local folder (imagefolder, parquet, webdataset tars, idx files,
            `save_to_disk`).
        split: "train", "validation", "test" or "all" where the row has it, or the repository's own name of a split.
        shots: keep so many images of every class, drawn by `seed` (`few_shot_indices`); None keeps all.
        seed: for `shots` only.
        data_dir: folder with the repository's files laid out as on the Hub, or a folder of such folders named by Hub id
            or by `name`. Nothing is downloaded then.
        image_column, label_column, text_column: override the row's columns, or the usual names for other data.
        streaming: return an `IterableDataset` that reads as it goes; counts are not checked.
        accept_differences: load although counts or names differ from the row. `describe(...).differences` says how.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` with `streaming`. `describe` gives prompt, ensemble, perturbation
        size and the rest.

    Raises:
        ValueError: for an unknown name, split or column, data that differ from the row, labels outside the classes.
        FileNotFoundError: if files are missing and cannot be downloaded; says which, and where they are looked for.
        PermissionError: if the repository is gated and no token with access is there.

    Example:
        >>> dataset = load_benchmark("digits", split="test")
        >>> describe(dataset).template
        'This is a photo of a {}'
    """
    if streaming and shots is not None:
        raise ValueError("`shots` needs the whole split: use `streaming=False`.")
    row = find_benchmark(name)
    if row is not None:
        source, root, files = _locate(row, split, data_dir, streaming)
    else:
        source, root, files = _locate_unregistered(name, split, data_dir, streaming)
    info = BenchmarkInfo(
        name=name if row is None else row.name,
        source=root if data_dir is not None or source.format == "idx" or row is None else source.hub_id,
        revision=None if data_dir is not None else source.revision,
        split=split,
        template=DEFAULT_TEMPLATE if row is None else row.template,
        templates=(DEFAULT_TEMPLATE,) if row is None else row.templates,
        perturb_at="model" if row is None else row.perturb_at,
        licence=source.licence,
    )
    parts = [_read(source, hub_split, root, files, streaming) for hub_split in _hub_splits(source, split)]
    columns = resolve_columns(
        parts[0],
        image_column or source.image_column,
        label_column or source.label_column,
        text_column or (AUTO if row is None else None),
    )
    if columns.label is None and columns.text is None:
        raise ValueError(
            f"{info.source} has neither labels nor texts in a column of a usual name; name one with `label_column` or "
            f"`text_column`. It has {', '.join(parts[0].column_names)}."
        )
    if columns.label is not None and text_column is None:
        columns = columns._replace(text=None)
    if streaming:
        return _attach(_as_stream(parts, columns, row, source, root), info)
    dataset, differences = _as_dataset(parts, columns, row, source, root, files, split)
    if differences and not accept_differences:
        raise ValueError(
            f"{info.name}, split {split!r}, read from {info.source}, differs from its row: {'; '.join(differences)}. "
            "Pass `accept_differences=True` to use it as it is; the result then says so."
        )
    info = replace(info, differences=tuple(differences))
    if shots is not None:
        if columns.label is None:
            raise ValueError(f"`shots={shots}` needs labels, and {info.source} has captions only.")
        names = dataset.features["label"].names
        row_ids = few_shot_indices(read_labels(dataset, "label"), shots, seed, names)
        dataset = dataset.select(row_ids)
        info = replace(info, shots=shots, seed=seed, row_ids=tuple(row_ids))
    return _attach(dataset, info)


# --- where the files are ---------------------------------------------------------------------------------------------


def _hub_splits(source: Source, split: str) -> tuple[str, ...]:
    """The repository's splits behind `split`, which may be one of ours or one of its own."""
    own = {hub_split for hub_splits in source.splits.values() for hub_split in hub_splits} | set(source.files)
    return source.splits.get(split) or ((split,) if split in own else ())


def _offered(sources: Iterable[Source]) -> list[str]:
    return sorted({split for source in sources for split in (*source.splits, *source.files)})


def _locate(
    row: Benchmark, split: str, data_dir: str | os.PathLike[str] | None, streaming: bool
) -> tuple[Source, str, Files]:
    """The source to read, its root (a folder or an hf:// address), and the files of each of its splits in use."""
    sources = [source for source in row.sources if _hub_splits(source, split)]
    if not sources:
        raise ValueError(f"`split`: {row.name} has no split {split!r}; it has {', '.join(_offered(row.sources))}.")
    if data_dir is not None:
        return _locate_in_folder(row, sources, split, Path(data_dir))
    if sources[0] is not row.sources[0]:
        warnings.warn(
            f"{row.name}: {row.sources[0].hub_id} has no split {split!r}; using {sources[0].hub_id} instead.",
            UserWarning,
            stacklevel=3,
        )
    problems: list[str] = []
    cached = False  # once the network is known to be gone, fallbacks are looked for in the cache only
    for source in sources:
        if source.format == "embedded":
            return source, source.hub_id, {}
        globs = [source.files[hub_split] for hub_split in _hub_splits(source, split)]
        try:
            if source.format == "idx":
                found = _search([Path(folder) for folder in source.local_dirs], source, split)
                if found is None:
                    raise FileNotFoundError(
                        f"{', '.join(globs)} looked for in {', '.join(source.local_dirs)}; {source.notes}"
                    )
                root, files = found
            elif streaming:
                root = f"hf://datasets/{source.hub_id}" + (f"@{source.revision}" if source.revision else "")
                files = {s: [f"{root}/{source.files[s]}"] for s in _hub_splits(source, split)}
            else:
                extra = ["README.md", *([source.names_file] if source.names_file else [])]
                hint = " ".join(f"Open copy: {other.hub_id}." for other in row.sources if not other.gated)
                root = _download(source.hub_id, source.revision, [*globs, *extra], source.gated, hint, cached)
                found = _search([Path(root)], source, split)
                if found is None:
                    raise FileNotFoundError(f"{', '.join(globs)} of {source.hub_id}, looked for in {root}")
                files = found[1]
        except FileNotFoundError as error:
            problems.append(str(error))
            cached = isinstance(error, _NoNetworkError)
            continue
        if problems:
            warnings.warn(f"{row.name}: using {source.hub_id} instead; {problems[-1]}", UserWarning, stacklevel=3)
        return source, root, files
    raise FileNotFoundError(
        f"{row.name}, split {split!r}: files are missing: " + "; ".join(problems) + ". "
        "Give `data_dir`, a folder with these files laid out as in the repository, or run once with a network."
    )


def _search(folders: Sequence[Path], source: Source, split: str) -> tuple[str, Files] | None:
    """The first folder in which every glob of the split finds a file, with those files."""
    for folder in folders:
        files = {s: sorted(map(str, folder.glob(source.files[s]))) for s in _hub_splits(source, split)}
        if all(files.values()):
            return str(folder), files
    return None


def _locate_in_folder(row: Benchmark, sources: Sequence[Source], split: str, folder: Path) -> tuple[Source, str, Files]:
    for source in sources:
        if source.format == "embedded":
            return source, source.hub_id, {}
        found = _search([folder, folder / source.hub_id, folder / row.name], source, split)
        if found is not None:
            return source, *found
    for candidate in (folder / row.name, folder):  # another layout than the Hub's: class folders, saved data sets, ...
        if not candidate.is_dir():
            continue
        layout, files = _folder_layout(candidate)
        own = next(
            (s for s in (split, *(s for source in sources for s in _hub_splits(source, split))) if s in files), None
        )
        if own is not None:
            expected = [sources[0].counts.get(s) for s in _hub_splits(sources[0], split)]
            counts = {} if None in expected else {own: sum(filter(None, expected))}
            splits = {**layout.splits, split: (own,)}
            return replace(layout, splits=splits, counts=counts, licence=sources[0].licence), str(candidate), files
    globs = dict.fromkeys(source.files[s] for source in sources for s in _hub_splits(source, split))
    raise FileNotFoundError(
        f"{row.name}, split {split!r}: files are missing. No file matches {' or '.join(globs)} in {folder}, "
        f"{', '.join(str(folder / source.hub_id) for source in sources)} or {folder / row.name}. "
        "Lay `data_dir` out like the repository."
    )


def _locate_unregistered(
    name: str, split: str, data_dir: str | os.PathLike[str] | None, streaming: bool
) -> tuple[Source, str, Files]:
    folder = Path(name if data_dir is None else data_dir).expanduser()
    if data_dir is not None and (folder / name).is_dir():
        folder = folder / name
    if folder.is_dir():
        layout, files = _folder_layout(folder)
        if layout.format == "saved" and not layout.splits:
            layout, files = replace(layout, splits={split: (split,)}), {split: []}  # saved without a split's name
        return _checked_layout(layout, split, str(folder)), str(folder), files
    if data_dir is not None:
        raise FileNotFoundError(f"`data_dir`: {folder} is not a folder.")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        known = [row.name for row in BENCHMARKS]
        close = difflib.get_close_matches(name.lower(), known, n=3)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"`name`: {name!r} is no benchmark, no folder and no Hub id (owner/name). {hint}Known: {', '.join(known)}."
        )
    layout, files = _layout_of(_list_repository(name))
    layout = replace(_checked_layout(layout, split, name), hub_id=name)
    # Class folders are numbered over all splits, or a class that one split lacks would shift its labels.
    wanted = files if layout.format == "imagefolder" else {s: files[s] for s in _hub_splits(layout, split)}
    if streaming:
        return (
            layout,
            f"hf://datasets/{name}",
            {s: [f"hf://datasets/{name}/{path}" for path in wanted[s]] for s in wanted},
        )
    patterns = [path for paths in wanted.values() for path in paths]
    root = _download(name, None, [*patterns, "README.md", "classnames.txt"], gated=False)
    return layout, root, {s: [str(Path(root) / path) for path in paths] for s, paths in wanted.items()}


def _checked_layout(layout: Source, split: str, where: str) -> Source:
    if not layout.splits:
        raise FileNotFoundError(f"{where} holds no pictures, parquet, tar, idx or `save_to_disk` files.")
    if not _hub_splits(layout, split):
        raise ValueError(f"`split`: {where} has no split {split!r}; it has {', '.join(_offered([layout]))}.")
    return layout


_SUFFIXES: tuple[tuple[Format, tuple[str, ...]], ...] = (
    ("webdataset", (".tar",)),
    ("parquet", (".parquet",)),
    ("imagefolder", (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")),
)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # captions beside the pictures of an imagefolder
_SPLIT_WORD = r"(?:train|training|validation|valid|val|dev|test|testing)"
_SHARD = re.compile(r"([^/-]+)-\d{5}-of-\d{5}[^/]*$")


def _folder_layout(folder: Path) -> tuple[Source, Files]:
    """A local folder as a source, and the absolute paths of the files of each split."""
    if (folder / "dataset_dict.json").is_file():
        saved = _saved(folder / "dataset_dict.json").get("splits")
        if not isinstance(saved, list) or not all(isinstance(each, str) for each in saved):
            raise ValueError(f"{folder / 'dataset_dict.json'}: `splits` is {saved!r}, not a list of names.")
    elif (folder / "state.json").is_file():
        own = _saved(folder / "state.json").get("_split")
        saved = [str(own)] if own else []
        return Source(hub_id="", format="saved", splits={s: (s,) for s in saved}), {s: [] for s in saved}
    else:
        layout, files = _layout_of(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
        return layout, {s: [str(folder / path) for path in paths] for s, paths in files.items()}
    return Source(hub_id="", format="saved", splits={s: (s,) for s in saved}), {s: [] for s in saved}


def _saved(file: Path) -> dict[str, Any]:
    """A file of `save_to_disk`."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}: `save_to_disk` did not write it.")
    return content


def _layout_of(paths: Sequence[str]) -> tuple[Source, Files]:
    """Format and splits of a repository, from the names of its files."""
    files: Files = {}
    if any("-idx3-ubyte" in path for path in paths):
        for path in paths:
            if "-ubyte" in path:
                files.setdefault("test" if Path(path).name.startswith("t10k") else "train", []).append(path)
        return Source(hub_id="", format="idx", splits={s: (s,) for s in files}), files
    found = ((kind, [p for p in paths if p.lower().endswith(suffixes)]) for kind, suffixes in _SUFFIXES)
    kind, data = next(((kind, data) for kind, data in found if data), ("parquet", []))
    if kind == "imagefolder":
        data += [path for path in paths if Path(path).name in _METADATA]
        tops = {path.partition("/")[0] if "/" in path else "" for path in data}
        by_split = all(re.fullmatch(_SPLIT_WORD, top, re.I) for top in tops)  # a class may be called "train"
        for path in data:
            files.setdefault(path.partition("/")[0] if by_split else "train", []).append(path)
    else:
        for path in data:
            shard = _SHARD.search(path)
            word = re.search(rf"(?:^|[/_.-])({_SPLIT_WORD})(?=[/_.-])", path, re.I)
            files.setdefault(shard.group(1) if shard else word.group(1) if word else "train", []).append(path)
    return Source(hub_id="", format=kind, splits={s: (s,) for s in files}), files


def _list_repository(hub_id: str) -> list[str]:
    try:
        return sorted(huggingface_hub.HfApi().list_repo_files(hub_id, repo_type="dataset"))
    except GatedRepoError as error:
        raise _gated(hub_id) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"`name`: the Hub has no data set {hub_id!r}, or it is private and no token is set."
        ) from error
    except Exception as error:
        if not _is_network_error(error):
            raise
        root = _download(hub_id, None, None, gated=False, cached=True)  # or the error that says where it looked
        files = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file())
        if not files:
            raise FileNotFoundError(f"{hub_id}: no network, and no file of it in {root}.") from error
        return files


class _NoNetworkError(FileNotFoundError):
    """Files are not in the cache, and there is no network to fetch them by."""


def _no_network(hub_id: str, revision: str | None, missing: str) -> _NoNetworkError:
    folder = Path(hub_constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}"
    return _NoNetworkError(
        f"no network, and {missing} of {hub_id}{f' at {revision[:8]}' if revision else ''} not in {folder}"
    )


def _is_network_error(error: Exception) -> bool:
    """Offline mode, or no way to the Hub; the HTTP library below huggingface_hub changes its name between versions."""
    if isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError)):
        return False
    return isinstance(error, ConnectionError) or type(error).__module__.startswith(("httpx", "requests"))


def _download(
    hub_id: str, revision: str | None, patterns: list[str] | None, gated: bool, hint: str = "", cached: bool = False
) -> str:
    """The folder of the Hub's cache with the files of `patterns`, None for all; with `cached`, without the network."""
    missing = ", ".join(p for p in patterns or ["all files"] if p != "README.md")
    try:
        return str(
            huggingface_hub.snapshot_download(
                hub_id, repo_type="dataset", revision=revision, allow_patterns=patterns, local_files_only=cached
            )
        )
    except GatedRepoError as error:
        raise _gated(hub_id, hint) from error
    except LocalEntryNotFoundError as error:
        raise _no_network(hub_id, revision, missing) from error
    except RepositoryNotFoundError as error:
        if gated:
            raise _gated(hub_id, hint) from error
        raise FileNotFoundError(f"{missing}: the Hub has no data set {hub_id!r} that this token can see") from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"{missing} of {hub_id}: {error}") from error


def _gated(hub_id: str, hint: str = "") -> PermissionError:
    return PermissionError(
        f"{hub_id} is gated: accept its terms at https://huggingface.co/datasets/{hub_id}, then log in with "
        f"`hf auth login` or set HF_TOKEN to a token of that account. {hint}".rstrip()
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(source: Source, hub_split: str, root: str, files: Files, streaming: bool) -> Any:
    if source.format == "embedded":
        from .digits import load_digits  # scikit-learn is imported only by who asks for it

        dataset = load_digits(hub_split)  # type: ignore[arg-type]  # `_locate` has checked it against `splits`
    elif source.format == "idx":
        dataset = _read_idx(files[hub_split])
    elif source.format == "saved":
        saved = datasets.load_from_disk(root)
        dataset = saved[hub_split] if isinstance(saved, datasets.DatasetDict) else saved
    else:
        wanted = files if source.format == "imagefolder" else {hub_split: files[hub_split]}
        try:
            return datasets.load_dataset(
                source.format,
                data_files={re.sub(r"\W", "_", s): paths for s, paths in wanted.items()},
                split=re.sub(r"\W", "_", hub_split),
                streaming=streaming,
                verification_mode="no_checks",  # of the whole repository's splits; `counts` checks the one in use
            )
        except ValueError as error:
            if "corresponds to no data" in str(error):
                raise ValueError(f"split {hub_split!r} of {root} is empty.") from error
            raise
        except Exception as error:
            if _is_network_error(error):  # only streaming gets here: other files are on the disk by now
                missing = ", ".join(path.removeprefix(f"{root}/") for path in wanted[hub_split])
                raise FileNotFoundError(
                    f"no network, and streaming {source.hub_id} reads {missing} from {root}. Use `streaming=False` for "
                    "files in the cache, or `data_dir` for a local copy."
                ) from error
            raise
    return dataset.to_iterable_dataset() if streaming else dataset


_MAX_IDX_BYTES = 2**30  # EMNIST, the largest of these, has half a gigabyte


def _read_idx(paths: Sequence[str]) -> datasets.Dataset:
    """A pair of idx files (images, labels; MNIST's format), plain or gzipped."""
    arrays = [_idx_array(Path(path)) for path in paths]
    images = next((a for a in arrays if a.ndim == 3), None)
    labels = next((a for a in arrays if a.ndim == 1), None)
    if images is None or labels is None or len(images) != len(labels):
        shapes = ", ".join(f"{path} {array.shape}" for path, array in zip(paths, arrays, strict=True))
        raise ValueError(f"idx files need one of pictures and one of labels, of the same length; got {shapes}.")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    # PGM, grey bytes behind a header: a hundred times faster to write than 70,000 PNGs, and faster to read.
    header = f"P5 {images.shape[2]} {images.shape[1]} 255\n".encode()
    rows = {
        "image": [{"bytes": header + pixels.tobytes(), "path": None} for pixels in images],
        "label": labels.astype(np.int64),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def _idx_array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08":
                raise ValueError(f"{path} is no idx file of bytes: it starts with {head!r}, not with 00 00 08.")
            sizes = file.read(4 * head[3])
            shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
            size = math.prod(shape)  # exact, however large
            if len(shape) == head[3] and size > _MAX_IDX_BYTES:
                raise ValueError(f"{path} claims {size:,} values; at most {_MAX_IDX_BYTES:,} are read.")
            data = file.read(size + 1)  # no more, however much the file unpacks to
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or damaged: {error}.") from error
    if len(shape) < head[3] or len(data) != size:
        raise ValueError(f"{path} is cut off or too long: {len(data)} values of {size}.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _as_dataset(
    parts: Sequence[datasets.Dataset],
    columns: Columns,
    row: Benchmark | None,
    source: Source,
    root: str,
    files: Files,
    split: str,
) -> tuple[datasets.Dataset, list[str]]:
    """The parts as one data set of our columns, and how they differ from the row."""
    differences = [
        f"{hub_split!r} has {len(part):,} rows, not {source.counts[hub_split]:,}"
        for hub_split, part in zip(_hub_splits(source, split), parts, strict=True)
        if len(part) != source.counts.get(hub_split, len(part))
    ]
    if sum(map(len, parts)) == 0:
        raise ValueError(f"split {split!r} of {root} is empty.")
    kept = [name for name in (columns.image, columns.text) if name is not None]
    dataset = datasets.concatenate_datasets([part.select_columns(kept) for part in parts])
    dataset = _named(dataset, columns)
    if columns.label is None:
        return dataset, differences
    names, labels = _names_and_labels(parts, columns.label, row, source, root, files)
    if row is not None:
        differences += _name_differences(names, row)
    elif all(name.isdigit() for name in names):
        warnings.warn(
            f"class names are numbers ({', '.join(names[:3])}, ...): prompts will read so. Put a `classnames.txt`, "
            f"one name a line, into {root}.",
            UserWarning,
            stacklevel=4,
        )
    # A new column beside the stored table: casting the old one would write every picture again.
    dataset = dataset.add_column("label", labels, feature=datasets.ClassLabel(names=names))
    dataset = dataset.select_columns(["image", "label", *(["text"] if columns.text else [])])
    check_labels(dataset, "label", len(names))
    return dataset, differences


def _named(dataset: Any, columns: Columns) -> Any:
    new_names = {columns.image: "image", columns.text: "text"}
    dataset = dataset.rename_columns({old: new for old, new in new_names.items() if old is not None and old != new})
    return (
        dataset
        if isinstance(dataset.features["image"], datasets.Image)
        else dataset.cast_column("image", datasets.Image())
    )


def _as_stream(parts: Sequence[Any], columns: Columns, row: Benchmark | None, source: Source, root: str) -> Any:
    kept = [name for name in columns if name is not None]
    stream = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(list(parts))
    stream = stream.select_columns(kept)
    if stream.features is None:
        stream = stream._resolve_features()
    if columns.label is None:
        return _named(stream, columns)
    raw = _raw_names(stream.features[columns.label], columns.label, row, source, root)
    if raw is None:
        raise ValueError(
            f"streaming: {source.hub_id or root} keeps its class names in the rows; use `streaming=False`."
        )
    names = readable_names(raw, row, root)
    # No offset here: the one repository that counts from 1 keeps its names in the rows.
    stream = _named(stream, columns)
    stream = stream.rename_column(columns.label, "label") if columns.label != "label" else stream
    return stream.cast_column("label", datasets.ClassLabel(names=names))


# --- class names -----------------------------------------------------------------------------------------------------


@functools.cache
def _data_file(name: str) -> dict[str, Any]:
    """`templates.json`: prompt ensembles of OpenAI's CLIP as listed by CLIP_benchmark 1.6.2 (MIT). `class_names.json`:
    ImageNet-1k's synset ids with their WordNet lemmas, and Tiny-ImageNet's 18 homonyms of them."""
    return json.loads((resources.files(__package__) / name).read_text(encoding="utf-8"))


def readable_names(raw: Sequence[str], row: Benchmark | None = None, root: str = "") -> list[str]:
    """A repository's class names as words: synset ids looked up, the row's replacements, the clean-up of `prompts`.

    Names stay distinct, as ClassLabel needs: where cleaned names collide the raw ones are kept if those differ, and
    otherwise the class number is added, with a warning.
    """
    names = _synset_names(raw, root) if all(re.fullmatch(r"n\d{8}", name) for name in raw) else list(raw)
    synonyms = names != list(raw) or (row is not None and row.first_synonym)
    if row is not None:
        names = [row.rename.get(name, name) for name in names]
        for pattern, replacement in row.replace:
            names = [re.sub(pattern, replacement, name) for name in names]
    if synonyms:
        names = [name.split(",")[0] for name in names]
    names = [clean_class_name(name) for name in names]
    if row is not None and len(names) == row.num_classes:
        names = [row.by_index.get(index, name) for index, name in enumerate(names)]
    count = Counter(names)
    names = [original if count[name] > 1 else name for name, original in zip(names, raw, strict=True)]
    count = Counter(names)
    if max(count.values()) > 1:
        repeated = sorted(name for name in count if count[name] > 1)
        warnings.warn(
            f"{len(repeated)} class names stand for several classes: {', '.join(repeated[:5])}. Numbers were added.",
            UserWarning,
            stacklevel=2,
        )
    return [f"{name} {index}" if count[name] > 1 else name for index, name in enumerate(names)]


def _synset_names(raw: Sequence[str], root: str) -> list[str]:
    """WordNet ids to their lemmas: from our table of ImageNet-1k, else from a word list in the repository."""
    table = _data_file("class_names.json")
    words = {**table["synsets"], **{old: table["synsets"][new] for old, new in table["homonyms"].items()}}
    unknown = [name for name in raw if name not in words]
    if unknown:
        for file in ("words.txt", "LOC_synset_mapping.txt", "classes.py"):
            path = Path(root) / file
            if path.is_file():  # read as text: a .py file of a repository is never run
                for synset, *quoted in _SYNSET_LINE.findall(read_text(path)):
                    words.setdefault(synset, next(filter(None, quoted), "").strip())
        unknown = [name for name in raw if not words.get(name)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} classes are WordNet ids without a known name: {', '.join(unknown[:5])}. Put a `words.txt` "
            f"(id, tab, name) into {root or 'the data folder'}."
        )
    return [words[name] for name in raw]


_SYNSET_LINE = re.compile(r"""(n\d{8})["']?[ \t]*[:,=]?[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([^"'\n]+))""")


def _raw_names(feature: Any, column: str, row: Benchmark | None, source: Source, root: str) -> list[str] | None:
    """Names in the order of the classes, from the first place with readable ones; None if only the rows have them."""
    own = list(feature.names) if isinstance(feature, datasets.ClassLabel) and feature.names else None
    if own and not all(name.isdigit() for name in own):
        return own
    if row is not None and row.class_names:
        return list(row.class_names)
    lines = _names_file(source, root)
    if lines is not None:
        return lines
    if source.names_column is None and (Path(root) / "README.md").is_file():
        for info in DatasetInfosDict.from_directory(root).values():
            described = (info.features or {}).get(column)
            if isinstance(described, datasets.ClassLabel):
                return list(described.names)
    return own


def _names_file(source: Source, root: str) -> list[str] | None:
    name = source.names_file or "classnames.txt"
    if root.startswith("hf://"):
        if source.names_file is None:
            return None
        path = Path(_download(source.hub_id, source.revision, [name], source.gated)) / name
    else:
        path = Path(root) / name
    if not path.is_file():
        if source.names_file is None or source.format != "webdataset":
            return None
        raise FileNotFoundError(f"{name}, the class names of {source.hub_id}, is missing in {root}.")
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _names_and_labels(
    parts: Sequence[datasets.Dataset], column: str, row: Benchmark | None, source: Source, root: str, files: Files
) -> tuple[list[str], np.ndarray]:
    feature = parts[0].features[column]
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        texts = [text for part in parts for text in part.select_columns([column])[column]]
        everywhere = set(texts) | _strings_of_all_splits(source, column, files)
        if None in everywhere:
            raise ValueError(f"row {texts.index(None)} has no label in column {column!r}; filter such rows out first.")
        raw = sorted(everywhere)
        numbers = {name: number for number, name in enumerate(raw)}
        return readable_names(raw, row, root), np.array([numbers[text] for text in texts], dtype=np.int64)
    labels = np.concatenate([read_labels(part, column) for part in parts])
    if source.label_offset and labels.min() >= source.label_offset:  # a 0 means that they count from 0 after all
        labels = labels - source.label_offset
    names = _raw_names(feature, column, row, source, root)
    if names is None and source.names_column is not None and source.names_column in parts[0].column_names:
        texts = [text for part in parts for text in part.select_columns([source.names_column])[source.names_column]]
        by_label: dict[int, str] = {}
        for number, text in zip(labels.tolist(), texts, strict=True):
            if by_label.setdefault(number, text) != text:
                raise ValueError(
                    f"column {source.names_column!r} calls class {number} both {by_label[number]!r} and {text!r}."
                )
        size = max(row.num_classes if row is not None else 0, max(by_label) + 1)
        names = [by_label.get(number, f"unnamed {number}") for number in range(size)]
    if names is None:
        names = [str(number) for number in range(int(labels.max()) + 1)]
    return readable_names(names, row, root), labels


def _strings_of_all_splits(source: Source, column: str, files: Files) -> set[str]:
    """Labels that are words are numbered over all splits, or a class that one split lacks would shift the others."""
    if source.format != "parquet":
        return set()
    return {
        text
        for paths in files.values()
        for path in paths
        if Path(path).is_file() and column in pq.read_schema(path).names
        for text in pq.read_table(path, columns=[column])[column].unique().to_pylist()
    }


def _name_differences(names: Sequence[str], row: Benchmark) -> list[str]:
    differences = []
    if len(names) != row.num_classes:
        differences.append(f"{len(names)} classes, not {row.num_classes}")
    numbers = [name for name in names if name.isdigit() or name.startswith("unnamed ")]
    if numbers:
        differences.append(f"{len(numbers)} classes have no name but a number ({', '.join(numbers[:3])})")
    expected = set(row.expected_names) | set(row.includes_names)
    missing = sorted(expected - set(names))
    extra = sorted(set(names) - expected) if row.expected_names else []
    if missing:
        differences.append(f"no class {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
    if extra:
        differences.append(f"unexpected class {', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}")
    return differences
