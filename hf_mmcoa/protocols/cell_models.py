"""Provide the models of a protocol: the starting model, the trained ones, and the substitutes of their text attacks.

Every cell evaluates a model that is read from its folder, never the one in memory. A cell that was interrupted between
training and evaluation therefore ends with the same numbers.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PrinterCallback, ProcessorMixin

from ..config import MMCoAConfig
from ..convert.load import load_whole
from ..data.benchmark_info import attach_info, describe
from ..data.few_shot import few_shot_indices
from ..data.labels import read_labels
from ..io import write_json
from ..objectives.named import named_objective
from ..substitutes.embedded import synonym_table
from ..substitutes.held_out import known_and_unseen, measured_unseen
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from ..testbed.captions import captioned, class_vocabulary
from ..testbed.pictogram_clip import SHIPPED
from ..testbed.pretraining import align_with_english, pretrain_tiny_clip
from ..testbed.word_vectors import word_vectors
from ..training.checkpoints import last_checkpoint
from ..training.trainer import MMCoATrainer
from .cell import KNOWN, SPLIT_SEED, UNSEEN, WHOLE, Cell, Data, Method, divided, short_fingerprint, shots_name
from .protocol import ENGLISH, RETRIEVAL, Protocol
from .step_rates import write_rate

TRAINING_FILE = "training.json"


def load_rows(protocol: Protocol, data: Data, split: str) -> datasets.Dataset:
    """Load one split for a protocol's task; for retrieval images and captions alone, without labels.

    Raises:
        ValueError: if retrieval is asked for and no caption was found.
    """
    dataset: datasets.Dataset = data.load(split)
    if protocol.task != RETRIEVAL:
        return dataset
    info = describe(dataset)
    if "text" not in dataset.column_names:
        raise ValueError(
            f"`datasets`: {data.name} has no captions in split {split!r}, and `task: {RETRIEVAL}` needs them. Name "
            f"their column: {{name: {data.name}, text_column: ...}}; or leave `task` out, to compare on labels."
        )
    return attach_info(dataset.select_columns(["image", "text"]), info)


def _check_captions(dataset: datasets.Dataset, cell: Cell, args: MMCoAConfig) -> None:
    """Raise ValueError if an objective reads more captions of an image than any row has."""
    if not named_objective(args).reads_captions:
        return
    texts = dataset.with_format(None)["text"][:]
    most = max(len(each) if isinstance(each, list) else 1 for each in texts)
    if args.captions_per_image > most:
        raise ValueError(
            f"`captions_per_image` is {args.captions_per_image} for {cell.method.name!r}, and no image of "
            f"{cell.data.name} has more than {most}: set it to {most} or fewer in `training`."
        )


def base_folder(protocol: Protocol, cell: Cell, output: Path) -> Path | None:
    """Return the folder of the tiny CLIP that a cell starts from; None where the protocol names a model."""
    if protocol.tiny is None:
        return None
    name = cell.trained_or_measured_on.name if protocol.task != "ood" else protocol.name
    read = [protocol.described_candidates(data) for data in protocol.pretrained_on(cell.trained_or_measured_on)]
    # Besides its own settings, the sources of its vocabulary and the resolution of its images determine it.
    decisive = [cell.settings["model"], read, *map(protocol.training.get, ("template", "perturb_at"))]
    return output / "models" / f"pretrained_{name}_seed{cell.seed}-{short_fingerprint(decisive)}"


def trained_folder(cell: Cell, output: Path) -> Path | None:
    """Return the folder of the trained model of a cell; None for an untrained one."""
    if cell.train_on is None:
        return None
    name = f"{cell.train_on.name}_{shots_name(cell.shots)}_{cell.method.folder}_seed{cell.seed}"
    return output / "models" / f"{name}-{short_fingerprint(cell.training)}"


def load_model(protocol: Protocol, folder: str | Path) -> tuple[Any, ProcessorMixin]:
    """Load a model and its processor, or the one that the package ships under this name.

    Tiny models use eager attention, which is faster at their size.
    """
    if str(folder) in SHIPPED:
        return SHIPPED[str(folder)]()
    model: Any
    model, processor = load_whole(folder)
    if protocol.tiny is not None or protocol.model in SHIPPED:
        model.set_attn_implementation("eager")
    return model, processor


def start_model(protocol: Protocol, cell: Cell, output: Path) -> tuple[Any, ProcessorMixin]:
    """Load the model that a cell starts from; pretrain it first if it is a tiny CLIP that does not exist yet."""
    folder = base_folder(protocol, cell, output)
    if folder is None:
        return load_model(protocol, str(protocol.model))
    if not folder.is_dir():
        _pretrain(protocol, cell, folder)
    return load_model(protocol, folder)


def _pretrain(protocol: Protocol, cell: Cell, folder: Path) -> None:
    """Pretrain a tiny CLIP by CLIP's own loss, on captions or under the English text tower; write it to `folder`."""
    tiny = protocol.tiny or {}
    read = [
        (data, _drawn(load_rows(protocol, data, data.train_split), tiny.get("max_samples")))
        for data in protocol.pretrained_on(cell.trained_or_measured_on)
    ]
    english = tiny.get("text_tower") == ENGLISH
    if english and len(read) == 1:
        parts = [dataset for _, dataset in read]  # of labels, as `hf-mmcoa train` does: the words are known already
    else:
        parts = [captioned(dataset, cell.seed) for _, dataset in read]
    if len(parts) > 1:  # class numbers mean something else in each data set
        parts = [part.remove_columns("label") for part in parts]
    if english:
        pretrain: Any = align_with_english
    else:
        vocabulary = [text for data, dataset in read for text in _vocabulary(protocol, data, dataset)]
        vectors = partial(word_vectors, tiny["word_vectors"]) if "word_vectors" in tiny else None
        pretrain = partial(pretrain_tiny_clip, vocabulary, word_vectors=vectors)
    _, _, trainer = pretrain(
        datasets.concatenate_datasets(parts),
        image_size=tiny["image_size"],
        patch_size=tiny["patch_size"],
        epochs=tiny["epochs"],
        seed=cell.seed,
        output_dir=str(folder.with_name(folder.name + ".unfinished")),
        disable_tqdm=True,
        **{name: protocol.training[name] for name in ("use_cpu", "perturb_at") if name in protocol.training},
    )
    _keep(trainer, folder, {"pretrained_on": cell.settings["model"], "num_rows": sum(map(len, parts))})


