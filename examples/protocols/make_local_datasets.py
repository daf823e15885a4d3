"""Write the three local data sets of `smoke.yaml`, one in each format that people keep pictures in.

    python examples/protocols/make_local_datasets.py [FOLDER]        (default: output/smoke-data)

All are scikit-learn's handwritten digits, each in a style of its own: as they are in parquet, inverted in class folders
(imagefolder), transposed in tar shards (webdataset). No network.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from hf_mmcoa.data.digits import CLASS_NAMES, load_digits

SHARDS = 2


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("output/smoke-data"))
    parser.add_argument("--train", type=int, default=1200, help="training rows of each data set, at most 1,200")
    parser.add_argument("--test", type=int, default=120, help="test rows of each data set, at most 120")
    args = parser.parse_args()
    write_local_datasets(args.folder, args.train, args.test)
    print(f"{args.folder}: digits-parquet, digits-folders, digits-tars")


def write_local_datasets(folder: Path, train: int = 1200, test: int = 120) -> None:
    """All three data sets into `folder`. Test rows differ between them, training rows are the same in another style."""
    for place, (name, (style, write)) in enumerate(WRITERS.items()):
        for split, rows in (("train", range(train)), ("test", range(place * test, (place + 1) * test))):
            digits = load_digits(split).shuffle(seed=0).select(rows)  # type: ignore[arg-type]  # they lie by class
            write(folder / name, split, [style(picture.convert("L")) for picture in digits["image"]], digits["label"])


def write_parquet(folder: Path, split: str, pictures: list[Image.Image], labels: list[int]) -> None:
    """One parquet file a split, with class names in its schema."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    folder.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_folders(folder: Path, split: str, pictures: list[Image.Image], labels: list[int]) -> None:
    """One folder a class."""
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / split / CLASS_NAMES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def write_tars(folder: Path, split: str, pictures: list[Image.Image], labels: list[int]) -> None:
    """Tar shards of NNNN.png and NNNN.cls, and `classnames.txt`."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    for shard in range(SHARDS):
        with tarfile.open(folder / split / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard, len(pictures), SHARDS):
                png = io.BytesIO()
                pictures[number].save(png, format="PNG")
                for suffix, content in (("png", png.getvalue()), ("cls", str(labels[number]).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


Style = Callable[[Image.Image], Image.Image]
WRITERS: dict[str, tuple[Style, Callable[..., None]]] = {
    "digits-parquet": (lambda picture: picture, write_parquet),
    "digits-folders": (ImageOps.invert, write_folders),
    "digits-tars": (lambda picture: picture.transpose(Image.Transpose.TRANSPOSE), write_tars),
}

if __name__ == "__main__":
    main()
