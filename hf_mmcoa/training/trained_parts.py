"""What of a model trains, as the arguments and the objective say."""

from __future__ import annotations

from torch import nn

from ..config import MMCoAConfig
from ..models import freezing
from ..models.lora import TARGET_MODULES, add_lora
from ..objectives import Objective


def freeze(model: nn.Module, args: MMCoAConfig, objective: Objective) -> nn.Module:
    """Freeze what does not train, in place, or put adapters on it; return the model that trains.

    Raises:
        ValueError: if nothing would train.
    """
    image = args.train_image_encoder and "image" in objective.trains
    text = args.train_text_encoder and "text" in objective.trains
    if not (image or text):
        raise ValueError(
            f"{type(objective).__name__} trains {' and '.join(sorted(objective.trains))}; with `train_image_encoder="
            f"{args.train_image_encoder}` and `train_text_encoder={args.train_text_encoder}` nothing would train."
        )
    scale = args.train_logit_scale and "logit_scale" in objective.trains
    model = freezing.set_trainable(model, image, text, scale)
    if args.last_blocks is not None:
        return freezing.train_last_blocks(model, args.last_blocks)
    if args.lora != "none":
        towers = [
            tower for tower, trains in (("image", image), ("text", text)) if trains and args.lora in (tower, "both")
        ]
        if not towers:
            raise ValueError(f'`lora="{args.lora}"`: {type(objective).__name__} does not train that tower.')
        return add_lora(
            model,  # type: ignore[arg-type]  # it refuses what is no CLIPModel
            "both" if len(towers) == 2 else towers[0],  # type: ignore[arg-type]
            args.lora_rank,
            args.lora_alpha,
            args.lora_dropout,
            args.lora_target_modules or TARGET_MODULES,
            train_logit_scale=scale,
            seed=args.seed,
            modules_to_save=args.lora_modules_to_save or (),
        )
    return model
