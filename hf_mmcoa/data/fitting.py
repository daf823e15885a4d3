"""Make a picture the model's square input, where the attack budget applies at the model's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from .benchmark_info import describe
from .benchmarks import find_benchmark
from .images import resample_crop, resize_and_crop


@dataclass(frozen=True, kw_only=True)
class BenchmarkFitting:
    """The resize and crop of the benchmarks' rows, `resize_and_crop`.

    Attributes:
        size: side of the model's square input, in pixels.
    """

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture of `size` x `size` pixels."""
        return resize_and_crop(image, self.size)


@dataclass(frozen=True, kw_only=True)
class ProcessorFitting:
    """The resize and crop of an image processor: what a deployed model sees.

    Attributes:
        resized: the short side after the resize, or (height, width); None for no resize.
        crop: (height, width) of the centre that is cropped; None for no crop.
        resample: Pillow's number of the resampling.
    """

    resized: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int

    @classmethod
    def of(cls, image_processor: Any) -> ProcessorFitting:
        """Read the settings of an image processor like CLIP's or SigLIP's."""
        size = image_processor.size
        resized = size.get("shortest_edge") or (size["height"], size["width"])
        crop = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else None
        return cls(
            resized=resized if image_processor.do_resize else None,
            crop=None if crop is None else (crop["height"], crop["width"]),
            resample=int(image_processor.resample),
        )

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture as the processor would crop it.

        Raises:
            ValueError: if the picture is smaller than the crop, and the processor does not resize.
        """
        width, height = image.size
        if isinstance(self.resized, int):
            short = self.resized
            width, height = (
                short if width <= height else int(short * width / height),
                short if height <= width else int(short * height / width),
            )
        elif self.resized is not None:
            height, width = self.resized
        crop_height, crop_width = self.crop or (height, width)
        if height < crop_height or width < crop_width:
            raise ValueError(
                f"it is {height}x{width}, smaller than the processor's crop of {crop_height}x{crop_width}, and its "
                "`do_resize` is off"
            )
        crop = ((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)
        return resample_crop(image, (width, height), crop, Image.Resampling(self.resample))


def fitting_for(dataset: Any, image_size: int, image_processor: Any = None) -> BenchmarkFitting | ProcessorFitting:
    """Return how the data set's pictures become the model's input: a benchmark's as its row says, others as deployed.

    Args:
        dataset: a `datasets.Dataset` or an `IterableDataset`.
        image_size: side of the model's square input, in pixels.
        image_processor: the model's; None for the benchmarks' resize and crop with any data.
    """
    if image_processor is None or find_benchmark(describe(dataset).name) is not None:
        return BenchmarkFitting(size=image_size)
    return ProcessorFitting.of(image_processor)
