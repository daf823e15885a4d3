"""Pictures of one's own become what the deployed model sees; a benchmark's are resized as its row says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repositories import cifar100, image_folder
from transformers import CLIPImageProcessor, SiglipImageProcessor

from hf_mmcoa.data.fitting import ProcessorFitting
from hf_mmcoa.data.load import load_benchmark
from hf_mmcoa.data.rows import ImageRows

CLIP = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
SIGLIP = SiglipImageProcessor(size={"height": 48, "width": 48}, resample=2)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("processor", [CLIP, SIGLIP], ids=["clip", "siglip"])
@pytest.mark.parametrize("size", [(48, 48), (60, 48), (51, 77), (97, 33), (200, 150)])
def test_the_fitting_is_the_processors_own(processor: Any, size: tuple[int, int]) -> None:
    image = noise(*size)
    seen = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    got = np.asarray(ProcessorFitting.of(processor)(image)).transpose(2, 0, 1)
    assert got.shape == (3, 48, 48) and np.abs(got.astype(float) - seen).max() <= 1  # rounding of the two passes


def test_a_long_picture_is_cropped_without_being_enlarged() -> None:
    assert ProcessorFitting.of(CLIP)(Image.new("RGB", (60_000, 1))).size == (48, 48)


def test_a_picture_smaller_than_the_crop_is_refused_where_nothing_resizes() -> None:
    fitting = ProcessorFitting.of(CLIPImageProcessor(do_resize=False, crop_size={"height": 48, "width": 48}))
    assert fitting(noise(50, 48)).size == (48, 48)
    with pytest.raises(ValueError, match="20x30, smaller than the processor's crop of 48x48"):
        fitting(noise(30, 20))


def test_pictures_of_the_models_size_in_a_folder_stay_as_they_are(tmp_path: Path) -> None:
    image_folder(tmp_path / "test", cat=[1], dog=[2])
    picture = noise(48, 48)
    for file in (tmp_path / "test").rglob("*.png"):
        picture.save(file)
    rows = ImageRows(load_benchmark(str(tmp_path)), perturb_at="model", image_size=48, image_processor=CLIP)
    torch.testing.assert_close(rows[0]["image"], torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)


def test_a_benchmark_is_resized_as_its_row_says(tmp_path: Path) -> None:
    dataset = load_benchmark("cifar100", data_dir=cifar100(tmp_path), accept_differences=True)
    picture = {"bytes": None, "path": str(tmp_path / "noise.png")}
    noise(4, 4).save(picture["path"])
    dataset = dataset.map(lambda row: {"image": picture}, load_from_cache_file=False)
    ours, own = (
        ImageRows(dataset, perturb_at="model", image_size=48, image_processor=processor)[0]["image"]
        for processor in (CLIP, None)
    )
    torch.testing.assert_close(ours, own)
