"""The options of a training run beside `MMCoAConfig`'s, and the defaults of each kind of run.

This module imports no torch, so that a command line can be checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

SHIPPED_FOR = ("pictograms", "pictograms-common")  # data sets whose CLIP comes with the package, already pretrained


@dataclass
class RunArguments:
    """The model, the data and the measurements of a training run; the method's own numbers are `MMCoAConfig`'s."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP, or robust: and the name of a robust CLIP. Without it a tiny CLIP is "
            "built and pretrained, on digits or, with --tiny, on any data; pictograms and pictograms-common start from "
            "the one that comes with the package."
        },
    )
    tiny: bool = field(
        default=False,
        metadata={
            "help": "Build a tiny CLIP for the data set and pretrain it there without attack: minutes on a CPU, no "
            "download, any pictures. To try data, synonyms and attacks; not a model to use."
        },
    )
    tiny_image_size: int = field(
        default=32, metadata={"help": "Side of the tiny CLIP's images, in pixels, a multiple of 4; on digits always 8."}
    )
    dataset: str = field(default="digits", metadata={"help": "A registered benchmark, a Hub id or a local folder."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder that holds the data set's files already."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of the pictures; the usual names are found without it."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels; the usual names are found without it."}
    )
    text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the captions; needed if the data set has labels too, or the column an unusual name. "
            "Without labels, the measurement before and after is that of retrieval."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training split as it goes, without storing it; needs --max_steps and a model."},
    )
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
    pretrain_epochs: int | None = field(
        default=None,
        metadata={
            "help": "Epochs of the tiny CLIP's clean pretraining, about 400 steps of 128 pictures without it; unused "
            "with --model_name_or_path."
        },
    )
    synonyms: str | None = field(default=None, init=False)
    """Name or file of a table of substitutes; on the command line a value of `--candidates`."""
    targets_are_free: bool = field(default=False, init=False, compare=False)
    """Whether `targets` may become `class` where the data set has fewer classes than a batch has samples."""

    @property
    def starts_from_shipped(self) -> bool:
        """Return whether a run that names no model starts from the CLIP that the package has for its data."""
        return self.dataset in SHIPPED_FOR and not self.tiny


GENERAL: dict[str, Any] = {"output_dir": "output/mmcoa", "report_to": "none", "per_device_train_batch_size": 128}
"""Defaults of a run on a model that is given: a contrastive loss needs more negatives than transformers' batch of 8."""


def default_settings(model: str | None, dataset: str, tiny: bool) -> dict[str, Any]:
    """Return the options of a run where they differ from the defaults of `RunArguments` and `MMCoAConfig`.

    Args:
        model: folder or Hub id of the model; None without one.
        dataset: name, Hub id or folder of the data set.
        tiny: whether a tiny CLIP is built for the data set.
    """
    if model is None and dataset == "digits":
        return GENERAL | digits_settings()
    if model is None and dataset in SHIPPED_FOR and not tiny:
        return GENERAL | stored_settings("pictograms")
    return GENERAL | stored_settings("tiny") if model is None and tiny else dict(GENERAL)


def digits_settings() -> dict[str, Any]:
    """Return the options of the run without a model (`hf_mmcoa/testbed/digits.yaml`)."""
    return stored_settings("digits")


def stored_settings(name: str) -> dict[str, Any]:
    """Return the settings in `hf_mmcoa/testbed/<name>.yaml`."""
    settings: dict[str, Any] = yaml.safe_load(files("hf_mmcoa.testbed").joinpath(f"{name}.yaml").read_text("utf-8"))
    return settings
