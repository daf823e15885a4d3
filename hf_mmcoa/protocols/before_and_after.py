"""Train a CLIP and measure its robustness before and after: the whole program of `hf-mmcoa train`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from torch import nn
from transformers.utils import logging as transformers_logging

from ..attacks.settings import AttackSettings
from ..config import MMCoAConfig
from ..convert.load import load_whole
from ..evaluation.evaluator import evaluate_robustness
from ..evaluation.recalls import retrieval_table
from ..evaluation.retrieval import evaluate_retrieval
from ..evaluation.threat_model import ThreatModel
from ..file_names import CARD_FILE, PICTURE_FILE, ROBUSTNESS_FILE
from ..io import write_json
from ..models.lora import merge
from ..report.conditions import attacks_texts, interval_sentence
from ..report.gallery import attack_gallery, gallery_path, save_gallery
from ..report.picture import save_picture
from ..report.table import robustness_table
from ..report.what_remains import what_remains
from ..substitutes.embedded import EMBEDDED, synonym_table
from ..substitutes.held_out import known_and_unseen
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from ..substitutes.synonyms import SynonymTable
from ..testbed.pictogram_clip import pictogram_clip
from ..testbed.pretraining import pretrain_on, pretrain_on_digits
from ..training.checkpoints import check_writable, checkpoint_to_resume
from ..training.trainer import MMCoATrainer
from .run_arguments import RunArguments, default_settings
from .run_data import suit_contrastive_loss, test_data, training_data

ADAPTER_FOLDER = "adapter"  # of a LoRA run
PRETRAINED_FOLDER = "pretrained"  # the tiny CLIP before robust training, which is saved nowhere else


def train_and_measure(run: RunArguments, args: MMCoAConfig) -> dict[str, dict[str, Any]]:
    """Load or pretrain a CLIP, measure it, train it, measure it again, and save the model with everything measured.

    Args:
        run: model, data and measurements.
        args: arguments of the trainer. `resume_from_checkpoint` is replaced by the checkpoint's path.

    Returns:
        The results "before" and "after", which are written to `robustness.json` in `args.output_dir`.

    Raises:
        ValueError: if arguments contradict each other or the data.
        OSError: if a model or data set cannot be read, or the output folder not be written.
    """
    _hide_short_progress_bars()
    output = Path(str(args.output_dir))
    stages = _Stages(args.should_log, 4 if run.model_name_or_path else 5)
    shipped = run.model_name_or_path is None and run.starts_from_shipped

    if run.model_name_or_path is None and run.dataset != "digits" and not (run.tiny or shipped):
        raise ValueError(
            f"`--dataset {run.dataset}` needs `--model_name_or_path`, the CLIP that is trained; or `--tiny`, which "
            "builds a tiny one for these data in minutes, without a download."
        )
    args.resume_from_checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, str(args.output_dir))
    check_writable(str(args.output_dir))
    table = _table(run, args)
    data, validation = training_data(run, args)
    test = test_data(run)
    suit_contrastive_loss(data, run, args)
    if run.model_name_or_path is not None:
        model, processor = load_whole(run.model_name_or_path)
    else:
        what = f"pretrain a tiny CLIP on {run.dataset} and captions, without attack"
        if shipped:
            what = "load the tiny CLIP that comes with the package, pretrained without attack"
        elif run.dataset == "digits":
            what = "align a tiny CLIP, whose text tower knows English, with digits, without attack"
        stages.begin(what)
        model, processor = _tiny_clip(run, args, data, table)
        if args.should_save:
            model.save_pretrained(output / PRETRAINED_FOLDER)
            processor.save_pretrained(output / PRETRAINED_FOLDER)
    model.to(args.device)

    known, unseen = known_and_unseen(_substitutes(table, args, model, processor))
    shared = {name: getattr(args, name) for name in AttackSettings.threat_names()}
    if not (has_classes := "label" in test.features):  # captions need no prompt
        shared["template"] = None
    measure: Callable[..., dict[str, Any]] = evaluate_robustness if has_classes else evaluate_retrieval
    threat_model = ThreatModel.preset(run.preset, **shared)
    measured: dict[str, Any] = {
        "dataset": test,
        "threat_model": threat_model,
        "candidates": {"known": known, "unseen": unseen},
        "max_samples": run.max_test_samples,
        "batch_size": args.per_device_eval_batch_size,
        "accelerator": args.distributed_state,
        "dataset_name": f"{run.dataset}/{run.test_split}",
    }
    stages.begin("measure it under attack")
    base = run.model_name_or_path or "tiny CLIP"
    results_folder = output / "results"
    # The tiny CLIP is pretrained with the run's seed; a model that was given, or shipped, is the same in every run.
    before = measure(
        model,
        processor,
        output=results_folder / "before.json",
        overwrite=True,
        model_name=base,
        training_seed=None if run.model_name_or_path or shipped else args.seed,
        **measured,
    )
    pictured = {"before": (copy.deepcopy(model), processor)}

    stages.begin(f"train it by {args.objective} against image and text attacks")
    trainer = MMCoATrainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=validation,
        processing_class=processor,
        candidates=known,
    )
    trainer.run_settings = run_settings(run, args)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    model = trainer.whole_model()
    if args.lora != "none":
        trainer.save_model(str(output / ADAPTER_FOLDER), _internal_call=True)  # `push_to_hub` sends the merged model
        assert isinstance(model, PeftModel)
        trainer.model = model = merge(model)  # a plain CLIPModel from here on: what is measured is what is saved

    stages.begin("measure it again, under the same attacks")
    after = measure(
        model,
        processor,
        output=results_folder / "after.json",
        overwrite=True,
        model_name=f"{base} + {args.objective}",
        training_seed=args.seed,
        **measured,
    )

    stages.begin("save")
    results = {"before": before, "after": after}
    if args.should_save:  # before the model: with `push_to_hub`, saving the model uploads the whole folder
        write_json(results, output / ROBUSTNESS_FILE)
        if has_classes:
            gallery = attack_gallery(pictured | {"after": (model, processor)}, test, threat_model, candidates=known)
            save_gallery(gallery, gallery_path(output / ROBUSTNESS_FILE))
            save_picture(gallery, output / PICTURE_FILE)
    trainer.save_model(str(output))
    if args.should_save:
        print(f"\n{_shown(results, has_classes)}\n")
        print(f"model    {output}  ({type(model).__name__}.from_pretrained reads it)")
        print(f"numbers  {output / ROBUSTNESS_FILE}")
        if has_classes:
            print(f"picture  {output / PICTURE_FILE}")
        print(f"card     {output / CARD_FILE}  (`hf-mmcoa push` publishes the folder)")
    trainer.create_model_card()
    stages.end()
    if args.should_save and has_classes:
        print(what_remains(after, before))
    trainer.accelerator.end_training()  # or the first process to exit closes the group while others still use it
    return results


def run_settings(run: RunArguments, args: MMCoAConfig) -> dict[str, Any]:
    """Return the options that repeat the run by `--config training_args.yaml`, beside the trainer's own arguments."""
    options = [each for each in fields(run) if each.init]
    settings = {each.name: getattr(run, each.name) for each in options if getattr(run, each.name) != each.default}
    if run.targets_are_free:  # the choice is made anew where the run is repeated as it was made here
        settings["targets"] = args.targets
    # The defaults of the kind of run would otherwise replace an argument that has the configuration's default value.
    base = default_settings(run.model_name_or_path, run.dataset, run.tiny).keys() - {"output_dir", "report_to"}
    settings |= {name: value for name, value in args.to_dict().items() if name in base}
    if run.synonyms is not None:
        settings["candidates"] = run.synonyms
    return {"dataset": run.dataset} | settings


