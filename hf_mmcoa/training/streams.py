"""The training loader of a stream: every process reads its own part of it, from the batch on where a run resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..data.rows import ImageStream
from ..data.stream_part import StreamPart
from ..io import read_json


def stream_loader(
    accelerator: Accelerator,
    stream: ImageStream,
    collate: Callable[..., Any],
    batch_size: int,
    args: TrainingArguments,
    skipped_batches: int = 0,
) -> Any:
    """Return the loader of this process's part of a stream, as accelerate prepares loaders.

    accelerate's own way is that process 0 reads and decodes everything and sends the others their pictures.

    Args:
        accelerator: knows the processes and the device.
        stream: the whole stream.
        collate: makes a batch of rows.
        batch_size: of this process.
        args: the loader's settings. A worker without a shard of its own would have nothing to do: there are fewer then.
        skipped_batches: those that the Trainer skips, because a resumed run has trained on them.
    """
    part = StreamPart(stream, accelerator.process_index, accelerator.num_processes, skipped_batches, batch_size)
    workers = min(args.dataloader_num_workers, part.num_shards)
    loader = prepare_data_loader(
        DataLoader(
            part,
            batch_size,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
            multiprocessing_context=args.dataloader_multiprocessing_context if workers > 0 else None,
        ),
        accelerator.device,
        num_processes=1,  # the part is this process's already
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )
    loader._is_accelerate_prepared = True
    return accelerator.prepare(loader)


def batches_before(checkpoint: str | None, args: TrainingArguments) -> int:
    """Return how many batches a process trained on before a checkpoint, where a resumed run is to skip them.

    Args:
        checkpoint: folder, or None for a new run.
        args: the run's arguments.
    """
    if checkpoint is None or args.ignore_data_skip:
        return 0
    return int(read_json(Path(checkpoint, TRAINER_STATE_NAME))["global_step"]) * args.gradient_accumulation_steps
