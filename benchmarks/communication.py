"""What the processes of a training send each other: counted while it runs, and computed from what it is made of.

    python -m torch.distributed.run --standalone --nproc_per_node 2 benchmarks/communication.py FOLDER

trains a tiny CLIP for a few steps under DDP over gloo and writes into FOLDER, by process 0, what was counted in a step,
the losses, and the gradients of the first step. `scale` runs it with several numbers of processes and compares the
count with `of_step`; tests do too.

Two things are counted: the **payload**, the bytes of the tensors that are handed to collective operations (torch's
profiler, which sees those of DDP as well), and the bytes **sent**, which Linux counts for every TCP connection.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from epoch import pictures
from safetensors.torch import save_file
from subject import Subject, subject
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from hf_mmcoa import MMCoAConfig, MMCoATrainer
from hf_mmcoa.attacks import BertAttack

GLOBAL_BATCH = 16
WARM_UP, COUNTED = 2, 3
"""Steps before the count, in which DDP arranges its buckets, and steps of the count."""
KINDS = ("gradients", "embeddings", "embeddings' gradients", "flags")
VIEWS = 4
"""Sets of embeddings that MMCoA contrasts: images, texts, and both of them attacked."""
SIZES = {"float": 4, "int": 4, "long int": 8, "unsigned char": 1, "bool": 1}
BYTES_SENT = 200  # where Linux's struct tcp_info has tcpi_bytes_sent, since 4.19


def of_step(weights: int, tensors: int, buffers: int, rows: int, width: int, views: int = VIEWS) -> dict[str, int]:
    """Return the payload of one process in a step between two logs, in bytes by kind.

    Args:
        weights: numbers of all weights that train, in float32.
        tensors: tensors that they are in; DDP says of each whether it was used.
        buffers: bytes of the model's buffers, which DDP sends from process 0 before each forward.
        rows: of a process's batch.
        width: of an embedding.
        views: sets of embeddings that the objective contrasts.
    """
    return {
        "gradients": 4 * weights,
        "embeddings": 4 * views * rows * width,
        "embeddings' gradients": 4 * views * rows * width,
        "flags": 4 * tensors + buffers + 8,  # and whether a signal asks to stop
    }


def sent(payload: Mapping[str, float], processes: int) -> float:
    """Return the bytes that a process sends: 2 (n - 1) / n of what is summed, n - 1 times what is gathered.

    Those are the least that these operations can do with, and what the ring algorithms of gloo and NCCL send. The
    gradient of the gathered embeddings is n payloads, summed. Flags are too few to matter; they count as sums.
    """
    summed = payload["gradients"] + processes * payload["embeddings' gradients"] + payload["flags"]
    return 2 * (processes - 1) / processes * summed + (processes - 1) * payload["embeddings"]


def by_kind(operations: Iterable[tuple[str, list[int], str]], processes: int) -> dict[str, int]:
    """Return the payload by kind of operations as the profiler names them: name, shape, type of number."""
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for name, shape, dtype in operations:
        payload = math.prod(shape) * SIZES[dtype]
        if dtype == "float" and len(shape) == 2:  # rows of embeddings
            gathered = "all_gather" in name
            found["embeddings" if gathered else "embeddings' gradients"] += payload // (1 if gathered else processes)
        elif dtype == "float" and "all_reduce" in name:  # a bucket of DDP
            found["gradients"] += payload
        else:
            found["flags"] += payload
    return dict(found)


class Count(TrainerCallback):
    """Count `COUNTED` steps after the first ones, and keep the gradients of the first."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}
        self.operations: list[tuple[str, list[int], str]] = []
        self.sent = 0
        self._profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Keep what the optimizer is given in the first step."""
        if state.global_step == 0:
            weights = {name: weight for name, weight in model.named_parameters() if weight.grad is not None}
            self.gradients = {name.removeprefix("module."): weight.grad.clone() for name, weight in weights.items()}

    def on_step_begin(self, args: Any, state: Any, *more: Any, **kwargs: Any) -> None:
        """Begin to count, or stop counting."""
        if state.global_step == WARM_UP:
            self.sent -= sent_until_now()
            self._profile.start()
        elif state.global_step == WARM_UP + COUNTED:
            self._profile.stop()
            self.sent += sent_until_now()
            self.operations = [
                (event.name, event.input_shapes[0], event.input_dtypes[0])
                for event in self._profile.events()
                if event.name.startswith("gloo:")
            ]


def sent_until_now() -> int:
    """Return the bytes that this process has sent over TCP; every process must call it, and none sends meanwhile."""
    if dist.is_initialized():
        dist.barrier()
    time.sleep(0.2)  # until what was handed to the system has left it
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor))) as found:
                if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
                    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, BYTES_SENT)[0]
        except OSError:  # it was closed meanwhile
            continue
    if dist.is_initialized():
        dist.barrier()
    return total


def trainer_of(folder: Path, measured: Subject, count: Count, processes: int) -> MMCoATrainer:
    """Return a trainer whose steps are the same however many processes share a batch."""
    args = MMCoAConfig(
        output_dir=str(folder),
        per_device_train_batch_size=GLOBAL_BATCH // processes,
        max_steps=WARM_UP + COUNTED + 1,
        num_steps=2,
        random_start=False,  # each process draws its own
        text_attack="words",
        targets="diagonal",
        perturb_at="model",
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=1000,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    attack = BertAttack(
        candidates=measured.candidates, template=args.template, class_names=measured.class_names, num_candidates=3
    )
    return MMCoATrainer(
        measured.model,
        args,
        train_dataset=pictures(measured, GLOBAL_BATCH * (WARM_UP + COUNTED + 1)),
        processing_class=measured.processor,
        text_attack=attack,
        callbacks=[count],
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes, count = int(os.environ.get("WORLD_SIZE", "1")), Count()
    measured = subject(quick=True)
    model = measured.model
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    trainer = trainer_of(folder, measured, count, processes)
    losses: list[float] = []
    compute_loss = trainer.compute_loss

    def noted(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        losses.append(loss.item())
        return loss

    trainer.compute_loss = noted  # type: ignore[method-assign]
    trainer.train()
    made_of = {
        "weights": sum(weight.numel() for weight in weights),
        "tensors": len(weights),
        "buffers": buffers,
        "rows": GLOBAL_BATCH // processes,
        "width": model.config.projection_dim,
    }
    if trainer.is_world_process_zero():
        found = {
            "processes": processes,
            "made_of": made_of,
            "payload": {kind: value / COUNTED for kind, value in by_kind(count.operations, processes).items()},
            "sent": count.sent / COUNTED,
            "losses": losses,
        }
        save_file(count.gradients, folder / "gradients.safetensors")
        (folder / "communication.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
