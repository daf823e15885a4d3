"""Count the steps, images and gradients of a training before it runs, from its settings and the number of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import MMCoAConfig
from ..objectives.named import named_objective

OTHER_THAN_IMAGES = 224  # the image size does not decide which views an objective reads


@dataclass(frozen=True, kw_only=True)
class Work:
    """Hold what one training does.

    Args:
        steps: optimizer steps.
        images: images seen, each as often as it is seen.
        attack_gradients: gradients of the attacked loss by an image, one an image and attack step.
        attacks_texts: whether texts are attacked too.
    """

    steps: int
    images: int
    attack_gradients: int
    attacks_texts: bool


def training_work(args: MMCoAConfig, rows: int) -> Work:
    """Return the work of a training on so many rows, in one process with one device."""
    batch = args.per_device_train_batch_size
    batches = rows // batch if args.dataloader_drop_last else math.ceil(rows / batch)
    in_epoch = batches * batch if args.dataloader_drop_last else rows
    a_step = args.gradient_accumulation_steps
    steps_an_epoch = max(math.ceil(batches / a_step), 1)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_an_epoch)
    epochs, rest = divmod(steps, steps_an_epoch)
    images = epochs * in_epoch + min(rest * a_step * batch, in_epoch)
    views = named_objective(args, OTHER_THAN_IMAGES).views
    settings = args.attack_settings
    attacked = {"adv_images", "adv_patches"} & views
    return Work(
        steps=steps,
        images=images,
        attack_gradients=images * settings.num_steps * settings.restarts if attacked else 0,
        attacks_texts=bool({"adv_texts", "text_pools"} & views),
    )
