"""Every view of a batch that an objective reads, from ONE forward of the wrapped model, gathered from all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks.perturbed_texts import PerturbedTexts
from ..config import MMCoAConfig
from ..losses import class_targets
from ..models import encoding, freezing
from ..objectives import Embeddings
from .attacker import Adversarial
from .batch import Batch, BatchReader
from .distributed import gather_rows
from .teacher import Teacher


def encode_views(
    model: nn.Module,
    batch: Batch,
    adversarial: Adversarial,
    reader: BatchReader,
    teacher: Teacher | None,
    args: MMCoAConfig,
) -> Embeddings:
    """Encode clean and adversarial images and texts together, so that DDP, FSDP and DeepSpeed see one forward.

    Clean texts of a frozen text encoder are known from the anchors and not encoded again.

    Args:
        model: as the Trainer wrapped it.
        batch: the clean batch.
        adversarial: what the attacks made of it.
        reader: how the batch was read.
        teacher: the frozen encoders, if the objective reads them.
        args: the configuration.
    """
    views, encoder = reader.objective.views, reader.encoder.dual
    frozen_texts = not freezing.trains_text(encoder.model)
    images = {
        "adv_images": [adversarial.images] if adversarial.images is not None else [],
        "images": [batch.images] if views & {"images", "patches"} else [],
        "iterates": adversarial.iterates,
    }
    texts: dict[str, Sequence[str]] = {}
    for number, each in enumerate(batch.caption_sets):
        texts[f"texts {number}"] = each.texts if "texts" in views and not frozen_texts else []
        prompts = each.texts if reader.prompts is None or each.keys is not None else reader.prompts_in(number)
        texts[f"prompts {number}"] = prompts if "prompts" in views and not frozen_texts else []
    texts["pools"] = adversarial.pools.texts if adversarial.pools is not None else []
    for number, attacked in enumerate(adversarial.caption_sets):  # last: see `_token_shift`
        texts[f"adv_texts {number}"] = [text for perturbed in attacked.texts for text in perturbed.texts]
    # The model's forward wants both: one picture or one text stands in for those that nobody reads.
    if (step := adversarial.step) is None:
        listed = [image for part in images.values() for image in part] or [batch.images[:1]]
        pixels = encoder.pixel_values(torch.cat(listed))
        image_sizes = {name: len(part) * len(batch.images) for name, part in images.items()}
    else:  # the forward encodes the clean images, then what the step makes of them
        pixels = step.clean_pixel_values()
        image_sizes = {"images": len(batch.images), "adv_images": len(batch.images), "iterates": 0}
    tokens = encoder.tokenize([text for part in texts.values() for text in part] or ["a"], truncation=True)
    attacked_texts = [perturbed for attacked in adversarial.caption_sets for perturbed in attacked.texts]
    shift = _token_shift(encoder.model, tokens["input_ids"], attacked_texts)
    output = encoding.joint_forward(
        model,
        pixels,
        tokens["input_ids"],
        shift,
        bool(views & {"patches", "adv_patches"}),
        args.encode_batch_size,
        step,
    )

    text_sizes = {name: len(part) for name, part in texts.items()}
    image_parts = _split(output.image_embeds, image_sizes)
    image_features = _split(output.image_features, image_sizes)
    text_parts = _split(output.text_embeds, text_sizes)
    text_features = _split(output.text_features, text_sizes)
    patches = _split(output.patches, image_sizes) if output.patches is not None else {}

    def captioned(number: int, each: Batch, attacked: Adversarial) -> dict[str, Any]:
        """Return the fields of `Embeddings` that belong to one caption of each sample."""
        own, prompts = text_parts[f"texts {number}"], text_parts[f"prompts {number}"]
        own = own if own is None else own[each.text_ids]
        if prompts is not None and each.keys is not None:  # in the order of the anchors, of all processes
            prompts = reader.distinct_rows(each.keys, prompts[each.text_ids])[1]
        if frozen_texts:
            own = each.anchors[each.anchor_ids] if "texts" in views else None
            prompts = each.anchors if "prompts" in views else None
        adv_embeds = adv_features = None
        if attacked.texts:
            adv_embeds = text_parts[f"adv_texts {number}"][attacked.text_ids]
            adv_features = text_features[f"adv_texts {number}"][attacked.text_ids]
        return {
            "logit_scale": output.logit_scale,
            "logit_bias": output.logit_bias,
            "text_embeds": _gather(own),
            "adv_text_embeds": _gather(adv_embeds),
            "targets": class_targets(gather_rows(each.groups)) if args.targets == "class" else None,
            "prompt_embeds": prompts,
            "labels": each.anchor_ids,
            "adv_text_features": adv_features,
            **each.teacher,
        }

    attacked_sets = adversarial.caption_sets if adversarial.texts else [adversarial] * len(batch.caption_sets)
    first, *others = map(captioned, count(), batch.caption_sets, attacked_sets)
    return Embeddings(
        **first,
        image_embeds=_gather(image_parts["images"]),
        adv_image_embeds=_gather(image_parts["adv_images"]),
        pool_embeds=text_parts["pools"],
        pool_classes=adversarial.pools and batch.anchor_ids.new_tensor(adversarial.pools.classes),
        iterate_embeds=image_parts["iterates"].split(len(batch.images)) if images["iterates"] else [],
        image_features=image_features["images"],
        adv_image_features=image_features["adv_images"],
        patches=patches.get("images"),
        adv_patches=patches.get("adv_images"),
        more_captions=[Embeddings(**each) for each in others],
        **({} if teacher is None else teacher.teach_attacked(adversarial.finished().images)),
    )


def _token_shift(model: nn.Module, input_ids: Tensor, adv_texts: Sequence[PerturbedTexts]) -> Tensor | None:
    """Return what is added to the token embeddings of all texts, (texts, length, width): attacked ones are last."""
    if all(perturbed.shift is None for perturbed in adv_texts):
        return None
    width = encoding.token_table(model).shape[1]
    whole = torch.zeros(*input_ids.shape, width, device=input_ids.device)
    row = len(input_ids) - sum(len(perturbed.texts) for perturbed in adv_texts)
    for perturbed in adv_texts:
        if perturbed.shift is not None:
            whole[row : row + len(perturbed.texts), : perturbed.shift.shape[1]] = perturbed.shift
        row += len(perturbed.texts)
    return whole


def _split(rows: Tensor, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return consecutive rows by name; None where a part has none. Rows after the last part belong to nobody."""
    parts = rows[: sum(sizes.values())].split(list(sizes.values()))
    return {name: part if len(part) else None for name, part in zip(sizes, parts, strict=True)}


def _gather(rows: Any) -> Any:
    return None if rows is None else gather_rows(rows)
