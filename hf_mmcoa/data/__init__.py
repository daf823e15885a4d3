"""Data sets: the benchmarks and their loader, prompts, few-shot subsets, and batches of images in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import benchmarks
from .benchmark_info import BenchmarkInfo, describe
from .benchmarks import Benchmark, Source, find_benchmark
from .columns import detect_columns
from .few_shot import few_shot, few_shot_indices
from .images import resize_and_crop, to_rgb, to_tensor
from .labels import check_labels
from .load import load_benchmark
from .prompts import DEFAULT_TEMPLATE, class_prompts, clean_class_name
from .rows import ImageRows, ImageStream, collate

if TYPE_CHECKING:
    from .benchmarks import BENCHMARKS
else:

    def __getattr__(name: str) -> Any:
        if name == "BENCHMARKS":  # the file of the rows is read on first use, not on import
            return benchmarks.BENCHMARKS
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BENCHMARKS",
    "DEFAULT_TEMPLATE",
    "Benchmark",
    "BenchmarkInfo",
    "ImageRows",
    "ImageStream",
    "Source",
    "check_labels",
    "class_prompts",
    "clean_class_name",
    "collate",
    "describe",
    "detect_columns",
    "few_shot",
    "few_shot_indices",
    "find_benchmark",
    "load_benchmark",
    "resize_and_crop",
    "to_rgb",
    "to_tensor",
]
