"""Idx files, the format of MNIST: arrays of bytes behind a header with their shape, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

_MAX_BYTES = 2**30  # EMNIST, the largest data set in this format, has half a gigabyte


def read_idx(paths: Sequence[str]) -> datasets.Dataset:
    """Read a pair of idx files, one of images and one of labels.

    Raises:
        ValueError: if the files are no such pair, or differ in length.
    """
    arrays = [idx_array(Path(path)) for path in paths]
    images = next((a for a in arrays if a.ndim == 3), None)
    labels = next((a for a in arrays if a.ndim == 1), None)
    if images is None or labels is None or len(images) != len(labels):
        shapes = ", ".join(f"{path} {array.shape}" for path, array in zip(paths, arrays, strict=True))
        raise ValueError(f"idx files: one of images and one of labels, of the same length, are needed; got {shapes}.")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    # PGM, grey bytes behind a header, is written a hundred times faster than 70,000 PNGs, and read faster too.
    header = f"P5 {images.shape[2]} {images.shape[1]} 255\n".encode()
    rows = {
        "image": [{"bytes": header + pixels.tobytes(), "path": None} for pixels in images],
        "label": labels.astype(np.int64),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def idx_array(path: Path) -> np.ndarray:
    """Read one idx file of bytes as a uint8 array.

    Raises:
        ValueError: if the file is not in this format, cut off, too long, or larger than a gigabyte.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08":
                raise ValueError(f"{path} is no idx file of bytes: it starts with {head!r}, not with 00 00 08.")
            sizes = file.read(4 * head[3])
            shape = tuple(int(n) for n in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
            size = math.prod(shape)  # Python integers: a hostile header cannot overflow them
            if len(shape) == head[3] and size > _MAX_BYTES:
                raise ValueError(f"{path} claims {size:,} values; at most {_MAX_BYTES:,} are read.")
            data = file.read(size + 1)  # no more than that, however far a gzipped file unpacks
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or damaged: {error}.") from error
    if len(shape) < head[3] or len(data) != size:
        raise ValueError(f"{path} is cut off or too long: {len(data)} values of {size}.")
    return np.frombuffer(data, np.uint8).reshape(shape)