def _table(run: RunArguments, args: MMCoAConfig) -> SynonymTable | None:
    """Return the table of substitutes that the run names, else the embedded one of its data set; None without one."""
    if run.synonyms is not None:
        return synonym_table(run.synonyms)
    return synonym_table(run.dataset) if args.candidates == "neighbours" and run.dataset in EMBEDDED else None


def _substitutes(table: SynonymTable | None, args: MMCoAConfig, model: nn.Module, processor: Any) -> CandidateSource:
    """Return the table, else the source that `candidates` names, of the model as it is now."""
    if table is not None:
        return table
    return candidate_source(
        args.candidates, copy.deepcopy(model), processor.tokenizer, args.masked_lm, args.align_to_cls
    )


def _tiny_clip(run: RunArguments, args: MMCoAConfig, data: Any, table: SynonymTable | None) -> tuple[Any, Any]:
    """Build and pretrain the model of a run that names none."""
    # Operations this small cost more to share than to do: on a busy machine two threads take eight times as long.
    torch.set_num_threads(1)
    if run.starts_from_shipped:
        return pictogram_clip()
    if run.dataset == "digits":
        return pretrain_on_digits(args, run.pretrain_epochs)
    words = [word for _, listed in (table.table if table else ()) for word in listed]
    return pretrain_on(data, args, image_size=run.tiny_image_size, epochs=run.pretrain_epochs, words=words)


def _shown(results: dict[str, dict[str, Any]], has_classes: bool) -> str:
    """Return the tables of the results, for a terminal."""
    if has_classes:
        intervals = interval_sentence(averaged=False, texts=attacks_texts(results.values()))
        return f"{robustness_table(results)}\n{intervals}"
    return "\n\n".join(f"{name}\n{retrieval_table(result)}" for name, result in results.items())


class _Stages:
    """Print to stderr which stage of the run begins, and how long the last one took."""

    def __init__(self, speak: bool, count: int) -> None:
        self.speak, self.count, self.number = speak, count, 0
        self.started = self.stage_started = time.monotonic()

    def begin(self, what: str) -> None:
        self._finish()
        self.number += 1
        if self.speak:
            print(f"[{self.number}/{self.count}] {what}", file=sys.stderr, flush=True)

    def end(self) -> None:
        self._finish()
        if self.speak:
            print(f"done in {time.monotonic() - self.started:.0f} s", file=sys.stderr)

    def _finish(self) -> None:
        if self.speak and self.number:
            print(f"      {time.monotonic() - self.stage_started:.0f} s", file=sys.stderr, flush=True)
        self.stage_started = time.monotonic()


def _hide_short_progress_bars() -> None:
    """Show no progress bar for reading and writing files; training and evaluation keep theirs."""
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
