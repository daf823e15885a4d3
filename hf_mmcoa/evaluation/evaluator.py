"""Zero-shot accuracy of a dual encoder, clean and under image, text and multimodal attack: one call, one result.

Prompts are attacked once for all images, since their attack needs no image and no label. Images are attacked in fixed
batches of rows. What is kept of a batch is the outcome of every attack on every sample, and all numbers are computed
from those; so a run may be interrupted, or shared among processes, and its result is the same.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, extract_model_from_parallel, gather_object
from torch import nn
from tqdm.auto import tqdm

from ..attacks.contracts import ImageAttack
from ..data.benchmark_info import describe
from ..data.columns import AUTO
from ..io import printable
from ..models.sharding import is_sharded
from ..substitutes.source import CandidateSource
from .batch import evaluate_batch
from .partial import PartialResults, header_differences
from .prepare import ATTACKS, Evaluation, prepare
from .results import MAX_NAME, load_result, save_result, worst_case_attacks, worst_outcome
from .sanity import failed, run_battery
from .statistics import wilson_interval
from .threat_model import ThreatModel


def evaluate_robustness(
    model: nn.Module,
    processor: Any,
    dataset: datasets.Dataset,
    attacks: Sequence[str] = ATTACKS,
    *,
    threat_model: str | ThreatModel = "standard",
    class_names: Sequence[str] | None = None,
    candidates: CandidateSource | Mapping[str, CandidateSource] | None = None,
    image_attacks: Mapping[str, ImageAttack] | None = None,
    image_column: str = AUTO,
    label_column: str = AUTO,
    batch_size: int = 128,
    max_samples: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    accelerator: Accelerator | PartialState | None = None,
    sanity: bool = True,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    training_seed: int | None = None,
) -> dict[str, Any]:
    """Measure zero-shot accuracy under attack, with the outcome of every attack on every sample.

    The model is evaluated where it is, in eval mode; its mode, gradients and `requires_grad` are as before afterwards.

    Args:
        model: a `CLIPModel` or `SiglipModel`, wrapped or not.
        processor: its processor.
        dataset: pictures and labels, map-style.
        attacks: of "clean", "image", "text" and "multimodal". Multimodal brings image and text with it: an attacker of
            both may leave one alone. Which attacks of each kind are run is the threat model's business.
        threat_model: a specification, or the name of a preset ("quick", "paper", "standard", "strong").
        class_names: one a label; taken from the label column's `ClassLabel` when None.
        candidates: source of the text attack's substitutes; None builds the one that the threat model names. With
            several, {"known": s1, "unseen": s2}, the first is the threat model's own; each other one gives numbers of
            its own, named after it.
        image_attacks: attacks of your own by name, run on the cross-entropy in place of the threat model's.
        image_column: pictures; "auto" finds them.
        label_column: labels; "auto" finds them.
        batch_size: images per unit of work. The random starts depend on it.
        max_samples: evaluate on so many rows only, drawn once, the same for every threat model and seed.
        output: JSON file for the result. An evaluation that was interrupted goes on from `<output>.partial`, and ends
            with the file that an uninterrupted one would have written; a file that is complete already is returned.
        overwrite: replace a result, finished or not, of another evaluation in `output`, instead of raising.
        accelerator: shares the batches among its processes; every process returns the whole result.
        sanity: also run the checks of `sanity`, on a few samples; their findings lie in `result["sanity"]`.
        progress: show a bar, on the main process.
        model_name: recorded as `result["model"]`; the model's own name when None.
        dataset_name: recorded as `result["dataset"]`; the data set's own when None.
        training_seed: seed of the training that made the weights, recorded as `result["training_seed"]`. Reports
            average results of one name only where they hold different training seeds.

    Returns:
        A flat dictionary of JSON values: `clean_accuracy`; `image_accuracy`, `text_accuracy` and `multimodal_accuracy`,
        the worst case per sample over that kind's attacks; `embedding_accuracy` and `worst_case_accuracy`; for each of
        them its 95% interval, as in `image_accuracy_interval`, and its success rate among the correctly classified, as
        in `image_attack_success_rate` (None if there are none); `attacks/<name>` and `outcomes`, one sign a sample, of
        every attack; `attack_spec`, `sanity` and what else is needed to judge and redo it.

    Raises:
        ValueError: for an empty data set, fewer than two classes, labels outside the class names, a prompt longer than
            the context, unknown attacks, an `output` that belongs to another evaluation, or a model whose weights are
            spread over processes (FSDP, DeepSpeed ZeRO-3).
        TypeError: if the model is no dual encoder, or has no `logit_scale`.

    Example:
        >>> result = evaluate_robustness(model, processor, test_split, threat_model="quick")  # doctest: +SKIP
        >>> result["multimodal_accuracy"], result["attack_spec"]["epsilon"]  # doctest: +SKIP
    """
    spec = ThreatModel.preset(threat_model) if isinstance(threat_model, str) else threat_model
    state = _process_state(accelerator, model)
    if accelerator is not None:
        model = model.to(state.device)
    model = extract_model_from_parallel(model)
    if is_sharded(model):
        raise ValueError(
            "`model` has its weights spread over processes, which do not evaluate the same batches: pass "
            "`trainer.whole_model()`, or load the folder that `trainer.save_model` writes."
        )
    evaluation = prepare(
        model,
        processor,
        dataset,
        attacks,
        spec,
        class_names=class_names,
        candidates=candidates,
        image_attacks=image_attacks,
        image_column=image_column,
        label_column=label_column,
        batch_size=batch_size,
        max_samples=max_samples,
    )
    header = {
        "model": printable(model_name or getattr(model, "name_or_path", "") or type(model).__name__)[:MAX_NAME],
        "dataset": printable(dataset_name or _dataset_name(dataset))[:MAX_NAME],
        **({} if training_seed is None else {"training_seed": training_seed}),
        **evaluation.header(),
    }
    partial = PartialResults(output, header)
    finished = _finished(output, partial.header, overwrite)
    state.wait_for_everyone()  # every process has looked before the first one writes
    if finished is not None:
        if state.is_main_process:
            partial.remove()
        return finished
    if state.is_main_process:
        partial.open(overwrite)
    state.wait_for_everyone()
    partial.check()

    with _evaluating(model), torch.no_grad():
        evaluation.use_prompts(_attacked_prompts(evaluation, partial, state))
        records = _all_batches(evaluation, partial, state, progress)
        findings = _on_main_process(lambda: run_battery(evaluation, records), state) if sanity else []
    result = _summary(evaluation, records, header, findings)
    if state.is_main_process:
        for finding in failed(findings):
            warnings.warn(f"sanity check failed: {finding['check']} ({finding['detail']}).", UserWarning, stacklevel=2)
        if output is not None:
            save_result(result, output)
            partial.remove()
    state.wait_for_everyone()
    return result


def _attacked_prompts(evaluation: Evaluation, partial: PartialResults, state: Any) -> dict[str, list[str]]:
    """What the text attacks find, searched for once and by one process."""

    def read_or_search() -> dict[str, list[str]]:
        found = partial.read("texts")
        if found is None:
            found = evaluation.search_prompts()
            partial.write("texts", found)
        return found

    # A process that read the file itself might find it written already, and not take part in the broadcast.
    return _on_main_process(read_or_search, state)


def _all_batches(evaluation: Evaluation, partial: PartialResults, state: Any, progress: bool) -> list[dict[str, Any]]:
    """Every batch's record in order: read, or computed by the process whose turn it is."""
    records: dict[int, dict[str, Any]] = {}
    mine = range(state.process_index, evaluation.num_batches, state.num_processes)
    for index in mine:
        if (record := partial.read(_batch_name(index))) is not None:
            records[index] = record
    missing = [index for index in mine if index not in records]
    standing = seen = 0
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
        ahead = reader.submit(evaluation.load, missing[0]) if missing else None
        for place, index in enumerate(missing, 1):
            batch = ahead.result()  # type: ignore[union-attr]
            ahead = reader.submit(evaluation.load, missing[place]) if place < len(missing) else None
            records[index] = record = evaluate_batch(evaluation, index, batch)
            partial.write(_batch_name(index), record)
            standing += worst_outcome(record, list(record["outcomes"])).count("1")
            seen += len(record["labels"])
            bar.set_postfix_str(f"{standing}/{seen} stand against everything", refresh=False)
            bar.update()
    if state.num_processes > 1:
        records = dict(gather_object(list(records.items())))
    return [records[index] for index in range(evaluation.num_batches)]


