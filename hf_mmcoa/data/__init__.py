"""Data sets as rows, their prompts and few-shot subsets, and the way from a row to a batch of pixels in [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .few_shot import few_shot, few_shot_indices  # not lazy: importing the module would replace the function

if TYPE_CHECKING:
    from .benchmarks import BENCHMARKS, Benchmark, BenchmarkInfo, Source, describe, find_benchmark, load_benchmark
    from .columns import detect_columns
    from .images import resize_and_crop, to_rgb, to_tensor
    from .labels import check_labels
    from .prompts import DEFAULT_TEMPLATE, class_prompts, clean_class_name
    from .rows import ImageRows, ImageStream, collate
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".benchmarks": [
                "BENCHMARKS",
                "Benchmark",
                "BenchmarkInfo",
                "Source",
                "describe",
                "find_benchmark",
                "load_benchmark",
            ],
            ".columns": ["detect_columns"],
            ".images": ["resize_and_crop", "to_rgb", "to_tensor"],
            ".labels": ["check_labels"],
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
