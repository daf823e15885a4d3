"""The shipped CLIP of the pictograms: an image tower that learnt from four designs, under the English text tower.

`build_pictogram_clip.py` makes the image tower, which is in `pictograms/`; the text tower is the one in `english/`, so
it is not shipped twice.
"""

from __future__ import annotations

import math
from importlib.resources import as_file, files
from typing import Any

import torch
from transformers import CLIPModel, CLIPProcessor, CLIPVisionModelWithProjection

from .english_clip import english_clip

LOGIT_SCALE = 20.0  # of the pretraining, in which it does not change: an image tower has no place to store it


def pictogram_clip() -> tuple[CLIPModel, CLIPProcessor]:
    """Load the CLIP of the pictograms.

    Returns:
        `(model, processor)`, float32, in eval mode; pictures of 48x48 pixels, texts of at most 20 tokens.

    Example:
        >>> model, processor = pictogram_clip()
        >>> model.config.vision_config.image_size
        48
    """
    with as_file(files(__package__) / "pictograms") as folder:
        tower = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    size: Any = tower.config
    model, processor = english_clip(
        image_size=size.image_size, patch_size=size.patch_size, width=size.hidden_size, layers=size.num_hidden_layers
    )
    model.vision_model.load_state_dict(tower.vision_model.state_dict())
    model.visual_projection.load_state_dict(tower.visual_projection.state_dict())
    with torch.no_grad():
        model.logit_scale.fill_(math.log(LOGIT_SCALE))
    return model, processor


SHIPPED = {"pictograms": pictogram_clip}  # the `model` of a protocol may be one of these names
