"""`hf-mmcoa train` and `examples/train_mmcoa.py`: measure a CLIP, make it robust, measure it again, show both."""

from __future__ import annotations

import argparse
import copy
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPModel, HfArgumentParser, ProcessorMixin
from transformers.utils import logging as transformers_logging

from ..config import MMCoAConfig
from ..data.digits import IMAGE_SIZE
from ..data.load import load_benchmark
from ..evaluation.evaluator import evaluate_robustness
from ..evaluation.threat_model import ThreatModel
from ..file_names import CARD_FILE, PICTURE_FILE, ROBUSTNESS_FILE
from ..io import printable, read_yaml, write_json
from ..models.encoder import load_clip
from ..models.lora import merge
from ..report.gallery import attack_gallery, gallery_path, save_gallery
from ..report.picture import save_picture
from ..report.table import robustness_table
from ..substitutes.embedded import EMBEDDED, synonym_table
from ..substitutes.held_out import known_and_unseen
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from ..testbed.digits import load_captioned_digits, vocabulary
from ..testbed.pretraining import pretrain_tiny_clip
from ..training.checkpoints import check_writable, checkpoint_to_resume
from ..training.trainer import MMCoATrainer
from .launch import start_missing_processes

ADAPTER_FOLDER = "adapter"  # of a LoRA run
PRETRAINED_FOLDER = "pretrained"  # the tiny CLIP before the defence, which is nowhere else


@dataclass
class RunArguments:
    """What is trained on what, and how it is measured; the method's own numbers are `MMCoAConfig`'s."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "CLIP folder or Hub id. Without it: a tiny CLIP, built and pretrained here in seconds, on digits."
        },
    )
    dataset: str = field(default="digits", metadata={"help": "A registered benchmark, a Hub id or a local folder."})
    data_dir: str | None = field(default=None, metadata={"help": "Where the data set's files lie already."})
    train_split: str = field(default="train", metadata={"help": "Split that is trained on."})
    test_split: str = field(
        default="test", metadata={"help": "Split that is measured on; never trained or selected on."}
    )
    shots: int | None = field(default=None, metadata={"help": "Images a class for few-shot training; all without it."})
    preset: str = field(
        default="standard", metadata={"help": "Threat model of the measurements; epsilon and norm are the training's."}
    )
    max_test_samples: int | None = field(default=None, metadata={"help": "Measure on so many test images, drawn once."})
    pretrain_epochs: int = field(
        default=40, metadata={"help": "Clean epochs of the tiny CLIP; unused with a model of your own."}
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and report what a user can mend as one line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if (status := start_missing_processes(argv)) is not None:
        return status
    try:
        train(*parse(argv))
    except (ValueError, TypeError, OSError, LookupError, FloatingPointError, SafetensorError) as error:
        print(f"hf-mmcoa train: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:  # a TrainingInterrupted says how to go on
        print(f"hf-mmcoa train: {stopped or 'stopped by SIGINT'}", file=sys.stderr)
        return 128 + int(getattr(stopped, "signal_number", signal.SIGINT))
    return 0


def parse(argv: Sequence[str]) -> tuple[RunArguments, MMCoAConfig]:
    """The command line, over `--config file.yaml`, over the embedded default's settings where no model is given."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--config")
    early.add_argument("--model_name_or_path", "--model-name-or-path")
    known, _ = early.parse_known_args(argv)
    parser = HfArgumentParser([RunArguments, MMCoAConfig], prog="hf-mmcoa train")  # type: ignore[list-item]
    parser.add_argument("--config", help="YAML file of any of the options; the command line overrides it")
    given = _read_yaml(Path(known.config)) if known.config else {}
    base: dict[str, Any] = {"output_dir": "output/mmcoa", "report_to": "none"}
    if not (known.model_name_or_path or given.get("model_name_or_path")):
        base |= _digits_settings()
    options = {action.dest for action in parser._actions}
    if unknown := sorted(set(given) - options):
        parser.error(f"--config {known.config}: unknown options {', '.join(unknown)}")
    for action in parser._actions:
        if action.dest in given:
            _check_option(parser, known.config, action, given[action.dest])
    parser.set_defaults(**base | given)
    run, args, _ = parser.parse_args_into_dataclasses(list(argv))  # the third holds --config
    return run, args


