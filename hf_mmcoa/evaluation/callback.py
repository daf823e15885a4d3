"""Robustness while a model trains, for any `Trainer`: a sub-sample attacked now and then, in the Trainer's own log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import datasets
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..substitutes.source import CandidateSource
from .evaluator import evaluate_robustness
from .prepare import ATTACKS
from .threat_model import ThreatModel

if TYPE_CHECKING:
    from transformers import Trainer


class RobustnessCallback(TrainerCallback):
    """Run `evaluate_robustness` on a few rows, and log `robustness/clean_accuracy`, `robustness/image_accuracy`, ...

    Measured before the first step, and then every so often. What is logged reaches everything that the Trainer reports
    to. Use held-out rows of the training data, never the test split, if a checkpoint is chosen by these numbers. Sanity
    checks are not run. The rows are shared among the processes; sharded weights (FSDP, DeepSpeed ZeRO-3) are measured
    with an `MMCoATrainer`, which has a copy of all of them on each.

    Args:
        trainer: whose log is written; its `processing_class` is the model's processor.
        dataset: pictures and labels.
        every: "epoch", or a number of steps.
        threat_model: as for `evaluate_robustness`.
        attacks: as for `evaluate_robustness`.
        class_names: as for `evaluate_robustness`.
        candidates: as for `evaluate_robustness`.
        max_samples: rows measured, the same ones each time.
        batch_size: images per batch.

    Raises:
        ValueError: if `every` is neither "epoch" nor at least 1.

    Example:
        >>> trainer.add_callback(RobustnessCallback(trainer, held_out, every=100))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        dataset: datasets.Dataset,
        *,
        every: int | Literal["epoch"] = "epoch",
        threat_model: str | Mapping[str, Any] | ThreatModel = "quick",
        attacks: Sequence[str] = ATTACKS,
        class_names: Sequence[str] | None = None,
        candidates: CandidateSource | Mapping[str, CandidateSource] | None = None,
        max_samples: int = 256,
        batch_size: int = 128,
    ) -> None:
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise ValueError(f'`every` must be "epoch" or a number of steps, at least 1, got {every!r}.')
        self.trainer, self.dataset, self.every = trainer, dataset, every
        self.arguments: dict[str, Any] = {
            "threat_model": threat_model,
            "attacks": attacks,
            "class_names": class_names,
            "candidates": candidates,
            "max_samples": max_samples,
            "batch_size": batch_size,
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what training starts from."""
        self.measure(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure every so many steps."""
        if self.every != "epoch" and state.global_step % self.every == 0:
            self.measure(kwargs["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure after every epoch."""
        if self.every == "epoch":
            self.measure(kwargs["model"])

    def measure(self, model: Any) -> None:
        """Measure now, and log."""
        if model is self.trainer.model and hasattr(self.trainer, "whole_model"):
            model = self.trainer.whole_model()
        result = evaluate_robustness(
            model, self.trainer.processing_class, self.dataset, sanity=False, progress=False, **self.arguments
        )
        self.trainer.log({f"robustness/{name}": value for name, value in result.items() if name.endswith("_accuracy")})
