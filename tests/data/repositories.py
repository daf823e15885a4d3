"""Small repositories with the layouts of the public ones, for the tests of this room."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from hf_mmcoa.data.benchmarks import find_benchmark


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


def image_folder(folder: Path, **classes: Sequence[int]) -> Path:
    for name, values in classes.items():
        (folder / name).mkdir(parents=True)
        for number, value in enumerate(values):
            picture(value).save(folder / name / f"{number}.png")
    return folder


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "401 Client Error")
    return error