def train(run: RunArguments, args: MMCoAConfig) -> dict[str, dict[str, Any]]:
    """Load, measure, train, measure, save; returns the two results that `robustness.json` holds."""
    _quiet()
    output = Path(str(args.output_dir))
    stages = _Stages(args.should_log, 4 if run.model_name_or_path else 5)

    if run.model_name_or_path is None and run.dataset != "digits":
        raise ValueError(f"`--dataset {run.dataset}` needs `--model_name_or_path`: the tiny CLIP knows digits only.")
    args.resume_from_checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, str(args.output_dir))
    check_writable(str(args.output_dir))
    data = load_benchmark(
        run.dataset, split=run.train_split, shots=run.shots, seed=args.data_seed or 0, data_dir=run.data_dir
    )
    data, validation = _held_out(data, run, args)
    test = load_benchmark(run.dataset, split=run.test_split, data_dir=run.data_dir)
    if run.model_name_or_path is not None:
        model, processor = load_clip(run.model_name_or_path)
    else:
        # Operations this small cost more to share than to do: on a busy machine two threads take eight times as long.
        torch.set_num_threads(1)
        stages.begin("pretrain a tiny CLIP on digits and captions, without attack")
        model, processor = pretrained_tiny_clip(args, run.pretrain_epochs)
        if args.should_save:
            model.save_pretrained(output / PRETRAINED_FOLDER)
            processor.save_pretrained(output / PRETRAINED_FOLDER)
    model.to(args.device)

    known, unseen = known_and_unseen(_substitutes(run, args, model, processor))
    # The radius that training finds best by itself is smaller than what robustness is measured under.
    attack = ("norm", "epsilon", "perturb_at", *(["rho"] if args.was_given("rho") else []))
    text_budget = ("template", "num_candidates", "max_changes", "protect_template", "forbid_class_names")
    shared = {name: getattr(args, name) for name in (*attack, *text_budget)}
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
    # The tiny CLIP is pretrained with the run's seed; a model that was given is the same in every run.
    before = evaluate_robustness(
        model,
        processor,
        output=results_folder / "before.json",
        overwrite=True,
        model_name=base,
        training_seed=None if run.model_name_or_path else args.seed,
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
    trainer.run_settings = _run_settings(run, args)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    model = trainer.whole_model()
    if args.lora != "none":
        trainer.save_model(str(output / ADAPTER_FOLDER), _internal_call=True)  # `push_to_hub` sends the merged model
        assert isinstance(model, PeftModel)
        trainer.model = model = merge(model)  # a plain CLIPModel from here on: what is measured is what is saved

    stages.begin("measure it again, under the same attacks")
    after = evaluate_robustness(
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
    if args.should_save:  # before the model, since saving it pushes all of it with `push_to_hub`
        write_json(results, output / ROBUSTNESS_FILE)
        gallery = attack_gallery(pictured | {"after": (model, processor)}, test, threat_model, candidates=known)
        save_gallery(gallery, gallery_path(output / ROBUSTNESS_FILE))
        save_picture(gallery, output / PICTURE_FILE)
    trainer.save_model(str(output))
    if args.should_save:
        print(f"\n{robustness_table(results)}\n")
        print(f"model    {output}  ({type(model).__name__}.from_pretrained reads it)")
        print(f"numbers  {output / ROBUSTNESS_FILE}\npicture  {output / PICTURE_FILE}")
        print(f"card     {output / CARD_FILE}  (`hf-mmcoa push` publishes all of it)")
    trainer.create_model_card()
    stages.end()
    trainer.end()  # else the first of several processes to exit may pull the rug from under the others
    return results


def pretrained_tiny_clip(args: MMCoAConfig, epochs: int) -> tuple[CLIPModel, ProcessorMixin]:
    """A tiny CLIP that has learnt captioned digits by CLIP's own loss: what attacks fell and MMCoA makes stand.

    Args:
        args: its seed, device and progress bar are the run's.
        epochs: over the 1,200 training digits. 40 reach about 97% on the validation split (LAB.md: 20 to 40).
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


def _run_settings(run: RunArguments, args: MMCoAConfig) -> dict[str, Any]:
    """What `--config training_args.yaml` needs beside the trainer's own arguments to repeat the run."""
    settings = {each.name: getattr(run, each.name) for each in fields(run) if getattr(run, each.name) != each.default}
    if run.model_name_or_path is None:  # an argument that is at its default would give way to digits.yaml's otherwise
        arguments = args.to_dict()
        settings |= {name: arguments[name] for name in _digits_settings() if name in arguments}
    return {"dataset": run.dataset} | settings


def _digits_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(files("hf_mmcoa.testbed").joinpath("digits.yaml").read_text())
    return settings


def _substitutes(run: RunArguments, args: MMCoAConfig, model: nn.Module, processor: Any) -> CandidateSource:
    """Plain synonyms for an embedded data set; else what `--candidates` names, of the model before training."""
    table = synonym_table(run.dataset) if args.candidates == "neighbours" and run.dataset in EMBEDDED else None
    if table is not None:
        return table
    return candidate_source(
        args.candidates, copy.deepcopy(model), processor.tokenizer, args.masked_lm, args.align_to_cls
    )


def _held_out(data: Any, run: RunArguments, args: MMCoAConfig) -> tuple[Any, Any]:
    """Training and validation data: model selection never sees the test split."""
    if args.eval_strategy == "no":
        return data, None
    if run.dataset == "digits":
        return data, load_benchmark("digits", split="validation")
    parts = data.train_test_split(test_size=0.1, seed=0)
    return parts["train"], parts["test"]


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise SystemExit(f"hf-mmcoa train: --config {file}: there is no such file")
    try:
        content = read_yaml(file) or {}
    except ValueError as error:
        raise SystemExit(f"hf-mmcoa train: --config: {printable(str(error))}") from error
    if not isinstance(content, dict):
        raise SystemExit(
            f"hf-mmcoa train: --config {file}: expected `option: value` lines, got {type(content).__name__}"
        )
    return content


def _check_option(parser: argparse.ArgumentParser, file: str, action: argparse.Action, value: Any) -> None:
    """End with one line unless the command line would take this value of a file."""
    several = action.nargs in ("+", "*")
    convert: Any = action.type or str
    if value is None or (isinstance(value, dict) and convert is str and not several):  # settings such as fsdp_config
        return
    try:
        if isinstance(value, (list, dict)) != (several and isinstance(value, list)):
            raise ValueError(f"expected {'a list' if several else 'one value'}")
        for one in value if several else [value]:
            convert(str(one))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        parser.error(f"--config {file}: `{action.dest}` is {printable(repr(value))}: {printable(str(error))}")


class _Stages:
    """Says what is being done, and how long each part took."""

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


def _quiet() -> None:
    """Bars for the long work only: not for writing one file of a megabyte."""
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
