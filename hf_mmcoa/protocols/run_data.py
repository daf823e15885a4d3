"""The data of a training run: read as its options say, and batches that suit a contrastive loss."""

from __future__ import annotations

import warnings
from typing import Any

import datasets

from ..config import MMCoAConfig
from ..data.benchmark_info import describe
from ..data.load import load_benchmark
from .run_arguments import RunArguments

CONTRASTIVE = (
    "mmcoa",
    "clean",
    "mat",
    "mat+",
    "advflyp",
)  # objectives whose negatives are the other samples of the batch
FEW_SAMPLES = 32  # of a global batch: fewer are warned about
SHUFFLED = 10_000  # rows of a stream among which the next is drawn


def training_data(run: RunArguments, args: MMCoAConfig) -> tuple[Any, Any]:
    """Return training and validation data; the latter is None without `eval_strategy`, and never the test split.

    Raises:
        ValueError: if a stream cannot do what the arguments ask.
    """
    if not run.streaming:
        data = _load(run, run.train_split, shots=run.shots, seed=args.data_seed or 0)
        return _split_validation(data, run, args)
    _check_streaming(run, args)
    data = _load(run, run.train_split, streaming=True)
    if args.perturb_at == "auto":  # whose choice by the first picture needs rows with numbers
        setattr(args, "perturb_at", describe(data).perturb_at)  # noqa: B010  (a field that the decorator adds)
    # A folder is stored class by class: in this order a batch would hold one class.
    seed = args.data_seed if args.data_seed is not None else args.seed
    return data.shuffle(seed=seed, buffer_size=SHUFFLED), None


def test_data(run: RunArguments) -> datasets.Dataset:
    """Return the split that is measured, which is never streamed: its rows have numbers in the result."""
    data: datasets.Dataset = _load(run, run.test_split)
    return data


def suit_contrastive_loss(data: Any, run: RunArguments, args: MMCoAConfig) -> None:
    """Choose `targets` where the run leaves them open, and warn of batches that teach a contrastive loss little.

    Args:
        data: the training split.
        run: says whether `targets` are open.
        args: its `targets` may become "class".
    """
    if args.objective not in CONTRASTIVE:
        return
    samples = args.train_batch_size * args.world_size
    if isinstance(data, datasets.Dataset):
        samples = min(samples, len(data))
    label = data.features.get("label")
    classes = len(label.names) if label is not None and "text" not in data.features else None
    if classes is not None and classes < samples and args.targets == "diagonal" and run.targets_are_free:
        args.targets = "class"
        if args.should_log:
            warnings.warn(
                f"`targets` is set to class: of {samples} samples of a batch and {classes} classes, some share a class "
                "and would be negatives of each other. Give `--targets` to silence this.",
                UserWarning,
                stacklevel=3,
            )
    if samples < FEW_SAMPLES and args.should_log:
        warnings.warn(
            f"a batch has {samples} samples, and {args.objective} learns from its other samples: results get better "
            "with more. Raise `--per_device_train_batch_size` (with `--encode_batch_size` if memory is short; "
            "`--gradient_accumulation_steps` does not help), or add pictures.",
            UserWarning,
            stacklevel=3,
        )


def _load(run: RunArguments, split: str, **options: Any) -> Any:
    return load_benchmark(
        run.dataset,
        split=split,
        data_dir=run.data_dir,
        image_column=run.image_column,
        label_column=run.label_column,
        text_column=run.text_column,
        **options,
    )


def _check_streaming(run: RunArguments, args: MMCoAConfig) -> None:
    problem = None
    if args.max_steps <= 0:
        problem = "has no length, so it needs `--max_steps`"
    elif run.shots is not None:
        problem = "cannot be drawn from: leave `--shots` out"
    elif args.eval_strategy != "no":
        problem = "cannot hold out a validation split: leave `--eval_strategy` out"
    elif run.model_name_or_path is None:
        problem = "is read once, and a tiny CLIP is pretrained on many passes: give `--model_name_or_path`"
    if problem:
        raise ValueError(f"`--streaming`: a stream {problem}, or leave `--streaming` out.")


def _split_validation(data: Any, run: RunArguments, args: MMCoAConfig) -> tuple[Any, Any]:
    if args.eval_strategy == "no":
        return data, None
    if run.dataset == "digits":
        return data, load_benchmark("digits", split="validation")
    parts = data.train_test_split(test_size=0.1, seed=0)
    return parts["train"], parts["test"]
