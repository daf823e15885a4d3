"""A two-layer CLIP on the CPU, built once; every test gets its own copy."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from hf_mmcoa.tiny_clip import tiny_clip as build_tiny_clip

torch.set_num_threads(1)  # two cores, several test processes: one thread each is faster, and the same sums every time

TEXTS = [
    "This is a photo of a cat",
    "This is a photo of a dog",
    "This is a photo of a red car",
    "a picture of the small feline and a large hound near an automobile",
]


@pytest.fixture(scope="session")
def _built() -> tuple[CLIPModel, CLIPProcessor]:
    return build_tiny_clip(TEXTS, image_size=32, patch_size=8, width=32)


@pytest.fixture
def tiny_clip(_built: tuple[CLIPModel, CLIPProcessor]) -> CLIPModel:
    """An untrained CLIP for 32x32 images and 16 tokens."""
    return copy.deepcopy(_built[0])


@pytest.fixture(scope="session")
def tiny_processor(_built: tuple[CLIPModel, CLIPProcessor]) -> CLIPProcessor:
    """The processor of `tiny_clip`; its words are those of `TEXTS`."""
    return _built[1]


@pytest.fixture
def images() -> torch.Tensor:
    """Four random images in [0, 1], (4, 3, 32, 32)."""
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
