"""The options of a training run beside `MMCoAConfig`'s, and the settings of the default run on digits.

This module imports no torch, so that a command line can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml


@dataclass
class RunArguments:
    """The model, the data and the measurements of a training run; the method's own numbers are `MMCoAConfig`'s."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP. Without it a tiny CLIP is built and pretrained on digits, in seconds."
        },
    )
    dataset: str = field(default="digits", metadata={"help": "A registered benchmark, a Hub id or a local folder."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder that holds the data set's files already."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(
        default="test", metadata={"help": "Split to measure on; never used for training or model selection."}
    )
    shots: int | None = field(
        default=None, metadata={"help": "Training images per class (few-shot); all images without it."}
    )
    preset: str = field(
        default="standard",
        metadata={"help": "Threat model of the measurements; epsilon and norm are those of the training."},
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Measure on this many test images, drawn once; on all without it."}
    )
    pretrain_epochs: int = field(
        default=40, metadata={"help": "Epochs of the tiny CLIP's clean pretraining; unused with --model_name_or_path."}
    )


def digits_settings() -> dict[str, Any]:
    """Return the options of the run without a model (`hf_mmcoa/testbed/digits.yaml`)."""
    settings: dict[str, Any] = yaml.safe_load(files("hf_mmcoa.testbed").joinpath("digits.yaml").read_text())
    return settings