def train_model(protocol: Protocol, cell: Cell, output: Path) -> Path:
    """Return the folder of a cell's trained model, and train it first if the folder does not exist.

    An interrupted training resumes from its last checkpoint, if it saved any.
    """
    folder = trained_folder(cell, output)
    assert folder is not None and cell.train_on is not None
    if folder.is_dir():
        return folder
    model, processor = start_model(protocol, cell, output)
    work = folder.with_name(folder.name + ".unfinished")
    whole = load_rows(protocol, cell.train_on, cell.train_on.train_split)
    info = describe(whole)
    more = {} if "template" in cell.settings["training"] else {"template": info.template}
    args = protocol.arguments(work, cell.method, cell.seed, **more)
    if protocol.task == RETRIEVAL:
        _check_captions(whole, cell, args)
    rows, held_out = training_rows(whole, cell, args.eval_strategy != "no")
    taught = substitutes(protocol, cell.train_on, model, processor, cell.method, cell.word_split)
    trainer = MMCoATrainer(
        model,
        args,
        train_dataset=whole.select(rows),
        eval_dataset=whole.select(held_out) if held_out else None,
        processing_class=processor,
        candidates=taught[cell.method.substitutes],
    )
    if args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(work)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    seconds = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).metrics["train_runtime"]
    record = {
        "dataset": info.name,
        "split": cell.train_on.train_split,
        "shots": cell.shots,
        "seed": cell.seed,
        "num_rows": len(rows),
        "row_ids": rows if cell.shots is not None else "all" if not held_out else "all but held_out_rows",
        "held_out_rows": held_out,
        "steps": trainer.state.global_step,
        "arguments": {"template": args.template, **cell.settings["training"]},
        "text_attack": repr(trainer.attacker.text_attacks),
        "image_attack": trainer.attacker.image_attack_description,
    }
    _keep(trainer, folder, record)
    write_rate(cell, folder, trainer.state.global_step - done, seconds, str(args.device))
    return folder


def training_rows(dataset: datasets.Dataset, cell: Cell, select: bool) -> tuple[list[int], list[int]]:
    """Return the row numbers of a training split to train on, and those held out for model selection.

    Held-out rows are drawn first and are the same for every cell, so no few-shot draw contains one of them.
    """
    rows, held_out = divided(len(dataset)) if select else (list(range(len(dataset))), [])
    if cell.shots is not None:
        labels = read_labels(dataset, "label")[rows]
        rows = [
            rows[place] for place in few_shot_indices(labels, cell.shots, cell.seed, dataset.features["label"].names)
        ]
    return rows, held_out


def substitutes(
    protocol: Protocol,
    data: Data,
    model: Any,
    processor: ProcessorMixin,
    method: Method | None = None,
    word_split: int = 0,
) -> dict[str, CandidateSource]:
    """Return the known, the unseen and the whole list of substitutes for a data set, by their names.

    They are drawn from the model before any training. With a method, they are of the source that it is trained on;
    without one, the unseen words are those that are measured.
    """
    name = (method.candidates if method else None) or data.candidates or protocol.candidates
    source: CandidateSource | None = synonym_table(name)
    if source is None:
        args = protocol.arguments("unused", method or "clean", 0)
        aligned = args.align_to_cls or method is not None  # the trainer aligns given candidates itself
        source = candidate_source(name, copy.deepcopy(model), processor.tokenizer, args.masked_lm, aligned)
    known, unseen = known_and_unseen(source, word_split)
    if method is None:
        unseen = measured_unseen(unseen, protocol.unseen_words, word_split)
    return {KNOWN: known, UNSEEN: unseen, WHOLE: source}


def _keep(trainer: MMCoATrainer, folder: Path, record: dict[str, Any]) -> None:
    """Save a finished model and put its folder in place in one step."""
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    trainer.save_model(str(scratch))
    write_json(record, scratch / TRAINING_FILE)
    for copied in folder.parent.glob(f"{folder.name}.*.tmp"):  # of killed runs
        if copied != scratch:
            shutil.rmtree(copied)
    os.replace(scratch, folder)
    shutil.rmtree(folder.with_name(folder.name + ".unfinished"), ignore_errors=True)


def _drawn(dataset: datasets.Dataset, max_samples: int | None) -> datasets.Dataset:
    if max_samples is None or max_samples >= len(dataset):
        return dataset
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(SPLIT_SEED))[:max_samples]
    return dataset.select(sorted(rows.tolist()))


def _vocabulary(protocol: Protocol, data: Data, dataset: datasets.Dataset) -> Sequence[str]:
    """Return every text that the tokenizer must know: captions, prompts, class words and substitutes."""
    info = describe(dataset)
    table = synonym_table(data.candidates or protocol.candidates)
    words = [word for _, listed in (table.table if table else ()) for word in listed]
    templates = [info.template, str(protocol.training.get("template", "{}"))]
    return class_vocabulary(info.class_names, templates, words)
