"""A two-layer CLIP and a two-layer SigLIP on the CPU, built once; every test gets its own copy."""

from __future__ import annotations

import copy
import gc
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # xdist's own process, which runs no test, starts without them: 4 s earlier
    from torch import Tensor
    from transformers import CLIPModel, CLIPProcessor, SiglipModel, SiglipProcessor

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as the commands do; processes that tests start inherit it

TEXTS = [
    "This is a photo of a cat",
    "This is a photo of a dog",
    "This is a photo of a red car",
    "a picture of the small feline and a large hound near an automobile",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what is imported out of garbage collections: each `Trainer.train` asks for one, of 0.3 s otherwise.

    And compute in one thread: with several test processes on two cores it is faster, and the same sums every time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)


LONGEST_FILES = (
    "test_attack_libraries.py",
    "test_own_images.py",
    "test_protocol.py",
    "test_launch.py",
    "test_distributed.py",
    "test_notebooks.py",
    "test_comparison.py",
    "test_resume.py",
    "test_unread_settings.py",
    "test_resume_training.py",
    "test_jobs.py",
    "test_gpu_benchmark.py",
    "test_scale_benchmark.py",
)
"""Files whose slow tests take half a minute and more, longest first."""


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what comes after the first cases of a test marked `few`, and begin with the longest files.

    A file that begins last leaves the other processes idle for minutes. It takes `--no-loadscope-reorder`, without
    which xdist begins with the files of most tests.
    """
    cases: Counter[str] = Counter()
    for item in items:
        if few := item.get_closest_marker("few"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > few.args[0]:
                item.add_marker(pytest.mark.slow)
    place = {name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def _built() -> tuple[CLIPModel, CLIPProcessor]:
    from hf_mmcoa.testbed.tiny_clip import tiny_clip as build

    return build(TEXTS, image_size=32, patch_size=8, width=32)


@pytest.fixture
def tiny_clip(_built: tuple[CLIPModel, CLIPProcessor]) -> CLIPModel:
    """An untrained CLIP for 32x32 images and 16 tokens."""
    return copy.deepcopy(_built[0])


@pytest.fixture(scope="session")
def tiny_processor(_built: tuple[CLIPModel, CLIPProcessor]) -> CLIPProcessor:
    """The processor of `tiny_clip`; its words are those of `TEXTS`."""
    return _built[1]


@pytest.fixture(scope="session")
def tiny_siglip_processor() -> SiglipProcessor:
    """The processor of `tiny_siglip`; its tokenizer stands in for SigLIP's own, which needs sentencepiece.

    As that one it ends texts with `</s>`, pads with the same, writes no BOS and gives no mask unless asked.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = sorted({f"▁{word}" for text in TEXTS for word in text.lower().split()})
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(word, -1.0) for word in words] + [(letter, -10.0) for letter in letters if letter not in words]
    tokenizer = Tokenizer(models.Unigram([*dict(vocabulary).items()], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    image_processor = SiglipImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return SiglipProcessor(
        image_processor,
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="</s>",
            pad_token="</s>",
            unk_token="<unk>",
            model_input_names=["input_ids"],
        ),
    )


@pytest.fixture(scope="session")
def _built_siglip(tiny_siglip_processor: SiglipProcessor) -> SiglipModel:
    import torch
    from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = SiglipTextConfig(
        **tower,
        vocab_size=len(tiny_siglip_processor.tokenizer),
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=1,
    )
    vision = SiglipVisionConfig(**tower, image_size=32, patch_size=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).eval()
    model.logit_scale.data.fill_(math.log(10))  # where SigLIP's training starts (arXiv:2303.15343, section 3.2)
    model.logit_bias.data.fill_(-10.0)
    return model


@pytest.fixture
def tiny_siglip(_built_siglip: SiglipModel) -> SiglipModel:
    """An untrained SigLIP for 32x32 images and 16 tokens."""
    return copy.deepcopy(_built_siglip)


@pytest.fixture
def images() -> Tensor:
    """Four random images in [0, 1], (4, 3, 32, 32)."""
    import torch

    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
