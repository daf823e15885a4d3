"""Pretraining of the tiny CLIP on captioned pictures without an attack: the model that defences start from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import datasets
from transformers import CLIPModel, CLIPProcessor, PrinterCallback

from ..config import MMCoAConfig
from ..data.digits import IMAGE_SIZE
from ..models import encoding
from ..training.trainer import MMCoATrainer
from .digits import load_captioned_digits, vocabulary
from .tiny_clip import WordVectors, tiny_clip

BATCH_SIZE = 128  # over all processes together


def pretrain_tiny_clip(
    texts: Iterable[str],
    dataset: datasets.Dataset,
    *,
    image_size: int,
    patch_size: int,
    epochs: int,
    seed: int = 0,
    context_length: int = 16,
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
    table.requires_grad_(True)
    return model, processor, trainer


def pretrain_on_digits(args: MMCoAConfig, epochs: int) -> tuple[CLIPModel, CLIPProcessor]:
    """Build a tiny CLIP and pretrain it on captioned digits, without attack.

    Args:
        args: arguments of the run, whose seed, device, precision and progress bar the pretraining shares.
        epochs: passes over the 1,200 training digits. 40 reach about 97% on the validation split.

    Returns:
        The model, which attacks can fool, and its processor.
    """
    model, processor, _ = pretrain_tiny_clip(
        vocabulary(),
        load_captioned_digits(args.seed),
        image_size=IMAGE_SIZE,
        patch_size=2,
        epochs=epochs,
        seed=args.seed,
        output_dir=args.output_dir,
        use_cpu=args.use_cpu,
        bf16=args.bf16,
        fp16=args.fp16,
        disable_tqdm=args.disable_tqdm,
    )
    return model, processor
