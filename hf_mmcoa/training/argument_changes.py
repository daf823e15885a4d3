"""Arguments that are set after the trainer was made: they take effect with the next batch, or are refused by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from ..config import MMCoAConfig

OF_THE_METHOD = tuple({each.name for each in fields(MMCoAConfig)} - {each.name for each in fields(TrainingArguments)})
OF_THE_MODEL = (
    "objective",
    "train_image_encoder",
    "train_text_encoder",
    "train_logit_scale",
    "last_blocks",
    "lora",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
)
OF_THE_TRAINER = ("template", "perturb_at", "compile_attack", "log_images_every", "captions_per_image")


class ArgumentChanges:
    """Notices that fields of the configuration, MMCoA's own ones, were set since they were last read.

    Args:
        args: the configuration that the trainer holds.
    """

    def __init__(self, args: MMCoAConfig) -> None:
        self._args = args
        self._seen = self._now()

    def taken(self, makes_models: bool) -> bool:
        """Return whether any field was changed since the last call, and check the new values.

        Args:
            makes_models: whether the trainer makes its model anew (`model_init`), and so can follow all of its fields.

        Raises:
            ValueError: if a value is out of range, or the field can no longer have an effect.
        """
        now = self._now()
        if now == self._seen:
            return False
        for name in OF_THE_TRAINER if makes_models else (*OF_THE_TRAINER, *OF_THE_MODEL):
            if now[name] != self._seen[name]:
                way_out = " or give it a `model_init`" if name in OF_THE_MODEL else ""
                raise ValueError(
                    f"`args.{name}` was changed from {self._seen[name]!r} to {now[name]!r} after the trainer was made, "
                    f"when it has no effect any more: make a new trainer{way_out}."
                )
        self._args.check()
        self._seen = self._now()
        return True

    def _now(self) -> dict[str, Any]:
        return {name: getattr(self._args, name) for name in OF_THE_METHOD}
