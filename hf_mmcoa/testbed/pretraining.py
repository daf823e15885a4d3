"""Pretraining of the tiny CLIP on captioned pictures without an attack: the model that defences start from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
from transformers import CLIPModel, CLIPProcessor, PrinterCallback

from ..config import MMCoAConfig
from ..data.benchmark_info import describe
from ..data.digits import IMAGE_SIZE, load_digits
from ..models import encoding
from ..training.trainer import MMCoATrainer
from .captions import captioned, class_vocabulary
from .english_clip import english_clip
from .tiny_clip import WordVectors, tiny_clip

BATCH_SIZE = 128  # over all processes together
STEPS = 400  # of a pretraining that is given no number of epochs: 40 epochs of the digits


def pretrain_tiny_clip(
    texts: Iterable[str],
    dataset: datasets.Dataset,
    *,
    image_size: int,
    patch_size: int,
    epochs: int,
    seed: int = 0,
    context_length: int | None = 16,
    word_vectors: WordVectors | None = None,
    **arguments: Any,
) -> tuple[CLIPModel, CLIPProcessor, MMCoATrainer]:
    """Build a tiny CLIP and train it on captions without an attack.

    Args:
        texts: the vocabulary is learnt from them.
        dataset: captioned pictures, with a column of images and one of texts; with labels, captions of one class count
            as interchangeable.
        image_size: see `tiny_clip`.
        patch_size: see `tiny_clip`.
        epochs: number of passes over the data set.
        seed: seed of the weights and of the order of the rows.
        context_length: see `tiny_clip`.
        word_vectors: see `tiny_clip`. The token table is then frozen in this training: captions contain class words and
            no synonyms, so training would move the former away from the latter.
        **arguments: any other field of `MMCoAConfig`; `output_dir` is needed.

    Returns:
        The model, its processor and the trainer that trained it, which can save both.
    """
    model, processor = tiny_clip(
        texts,
        image_size=image_size,
        patch_size=patch_size,
        context_length=context_length,
        seed=seed,
        word_vectors=word_vectors,
    )
    table = encoding.token_embedding_layer(model)
    table.requires_grad_(word_vectors is None)
    trainer = _pretrain(model, processor, dataset, epochs, seed, arguments)
    table.requires_grad_(True)
    return model, processor, trainer


def align_with_english(
    dataset: datasets.Dataset, *, image_size: int, patch_size: int, epochs: int, seed: int = 0, **arguments: Any
) -> tuple[CLIPModel, CLIPProcessor, MMCoATrainer]:
    """Teach an image tower the meanings of the shipped English text tower, which stays as it is, without an attack.

    This is locked-image tuning with the roles exchanged (LiT, arXiv:2111.07991): images learn to lie where their class
    prompts lie, so that words which no caption holds mean something too.

    Args:
        dataset: pictures with labels, or with captions.
        image_size: see `english_clip`.
        patch_size: see `english_clip`.
        epochs: number of passes over the data set.
        seed: seed of the image tower's weights and of the order of the rows.
        **arguments: any other field of `MMCoAConfig`; `output_dir` is needed.

    Returns:
        The model, whose weights all train afterwards, its processor and the trainer, which can save both.
    """
    model, processor = english_clip(image_size=image_size, patch_size=patch_size, seed=seed)
    trainer = _pretrain(model, processor, dataset, epochs, seed, {"train_text_encoder": False} | arguments)
    model.requires_grad_(True)
    return model, processor, trainer


def _pretrain(
    model: CLIPModel,
    processor: CLIPProcessor,
    dataset: datasets.Dataset,
    epochs: int,
    seed: int,
    arguments: dict[str, Any],
) -> MMCoATrainer:
    """Train a model in place by CLIP's own loss, without an attack, and return its trainer."""
    recipe: dict[str, Any] = {
        "objective": "clean",
        "targets": "class",
        "num_train_epochs": epochs,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
    }
    settings = MMCoAConfig(**recipe | arguments)
    # The same number of steps for any number of processes.
    settings.per_device_train_batch_size = max(BATCH_SIZE // settings.world_size, 1)
    trainer = MMCoATrainer(model, settings, dataset, processing_class=processor)
    if settings.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
    trainer.stops_on_signals = False  # it is repeated in seconds, and writes no checkpoint to resume from
    trainer.train()
    return trainer


def pretrain_on_digits(args: MMCoAConfig, epochs: int | None) -> tuple[CLIPModel, CLIPProcessor]:
    """Build a tiny CLIP that knows English and align it with the training digits, without attack.

    Args:
        args: arguments of the run, whose seed, device, precision and progress bar the pretraining shares.
        epochs: passes over the 1,200 training digits; None for `STEPS` steps. 40 reach about 98% on the validation
            split.

    Returns:
        The model, which attacks can fool, and its processor.
    """
    data = load_digits("train")
    epochs = epochs if epochs is not None else _epochs(len(data))
    model, processor, _ = align_with_english(data, image_size=IMAGE_SIZE, patch_size=2, epochs=epochs, **_shared(args))
    return model, processor


def pretrain_on(
    dataset: datasets.Dataset,
    args: MMCoAConfig,
    *,
    image_size: int,
    epochs: int | None = None,
    words: Sequence[str] = (),
) -> tuple[CLIPModel, CLIPProcessor]:
    """Build a tiny CLIP for a data set and pretrain it on its pictures, without attack.

    Labelled pictures get captions that name their class; pictures with captions keep them; those with both teach both.

    Args:
        dataset: the training split, as `load_benchmark` returns it.
        args: arguments of the run, whose seed, device, precision, template and progress bar the pretraining shares.
        image_size: height and width of the model's images, in pixels; a multiple of 4, since a patch is a quarter.
        epochs: passes over the data set; None for `STEPS` steps.
        words: substitutes that the vocabulary must hold too.

    Returns:
        The model and its processor.

    Raises:
        ValueError: if `image_size` is no multiple of 4.
    """
    if image_size < 4 or image_size % 4:
        raise ValueError(f"`tiny_image_size` must be a multiple of 4, of which a patch is a quarter, got {image_size}.")
    texts, parts = list(words), []
    if "text" in dataset.column_names:
        own = dataset.select_columns("text").with_format(None)[:]["text"]
        texts += [text for given in own for text in (given if isinstance(given, list) else [given])]
        parts.append(dataset.remove_columns([name for name in dataset.column_names if name not in ("image", "text")]))
    if "label" in dataset.column_names:
        info = describe(dataset)
        texts += class_vocabulary(info.class_names, [info.template, str(args.template)], words)
        labelled = captioned(dataset.select_columns(["image", "label"]), args.seed)
        if parts:  # a caption belongs to one picture, a label to many: neither row says what the other may share
            if isinstance(own[0], list):
                lists = [[text] for text in labelled["text"]]
                labelled = labelled.remove_columns("text").add_column("text", lists)
            labelled = labelled.remove_columns("label").cast(parts[0].features)
        parts.append(labelled)
    whole = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    model, processor, _ = pretrain_tiny_clip(
        texts,
        whole,
        image_size=image_size,
        patch_size=image_size // 4,
        epochs=epochs if epochs is not None else _epochs(len(whole)),
        context_length=None,
        perturb_at="model",  # the pictures of a folder have any size
        **_shared(args),
    )
    return model, processor


def _shared(args: MMCoAConfig) -> dict[str, Any]:
    """Return what a pretraining has from the run that it begins."""
    names = ("seed", "output_dir", "use_cpu", "bf16", "fp16", "disable_tqdm")
    return {name: getattr(args, name) for name in names}


def _epochs(rows: int) -> int:
    """Return how many passes over so many rows make at least `STEPS` steps."""
    return math.ceil(STEPS / math.ceil(rows / BATCH_SIZE))
