"""Run an evaluation batch by batch: resumable, shared among processes, with a result that depends on neither.

Zero-shot accuracy and retrieval are two tasks of it. What is kept of a batch is a record, and all numbers are computed
from the records; so a run may be interrupted, or shared among processes, and its result is the same.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from tqdm.auto import tqdm

from ..data.benchmark_info import describe
from ..io import printable
from ..models.architectures import unwrapped
from ..models.precision import measured_in_full_precision
from ..models.sharding import is_sharded
from .attacked_texts import AttackedTexts, FoundTexts
from .export import Export
from .partial import PartialResults, header_differences
from .results import MAX_NAME
from .sanity import Finding, failed
from .shards import Shard, batch_name

Record = dict[str, Any]


class Task(Protocol):
    """An evaluation of one model on one data set, checked and resolved."""

    texts: AttackedTexts
    num_batches: int

    def header(self) -> dict[str, Any]:
        """Return all that decides the result, as JSON values."""

    def search(self) -> FoundTexts:
        """Return what the text attacks find that is the same for all images."""

    def load(self, index: int) -> dict[str, Any]:
        """Return the images and row ids of one batch."""

    def attack(self, index: int, batch: dict[str, Any]) -> Record:
        """Return the record of one batch, as JSON values."""

    def progress(self, records: Sequence[Record]) -> str:
        """Return a few words on the records so far, for the progress bar."""

    def check(self, records: Sequence[Record]) -> list[Finding]:
        """Return the findings of the sanity checks."""

    def summary(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return all numbers and outcomes, from the records alone."""