def _batch_name(index: int) -> str:
    return f"batch-{index:05d}"


def _summary(
    evaluation: Evaluation, records: list[dict[str, Any]], header: dict[str, Any], findings: list[dict[str, Any]]
) -> dict[str, Any]:
    """All numbers, from the outcomes alone."""
    outcomes = {name: "".join(record["outcomes"][name] for record in records) for name in records[0]["outcomes"]}
    total, correct = len(outcomes["clean"]), outcomes["clean"].count("1")
    numbers: dict[str, Any] = {}
    for name, attacks in worst_case_attacks(list(outcomes)).items():
        stands = worst_outcome({"outcomes": outcomes}, attacks).count("1")
        numbers[name] = stands / total
        numbers[f"{name}_interval"] = wilson_interval(stands, total)
        if name != "clean_accuracy":
            rate = name.removesuffix("_accuracy") + "_attack_success_rate"
            numbers[rate] = 1 - stands / correct if correct else None
    return {
        **numbers,
        **{f"attacks/{name}": outcome.count("1") / total for name, outcome in outcomes.items()},
        **header,
        "sanity": findings,
        "class_names": evaluation.class_names,
        "prompts": evaluation.prompts,
        "adv_prompts": evaluation.adv_prompts,
        "row_ids": evaluation.row_ids,
        "labels": evaluation.labels,
        "predictions": [prediction for record in records for prediction in record["predictions"]],
        "outcomes": outcomes,
    }


def _finished(output: str | Path | None, header: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The result that lies in `output` already, if it is this evaluation's."""
    if output is None or not Path(output).exists():
        return None
    try:
        result = load_result(output)
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
    """What `accelerate` says of one process, without starting its global state."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True

    def wait_for_everyone(self) -> None:
        """Nobody else is there."""


def _process_state(accelerator: Accelerator | PartialState | None, model: nn.Module) -> Any:
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
    """What the main process computes, on every process."""
    value = [compute() if state.is_main_process else None]
    return (broadcast_object_list(value) if state.num_processes > 1 else value)[0]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients on weights while the block runs; all of it restored, also after an error."""
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


def _dataset_name(dataset: datasets.Dataset) -> str:
    benchmark = describe(dataset)
    name = benchmark.name or dataset.info.dataset_name or dataset.info.builder_name or "unnamed"
    split = benchmark.split or dataset.split
    return f"{name}/{split}" if split else str(name)
