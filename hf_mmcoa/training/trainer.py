"""`MMCoATrainer`: transformers' `Trainer` with the attack inside `compute_loss` and the defence as an object."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers.trainer import TRAINING_ARGS_NAME

from ..attacks.contracts import ImageAttack, TextAttack
from ..config import MMCoAConfig
from ..data.prompts import class_prompts
from ..data.rows import ImageStream, collate
from ..data.templates import caption_templates
from ..file_names import ARGUMENTS_FILE, WHAT_RAN
from ..io import write_json, write_text
from ..models.architectures import unwrapped
from ..models.encoder import DualEncoder
from ..models.precision import train_in_full_precision
from ..objectives import Objective
from ..objectives.named import named_objective
from ..substitutes.source import CandidateSource
from .argument_changes import ArgumentChanges
from .attack_check import AttackCheck
from .attacker import Attacker
from .batch import Batch, BatchReader
from .checkpoints import CheckpointWriter, check_writable, checkpoint_to_resume
from .decoded_rows import DecodedRows, check_labels_for_objective, find_class_names
from .distributed import (
    WholeCopy,
    check_sharding,
    deepspeed_sends_scalars,
    left_unprepared,
    load_scalars,
    own_rows,
    pad_rows,
    use_one_device,
)
from .forward import encode_views
from .interruption import StopOnSignal
from .live_encoder import LiveEncoder
from .logged_sums import LoggedSums
from .logit_scale import ClampLogitScale
from .monitor import THREATS, Monitor
from .publishing import PublishingTrainer
from .shared_step import check_schedule
from .streams import batches_before, stream_loader
from .teacher import Teacher
from .tracking import AttackedImages, attack_figures
from .trained_parts import freeze
from .what_ran import what_ran

__all__ = ["THREATS", "MMCoATrainer"]

logger = logging.getLogger(__name__)


class MMCoATrainer(PublishingTrainer):
    """Adversarial fine-tuning of a `CLIPModel` or `SiglipModel`, and a `Trainer` in every other respect.

    Rows hold an image and a label, whose text is its class prompt, or an image and a text, or all three (then the text
    is the row's own and the label says which texts may be exchanged). Images are attacked away from their text among
    all class prompts, or among the batch's texts where rows have their own; texts are attacked without the image.

    `evaluate()` reports `eval_clean_accuracy`, `eval_image_accuracy`, `eval_text_accuracy` and
    `eval_multimodal_accuracy` (worst case over image, text and both) under the training attack: a monitor for model
    selection, weaker than `evaluate_robustness`. `predict()` and `compute_metrics` get class logits without attack,
    (samples, classes), and labels (docs/trainer.md). Logged in training beside the
    loss: the objective's own terms (`loss_image`, `loss_text`, ...), unweighted, averaged since the last log, and what
    the attacks did (`image_attack_success`, `image_perturbation`, ...; docs/tracking.md).

    Args:
        model: a `CLIPModel` or `SiglipModel`, changed in place; freezing a tower sets its `requires_grad`.
        args: the configuration. It is not changed, and fields that are set later have their effect, or are refused.
        train_dataset: a `datasets.Dataset`, see above.
        eval_dataset: the same, or a dictionary of them.
        processing_class: the model's `CLIPProcessor` or `SiglipProcessor`; saved beside every checkpoint.
        class_names: read off the data set's `ClassLabel` when None.
        objective: an `Objective`; built from `args.objective` when None. With one, `args.text_attack="auto"` is words
            alone.
        teacher: the frozen pretrained encoders f0 and g0, for objectives that read them; the model as it is given when
            None. Never trained and never saved.
        image_attack: PGD as `args` say when None.
        text_attack: what replaces words, or characters if it is a `LevenshteinAttack`, or all that `families` name if
            it is a `FamilyAttack`; as `args` say when None. With `args.text_attack="auto"` it is the only one.
        candidates: where that takes its substitutes from (`SynonymTable`, ...); what `args` name when None.
        model_init: makes the model, instead of `model`; as `Trainer`'s.
        **kwargs: everything else that `Trainer` takes: callbacks, optimizers, compute_metrics, ...

    Raises:
        TypeError: if model or processor are no dual encoder's.
        ValueError: if model, processor, data and names do not fit together.

    Example:
        >>> trainer = MMCoATrainer(model, MMCoAConfig("out"), data, processing_class=processor)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> trainer.save_model("robust-clip")  # a plain CLIPModel folder  # doctest: +SKIP
    """

    args: MMCoAConfig
    run_settings: Mapping[str, Any] = {}
    """What repeats the run beside `args`: model, data. `hf-mmcoa train` sets it; goes into training_args.yaml."""
    stops_on_signals: bool = True
    """Whether Ctrl-C and SIGTERM stop `train()` after the step, with a checkpoint, and not in its middle."""

    def __init__(
        self,
        model: nn.Module | None = None,
        args: MMCoAConfig | None = None,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | dict[str, datasets.Dataset] | None = None,
        processing_class: ProcessorMixin | None = None,
        class_names: Sequence[str] | None = None,
        objective: Objective | None = None,
        teacher: nn.Module | None = None,
        image_attack: ImageAttack | None = None,
        text_attack: TextAttack | None = None,
        candidates: CandidateSource | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else MMCoAConfig(output_dir="mmcoa_output")
        use_one_device(args)
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` is not supported: the loss is the objective's. Pass an `objective`.")
        if (model is None) == (model_init is None):
            raise ValueError("pass one of `model` and `model_init`.")
        first_model = model if model is not None else _first_model(model_init)
        encoder = DualEncoder(first_model, processing_class)  # type: ignore[arg-type]  # it refuses None
        self.class_names = find_class_names(class_names, train_dataset, eval_dataset)
        self.prompts = class_prompts(self.class_names, args.template) if self.class_names else None
        if self.prompts:
            encoder.tokenize(self.prompts)  # a prompt that is longer than the context fails here
        self._image_size, self._trained_on = encoder.image_size, train_dataset
        self._read_rows = DecodedRows(
            self.class_names,
            class_names is not None,
            args.perturb_at,
            encoder.image_size,
            processing_class.image_processor,  # type: ignore[union-attr]
        )
        self._changes = ArgumentChanges(args)
        self._given_objective, self._given_image_attack = objective, image_attack
        self._objective = objective if objective is not None else named_objective(args, encoder.image_size)
        num_captions = args.captions_per_image if self._objective.reads_captions else 1
        templates = caption_templates(args.template, num_captions)[1:] if self.class_names else []
        more_prompts = [class_prompts(self.class_names or (), each) for each in templates]
        for prompts in more_prompts:
            encoder.tokenize(prompts)
        if objective is not None:
            args.check_read(objective, named=False)
        check_labels_for_objective(self._objective, self.class_names, train_dataset)
        self._processor, self._given_teacher = processing_class, teacher
        self.teacher: Teacher | None = None
        if model is not None:
            model = freeze(train_in_full_precision(model), args, self._objective)
            self._take_teacher(model, args)
        self._whole: WholeCopy | None = None
        self._checkpoints = CheckpointWriter()
        if not Path(str(args.output_dir)).is_dir():  # the Trainer makes it, and says less
            check_writable(str(args.output_dir))
        kwargs.setdefault("data_collator", collate)
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._read_rows(train_dataset, draw_captions=True, num_captions=num_captions),
            eval_dataset=self._read_rows(eval_dataset),
            processing_class=processing_class,
            model_init=model_init,  # type: ignore[arg-type]
            **kwargs,
        )
        if check_sharding(self.accelerator):  # a copy of the weights while they are not spread over processes
            self._whole = WholeCopy(self._unwrapped(), args.device)
        check_schedule(args, self._objective, image_attack, sharded=self._whole is not None)
        self.model_accepts_loss_kwargs = False  # our loss is a batch mean: the Trainer divides it when it accumulates
        self.add_callback(ClampLogitScale())
        self._stop_on_signal = StopOnSignal(self)
        self.add_callback(self._stop_on_signal)
        if args.log_images_every:
            self.add_callback(AttackedImages(self, eval_dataset, train_dataset, every=args.log_images_every))
        # A search for hyper-parameters makes another accelerator for each trial.
        live = LiveEncoder(self._unwrapped, processing_class, lambda: self.accelerator.autocast(), args.compile_attack)
        self.reader = BatchReader(live, self.prompts, self._objective, more_prompts)
        self.attacker = Attacker(
            args,
            live,
            self._objective,
            self.class_names,
            image_attack,
            text_attack,
            candidates,
            getattr(text_attack, "changes", "words") if text_attack is not None or objective is not None else None,
            templates,
        )
        self.attacker.teacher = self.teacher
        self._attack_check = AttackCheck(self)
        self.add_callback(self._attack_check)
        self._monitor = Monitor(self.attacker, self.teacher, self.prompts, args)
        self._predicts = False
        self._skipped = 0  # batches that a resumed training has trained on
        self._sums = LoggedSums()

    # The objective

    @property
    def objective(self) -> Any:
        """The objective that is trained; within `hyperparameter_search` the trial's score, which it keeps here."""
        return self._objective if getattr(self, "hp_search_backend", None) is None else self._score

    @objective.setter
    def objective(self, score: Any) -> None:
        self._score = score

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Attack the batch, encode it, and return the objective's loss (docs/methods.md, section 2).

        Args:
            model: as the Trainer wrapped it.
            inputs: a batch of `collate`.
            return_outputs: also return the `Embeddings`.
            num_items_in_batch: unused: the loss is a mean over the global batch.

        Returns:
            The loss, scalar.

        Raises:
            FloatingPointError: if the loss is not finite; the batch's row ids are saved first.
        """
        self.whole_model()
        self._follow_arguments()
        batch = self._read(inputs)

        adversarial = self.attacker.attack(batch)  # 1. I', t': constants for the loss
        embeds = encode_views(model, batch, adversarial, self.reader, self.teacher, self.args)  # 2. one forward
        adversarial = adversarial.finished()
        checked = self._attack_check(batch, adversarial.images)
        loss, terms = self._objective(embeds)  # 3. the equation: `objectives.mmcoa` for the default

        if not torch.isfinite(loss):
            self._stop_non_finite(loss, inputs)
        self._sums.add(terms, attack_figures(self, batch, embeds, adversarial) | checked)
        return (loss, embeds) if return_outputs else loss

    def _read(self, inputs: Mapping[str, Any]) -> Batch:
        """Return the training batch with its anchors and the teacher's features, and count it for the random draws."""
        step = self.state.global_step
        if step != self.attacker.step:
            self.attacker.step, self.attacker.batch_of_step = step, 0
        else:  # one optimizer step accumulates several batches
            self.attacker.batch_of_step += 1
        batch = self._taught(self.reader.read_captions(inputs, own_texts=not self._objective.needs_labels))
        if not torch.isfinite(batch.anchors).all():  # the attacks would trip over it first, and not name the rows
            self._stop_non_finite(batch.anchors.sum(), inputs)
        return batch

    def _taught(self, batch: Batch) -> Batch:
        return batch if self.teacher is None else self.teacher.teach(batch)

    # Weights on several processes

    def whole_model(self) -> nn.Module:
        """Return the model with all of its weights on this process, as they are now.

        The unwrapped model itself; where FSDP or DeepSpeed ZeRO-3 spreads its weights, a plain copy that is brought up
        to date. Then every process must call it. This is what attacks and `evaluate_robustness` work on.
        """
        model = unwrapped(self.model)  # type: ignore[arg-type]
        return model if self._whole is None else self._whole.updated(model)

    def _unwrapped(self) -> nn.Module:
        model = unwrapped(self.model)  # type: ignore[arg-type]
        return model if self._whole is None else self._whole.of(model)

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate as the Trainer does, with class prompts attacked once, and add the accuracies to the metrics."""
        self.whole_model()
        self._follow_arguments(anew=True)
        self._monitor = Monitor(self.attacker, self.teacher, self.prompts, self.args)
        self._predicts = description == "Prediction"
        with left_unprepared(self.accelerator, self.model):  # type: ignore[arg-type]
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        for name, value in self._monitor.accuracies().items():
            output.metrics.setdefault(f"{metric_key_prefix}_{name}", value)  # type: ignore[union-attr]
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Evaluate one batch under the training attack, and count its outcomes for the accuracies.

        Returns:
            Mean loss, scalar; logits without attack, (batch, classes); labels, (batch,). For captions the classes are
            the distinct ones of the batch. Only the logits, in `predict`, of images without labels.
        """
        size = len(inputs["row_ids"])
        if "inputs" in self.args.include_for_metrics:  # the Trainer hands on what the model calls its main input
            inputs[getattr(self.model, "main_input_name", "input_ids")] = inputs["images"]
        rows = own_rows(self.accelerator, self._prepare_inputs(inputs))
        if self._predicts and self.prompts is not None and "labels" not in rows:
            logits = self._monitor.class_logits(rows["images"], self.reader.prompt_embeds())
            return None, None if prediction_loss_only else pad_rows(logits, size), None
        with torch.no_grad():
            batch = self._taught(self.reader.read(rows, own_texts=False))
        loss, logits, labels, outcomes = self._monitor.evaluate(batch, rows["row_ids"])
        self._monitor.count(self.accelerator.gather_for_metrics(pad_rows(outcomes, size)))
        return (loss, None, None) if prediction_loss_only else (loss, pad_rows(logits, size), pad_rows(labels, size))

    # Methods of `Trainer`, with our data, terms and files

    def get_train_dataloader(self) -> Any:
        """Return the training loader; of a stream every process reads its own part (docs/distributed.md)."""
        if not isinstance(self.train_dataset, ImageStream):
            return super().get_train_dataloader()
        return stream_loader(
            self.accelerator, self.train_dataset, self.data_collator, self._train_batch_size, self.args, self._skipped
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the evaluation loader, also for a `datasets.Dataset`."""
        return super().get_eval_dataloader(
            eval_dataset if isinstance(eval_dataset, str) else self._read_rows(eval_dataset)
        )

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the test loader, also for a `datasets.Dataset`."""
        return super().get_test_dataloader(self._read_rows(test_dataset))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; Ctrl-C and SIGTERM stop it after the step (docs/resume.md).

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last complete one of `output_dir`.
            *args, **kwargs: the Trainer's.

        Raises:
            ValueError: if `resume_from_checkpoint` is no complete checkpoint; the last one is named.
            OSError: if `output_dir` cannot be written, before any training, or a checkpoint cannot.
            TrainingInterrupted: if a signal stopped it; there is a checkpoint to go on from.
        """
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, str(self.args.output_dir))
        check_writable(str(self.args.output_dir))
        self._start()
        self._skipped = batches_before(checkpoint, self.args)
        listening = self._stop_on_signal.listening() if self.stops_on_signals else nullcontext()
        with listening, deepspeed_sends_scalars(self.accelerator):
            return super().train(checkpoint, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoints.folder(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint as the Trainer does; an interruption leaves no part of it."""
        with self._checkpoints.writing(self, super()._get_output_dir(trial)):
            super()._save_checkpoint(model, trial)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make the model as the Trainer does, freeze what does not train, and take a teacher where one is read."""
        if trial is not None:
            self._hp_search_setup(trial)  # the Trainer sets the trial's arguments later; some say what of it trains
        if hasattr(self, "attacker"):  # not in the constructor
            self._follow_arguments()
        model = freeze(train_in_full_precision(super().call_model_init(trial)), self.args, self._objective)
        self._take_teacher(model, self.args)
        if self._whole is not None:  # of the model before
            self._whole = WholeCopy(model, self.args.device)
        return model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load as the Trainer does, and the temperature beside an adapter: FSDP's own file holds layers only."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.is_fsdp_enabled and self.args.lora != "none":
            load_scalars(self.model, resume_from_checkpoint)  # type: ignore[arg-type]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the Trainer's without vectors such as the temperature: CLIP decays matrices only (2103.00020, 2.5)."""
        vectors = {name for name, weight in model.named_parameters() if weight.ndim < 2}
        return [name for name in super().get_decay_parameter_names(model) if name not in vectors]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, with the mean of every term of the objective since the last log."""
        if "loss" in logs:
            logs |= self._sums.means(self.accelerator)
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save as the Trainer does, with the arguments as YAML for `hf-mmcoa train --config` in place of a pickle."""
        if self._whole is None:
            super()._save(output_dir, state_dict)
        else:  # names and shapes of the plain model
            trained, self.model = self.model, self.whole_model()
            try:
                super()._save(output_dir)
            finally:
                self.model = trained
        folder = Path(output_dir) if output_dir is not None else self._output_dir
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            settings = {**yaml.safe_load(self.args.to_yaml()), **self.run_settings}
            settings[WHAT_RAN] = what_ran(self.attacker, self._trained_on)
            if (kinds := "|".join(self.attacker.text_attacks) or "none") != self.args.text_attack:  # of objects given
                settings["text_attack"] = kinds
            for name in ("push_to_hub", "resume_from_checkpoint", *(key for key in settings if key.startswith("hub_"))):
                settings.pop(name, None)  # who repeats the run starts from the beginning and publishes nothing
            write_text(yaml.safe_dump(settings, sort_keys=True), folder / ARGUMENTS_FILE)

    def _start(self) -> None:
        """Begin to count anew, and build objective and attacks from the arguments as they are now."""
        self._sums = LoggedSums()
        self.reader.start()
        self.attacker.step, self.attacker.batch_of_step = -1, 0
        self._follow_arguments(anew=True)

    def _update_auto_batch_size(self, batch_size: int) -> None:
        """Begin again with a smaller batch as the Trainer does (`auto_find_batch_size`), and count anew."""
        super()._update_auto_batch_size(batch_size)
        self._start()

    def _follow_arguments(self, anew: bool = False) -> None:
        """Build the objective and the attacks again if an argument was changed since, or the attacks in any case."""
        changed = self._changes.taken(self.model_init is not None)
        if changed and self._given_objective is None:
            objective = named_objective(self.args, self._image_size)
            if objective.reads_captions != self._objective.reads_captions:
                raise ValueError(
                    "`args.objective` now reads another number of captions of an image: make a new trainer."
                )
            self._objective = self.reader.objective = self.attacker.objective = objective
            if self.teacher is not None:
                self.teacher.objective = objective
            elif self.model_init is None:  # else taken with the model
                self._take_teacher(self._unwrapped(), self.args)
                if self.teacher is not None and self._given_teacher is None and self.state.global_step:
                    raise ValueError(
                        "the objective now reads a frozen teacher, and the model has been trained since it was given: "
                        "pass the pretrained model as `teacher`, or set the argument before training."
                    )
        if changed:
            check_schedule(self.args, self._objective, self._given_image_attack, sharded=self._whole is not None)
        if (changed or anew) and self.model is not None:  # a search drops the model of the trial before
            self.attacker.start()

    def _take_teacher(self, model: nn.Module, args: MMCoAConfig) -> None:
        self.teacher = Teacher.of(
            model,
            self._given_teacher,
            self._objective,
            self._processor,
            self.prompts,
            lambda: self.accelerator.autocast(),
            args.device,
            share=args.world_size == 1,  # with several processes FSDP and DeepSpeed move weights about
        )
        if hasattr(self, "attacker"):
            self.attacker.teacher = self.teacher

    def _stop_non_finite(self, loss: Tensor, inputs: Mapping[str, Any]) -> None:
        step = self.state.global_step
        file = self._output_dir / f"non_finite_step_{step}_process_{self.args.process_index}.json"
        write_json({"step": step, "row_ids": inputs["row_ids"].tolist()}, file)
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}; the row ids of its batch are in {file}. "
            "Lower `learning_rate` or `epsilon`, or look at those rows."
        )


def _first_model(model_init: Any) -> nn.Module:
    """Return a model to check processor and data against before the Trainer makes its own."""
    return model_init(None) if inspect.signature(model_init).parameters else model_init()
