"""A CLIP small enough to train on two cores in seconds: for the default digits run, the tests and the benchmarks."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..models import encoding

WordVectors = Callable[[Sequence[str]], Tensor]

CLIP_CONTEXT = 77  # tokens of a text, as published
SPARE_TOKENS = 4  # a substitute may be longer than its word


def tiny_tokenizer(texts: Iterable[str], num_merges: int | None = 1000) -> CLIPTokenizer:
    """Return CLIP's byte-pair tokenizer with merges learnt from `texts`.

    The trainer of the `tokenizers` package is not used, because it breaks ties by a random hash: the same texts would
    give other token ids in every process, and a seed would no longer determine the model.

    Args:
        texts: the more often a word occurs in them, the likelier it becomes a single token.
        num_merges: number of merges; None merges until every word of `texts` is one token.
    """
    counts = Counter(word for text in texts for word in _words(text))
    words = {word: (*word[:-1], f"{word[-1]}</w>") for word in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while num_merges is None or len(merges) < num_merges:
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


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def _checked(vectors: Tensor, words: list[str]) -> Tensor:
    if vectors.ndim != 2 or len(vectors) != len(words) or not torch.isfinite(vectors).all():
        raise ValueError(
            f"`word_vectors` must give finite vectors ({len(words)} words, any width), got {tuple(vectors.shape)}."
        )
    return vectors


def principal_components(vectors: Tensor, width: int) -> Tensor:
    """Return centred vectors on their first `width` principal axes, (words, width), zero-padded if there are fewer."""
    centred = vectors.double() - vectors.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:width].T
    signs = found.gather(0, found.abs().argmax(0, keepdim=True)).sign()  # the sign of an axis is arbitrary
    return F.pad(found * signs, (0, width - found.shape[1])).float()


def tiny_clip(
    texts: Iterable[str],
    *,
    image_size: int,
    patch_size: int,
    width: int = 64,
    layers: int = 2,
    context_length: int | None = 16,
    seed: int = 0,
    word_vectors: WordVectors | None = None,
) -> tuple[CLIPModel, CLIPProcessor]:
    """Build an untrained CLIP and its processor from their configurations.

    Args:
        texts: the vocabulary is learnt from them.
        image_size: height and width of an image, in pixels.
        patch_size: height and width of a patch, in pixels; 16 patches an image learn well.
        width: width of both encoders and of the joint space.
        layers: number of layers of each encoder.
        context_length: largest number of tokens of a text; None for that of the longest of `texts` and a few more, at
            most CLIP's own 77.
        seed: seed of the weights; the global random state is not changed.
        word_vectors: a function from words to their vectors, (words, any width), such as
            `functools.partial(word_vectors, "minilm")` of `hf_mmcoa.testbed.word_vectors`. Every word of `texts` is
            then one token. Its row of the token table starts at the word's vector, reduced to `width` by a PCA over
            these words and scaled to the mean norm of CLIP's initial rows. All other tokens start as in CLIP.

    Returns:
        `(model, processor)`, under 250,000 parameters at the default width, in eval mode.

    Raises:
        ValueError: if `word_vectors` does not return a finite row per word.
    """
    texts = list(texts)
    tokenizer = tiny_tokenizer(texts, 1000 if word_vectors is None else None)
    if context_length is None:
        longest = max((len(ids) for ids in tokenizer(texts)["input_ids"]), default=0)  # type: ignore[arg-type]
        context_length = min(longest + SPARE_TOKENS, CLIP_CONTEXT)
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
    model = untrained_clip(
        text_config, image_size=image_size, patch_size=patch_size, width=width, layers=layers, seed=seed
    )
    if word_vectors is not None:
        words = sorted({word for text in texts for word in _words(text)})
        rows = [tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in words]
        table = encoding.token_table(model)
        norm = table.norm(dim=-1).mean()  # one norm for all words: the lengths of BERT's rows depend on word frequency
        table[rows] = norm * F.normalize(principal_components(_checked(word_vectors(words), words), width), dim=-1)
    return model.eval(), CLIPProcessor(image_processor(image_size), tokenizer)


def untrained_clip(
    text_config: CLIPTextConfig, *, image_size: int, patch_size: int, width: int, layers: int, seed: int
) -> CLIPModel:
    """Return a CLIP with random weights, whose joint space has the width that the text tower projects to.

    Args:
        text_config: of the text tower.
        image_size: height and width of an image, in pixels.
        patch_size: height and width of a patch, in pixels.
        width: width of the image tower; a multiple of its 4 heads.
        layers: number of layers of the image tower.
        seed: seed of the weights; the global random state is not changed.
    """
    embed_dim = int(text_config.projection_dim or 0)
    vision_config = CLIPVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=embed_dim,
    )
    # A model of this size learns nothing from scratch with the published ln 100; CLIP's own training began at
    # ln(1 / 0.07).
    config = CLIPConfig(
        text_config=text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        projection_dim=embed_dim,
        logit_scale_init_value=math.log(1 / 0.07),
        attn_implementation="eager",  # type: ignore[call-arg]  # at this size faster than fused attention
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def image_processor(image_size: int) -> CLIPImageProcessorPil:
    """Return CLIP's image processor for pictures of that height and width; it needs no torchvision."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
