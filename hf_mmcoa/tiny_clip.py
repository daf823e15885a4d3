"""A CLIP small enough to train on two cores in seconds: for the embedded default, the tests and the benchmarks."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def tiny_tokenizer(texts: Iterable[str], num_merges: int = 1000) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with merges learnt from `texts`: a word that occurs in them tends to become one token.

    Learnt here and not by `tokenizers`, whose trainer breaks ties by a random hash: the same texts would give other
    token ids in every process, and a seed would not decide the model any more.
    """
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    words = {word: (*word[:-1], f"{word[-1]}</w>") for word in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while len(merges) < num_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(pieces, best) for word, pieces in words.items()}
    bytes_as_text = sorted(ByteLevel.alphabet())
    tokens = ["<|startoftext|>", *bytes_as_text, *(f"{byte}</w>" for byte in bytes_as_text), *map("".join, merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def tiny_clip(
    texts: Iterable[str],
    *,
    image_size: int,
    patch_size: int,
    width: int = 64,
    layers: int = 2,
    context_length: int = 16,
    seed: int = 0,
) -> tuple[CLIPModel, CLIPProcessor]:
    """An untrained CLIP and its processor, from their configs.

    Args:
        texts: what the vocabulary is learnt from.
        image_size: height and width in pixels.
        patch_size: height and width of a patch in pixels; 16 patches an image learn well.
        width: of both towers and of the joint space.
        layers: of both towers.
        context_length: most tokens of a text.
        seed: of the weights; the global random state stays as it is.

    Returns:
        `(model, processor)`, under 250,000 parameters at the default width, in eval mode.
    """
    tokenizer = tiny_tokenizer(texts)
    tokenizer.model_max_length = context_length
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=context_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=width,
    )
    vision_config = CLIPVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=width,
    )
    # From scratch the published start of ln 100 learns nothing at this size; ln(1 / 0.07) is where CLIP's own training
    # began.
    config = CLIPConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        projection_dim=width,
        logit_scale_init_value=math.log(1 / 0.07),
        attn_implementation="eager",  # type: ignore[call-arg]  # at this size faster than fused attention
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return model.eval(), CLIPProcessor(image_processor, tokenizer)
