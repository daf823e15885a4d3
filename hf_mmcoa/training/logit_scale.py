"""The bound of a CLIP's temperature in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..models.architectures import towers_of


class ClampLogitScale(TrainerCallback):
    """Keep a CLIP's temperature at most ln 100 after every optimizer step, as CLIP does."""

    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=towers_of(model).max_logit_scale)  # type: ignore[arg-type,union-attr,operator]