def run(
    task: Task,
    model: nn.Module,
    *,
    names: Mapping[str, Any],
    output: str | Path | None,
    overwrite: bool,
    state: Any,
    sanity: bool,
    progress: bool,
    load: Callable[[str | Path], dict[str, Any]],
    save: Callable[[Mapping[str, Any], str | Path], None],
    export: Export | None = None,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Run a task, or return the result that lies in `output` already.

    Args:
        task: what is evaluated.
        model: the model; in eval mode and without gradients on its weights meanwhile.
        names: fields of the header beside the task's own, such as the model's name.
        output: result file, or None.
        overwrite: replace the result of another evaluation instead of raising.
        state: processes, see `process_state`.
        sanity: also run the sanity checks.
        progress: show a bar on the main process.
        load, save: read and write a result file of this task.
        export: also write attacked images, texts and predictions there; what a finished result lacks of it is attacked
            again.
        shard: compute a part of the batches alone and return which, or merge the parts.

    Raises:
        ValueError: if `output` belongs to another evaluation, or parts are missing.
    """
    if shard is not None and (output is None or export is not None):
        raise ValueError("`shard` needs `output`, beside which its part is kept, and cannot be combined with `export`.")
    header: dict[str, Any] = {}
    header.update(names)
    header.update(task.header())
    partial = PartialResults(output, header)
    finished = _finished(output, partial.header, overwrite, load)
    if export is not None and not export.complete(partial.header):
        finished = None
    merging = shard if shard is not None and shard.number is None else None
    if merging is not None and finished is None:
        merging.check(str(output), partial.header, task.num_batches)
    state.wait_for_everyone()  # every process has looked before the first one writes
    if finished is not None:
        if state.is_main_process:
            partial.remove()
            if merging is not None:
                merging.remove(str(output))
        return finished
    if shard is not None and merging is None:
        partial = shard.partial(str(output), partial.header)
    if state.is_main_process:
        if export is not None:
            export.open(partial.header, overwrite)
        partial.open(overwrite)
    state.wait_for_everyone()
    partial.check()
    if merging is not None:
        if state.is_main_process:
            merging.fill(partial, str(output), task.num_batches)
        state.wait_for_everyone()

    batches = range(task.num_batches) if shard is None else shard.batches(task.num_batches)
    with evaluating(model), torch.no_grad():
        task.texts.use(_attacked_texts(task, partial, state))
        records = _all_batches(task, partial, state, progress, batches, export)
        if shard is not None and merging is None:
            return {"shard": str(shard), "batches": list(batches), "num_batches": task.num_batches}
        findings = _on_main_process(lambda: task.check(records), state) if sanity else []
        numbers = task.summary(records)
    last = (
        "captions",
        "captions_of",
        "class_accuracies",
        "confusion",
        "outcomes",
        "witnesses",
        "ranks",
    )  # long: after what people read
    outcomes: dict[str, Any] = {key: numbers.pop(key) for key in last if key in numbers}
    result: dict[str, Any] = numbers | header | {"sanity": findings} | outcomes
    if state.is_main_process:
        for finding in failed(findings):
            warnings.warn(f"sanity check failed: {finding['check']} ({finding['detail']}).", UserWarning, stacklevel=3)
        if output is not None:
            save(result, output)
        if export is not None:
            export.write(result, partial.header, records)
        if output is not None:
            partial.remove()
        if merging is not None:
            merging.remove(str(output))
    state.wait_for_everyone()
    return result


def evaluated_model(model: nn.Module, state: Any, accelerator: Any) -> nn.Module:
    """Return the unwrapped model, on the accelerator's device if one was given; a float32 copy of one in 16 bits.

    Raises:
        ValueError: if its weights are spread over processes.
    """
    if accelerator is not None:
        model = model.to(state.device)
    model = unwrapped(model)
    if is_sharded(model):
        raise ValueError(
            "`model` has its weights spread over processes, which do not evaluate the same batches: pass "
            "`trainer.whole_model()`, or load the folder that `trainer.save_model` writes."
        )
    return measured_in_full_precision(model)


def result_names(
    model: nn.Module,
    dataset: datasets.Dataset,
    model_name: str | None,
    dataset_name: str | None,
    training_seed: int | None,
) -> dict[str, Any]:
    """Return what a result is called: the user's names, or the model's and the data set's own."""
    return {
        "model": printable(model_name or getattr(model, "name_or_path", "") or type(model).__name__)[:MAX_NAME],
        "dataset": printable(dataset_name or _dataset_name(dataset))[:MAX_NAME],
        **({} if training_seed is None else {"training_seed": training_seed}),
    }


def _dataset_name(dataset: datasets.Dataset) -> str:
    benchmark = describe(dataset)
    name = benchmark.name or dataset.info.dataset_name or dataset.info.builder_name or "unnamed"
    split = benchmark.split or dataset.split
    return f"{name}/{split}" if split else str(name)


def _attacked_texts(task: Task, partial: PartialResults, state: Any) -> FoundTexts:
    """Return what the text attacks find, searched for once and by one process."""

    def read_or_search() -> FoundTexts:
        if (kept := partial.read("texts")) is not None:
            return FoundTexts(**kept)
        found = task.search()
        partial.write("texts", vars(found))
        return found

    # A process that read the file itself might find it written already, and not take part in the broadcast.
    return _on_main_process(read_or_search, state)


def _all_batches(
    task: Task, partial: PartialResults, state: Any, progress: bool, batches: range, export: Export | None = None
) -> list[Record]:
    """Return the record of each of the batches in order: read, or computed by the process whose turn it is."""
    records: dict[int, Record] = {}
    mine = batches[state.process_index :: state.num_processes]
    for index in mine:
        record = partial.read(batch_name(index))
        if record is not None and (export is None or export.holds(record)):
            records[index] = record
    missing = [index for index in mine if index not in records]
    new: list[Record] = []
    with (
        ThreadPoolExecutor(1) as reader,  # decodes the next pictures while the model works
        tqdm(
            total=len(mine),
            initial=len(records),
            desc="robustness",
            unit="batch",
            disable=not (progress and state.is_main_process),
        ) as bar,
    ):
        ahead = reader.submit(task.load, missing[0]) if missing else None
        for place, index in enumerate(missing, 1):
            batch = ahead.result()  # type: ignore[union-attr]
            ahead = reader.submit(task.load, missing[place]) if place < len(missing) else None
            records[index] = record = task.attack(index, batch)
            partial.write(batch_name(index), record)
            new.append(record)
            bar.set_postfix_str(task.progress(new), refresh=False)
            bar.update()
    if state.num_processes > 1:
        records = dict(gather_object(list(records.items())))
    return [records[index] for index in batches]


def _finished(
    output: str | Path | None,
    header: dict[str, Any],
    overwrite: bool,
    load: Callable[[str | Path], dict[str, Any]],
) -> dict[str, Any] | None:
    """Return the result that lies in `output` already, if it is this evaluation's."""
    if output is None or not Path(output).exists():
        return None
    try:
        result = load(output)
    except ValueError:
        if overwrite:
            return None
        raise
    found = header_differences({key: result.get(key) for key in header}, header)
    if not found:
        return result
    if overwrite:
        return None
    raise ValueError(
        f"{output} holds the result of another evaluation; then and now: {'; '.join(found)}. "
        "Choose another output, or pass `overwrite=True`."
    )


@dataclass(frozen=True)
class _SingleProcess:
    """Stand in for accelerate's state of one process, without starting its global state."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True

    def wait_for_everyone(self) -> None:
        """Return at once: there is no other process."""


def process_state(accelerator: Accelerator | PartialState | None, model: nn.Module) -> Any:
    """Return what says which process this is, and how many there are.

    Raises:
        ValueError: if `accelerator` does not know of all processes that were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator is None:
        if launched == 1 and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return _SingleProcess()
        # Where it finds no GPU, accelerate starts no process group unless it is told that this is meant.
        accelerator = PartialState(cpu=next(model.parameters()).device.type == "cpu")
    if accelerator.num_processes != launched and launched > 1:
        raise ValueError(
            f"{launched} processes were launched and `accelerator` knows of {accelerator.num_processes}: each would "
            "evaluate everything. On a CPU make it with Accelerator(cpu=True), or leave it out."
        )
    return accelerator


def _on_main_process(compute: Any, state: Any) -> Any:
    """Return what the main process computes, on every process."""
    value = [compute() if state.is_main_process else None]
    return (broadcast_object_list(value) if state.num_processes > 1 else value)[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without gradients on weights while the block runs; restore all of it afterwards."""
    training = [module for module in model.modules() if module.training]
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    model.eval()
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for weight in trainable:
            weight.requires_grad_(True)
