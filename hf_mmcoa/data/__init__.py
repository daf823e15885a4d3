"""Data sets: the benchmarks and their loader, prompts, few-shot subsets, and batches of images in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .few_shot import few_shot, few_shot_indices  # not lazy: importing the module would replace the function

if TYPE_CHECKING:
    from .benchmark_info import BenchmarkInfo, describe
    from .benchmarks import BENCHMARKS, Benchmark, Source, find_benchmark
    from .columns import detect_columns
    from .images import resize_and_crop, to_rgb, to_tensor
    from .labels import check_labels
    from .load import load_benchmark
    from .prompts import DEFAULT_TEMPLATE, class_prompts, clean_class_name
    from .rows import ImageRows, ImageStream, collate
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".benchmark_info": ["BenchmarkInfo", "describe"],
            ".benchmarks": ["BENCHMARKS", "Benchmark", "Source", "find_benchmark"],
            ".columns": ["detect_columns"],
            ".images": ["resize_and_crop", "to_rgb", "to_tensor"],
            ".labels": ["check_labels"],
            ".load": ["load_benchmark"],
            ".prompts": ["DEFAULT_TEMPLATE", "class_prompts", "clean_class_name"],
            ".rows": ["ImageRows", "ImageStream", "collate"],
        },
    )

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
