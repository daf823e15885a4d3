"""Pixels and texts to embeddings, differentiable: the only file that knows transformers' CLIP.

A new transformers release, or a new dual encoder, is a change to this file and to no other. Everything between an
image in [0, 1] and the model's `pixel_values` is torch, read off the processor, so that an attack's budget applies to
the image that the user has and not to a resized, normalised copy. Perturbed token embeddings enter through a hook on
the embedding
layer: the model's own forward does the rest, whatever its attention, pooling or `eos_token_id` convention.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

MAX_LOGIT_SCALE = math.log(100)  # CLIP, arXiv:2103.00020, section 2.5: the scale never exceeds 100


# Texts


def token_embedding_layer(model: nn.Module) -> nn.Module:
    """The layer that maps token ids to embeddings, also under DDP, compile and PEFT wrappers."""
    return extract_model_from_parallel(model).text_model.get_input_embeddings()


def token_table(model: nn.Module) -> Tensor:
    """The token-embedding table without its graph, (vocabulary, width)."""
    return token_embedding_layer(model).weight.detach()  # type: ignore[union-attr,operator]


def token_embeddings(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Token embeddings before positions are added, (texts, length, width), differentiable in the table."""
    return token_embedding_layer(model)(input_ids)


@contextlib.contextmanager
def edited_token_embeddings(model: nn.Module, edit: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Pass the token-embedding layer's output through `edit` while the block runs; `None` edits nothing."""
    if edit is None:
        yield
        return
    handle = token_embedding_layer(model).register_forward_hook(lambda layer, ids, output: edit(output))
    try:
        yield
    finally:
        handle.remove()


def text_ends(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Position of the token at which the text encoder pools, (texts,), as transformers' CLIP finds it."""
    eos = extract_model_from_parallel(model).text_model.eos_token_id
    # An id of 2 in old configs is wrong and means "the highest id" (transformers, pull request 24773).
    return input_ids.argmax(dim=-1) if eos == 2 else (input_ids == eos).int().argmax(dim=-1)


def text_features(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Un-normalised text features, (texts, dim), float32, of an unwrapped dual encoder."""
    return _pooled(model.get_text_features(input_ids=input_ids)).float()  # type: ignore[operator]


def text_embeds(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
) -> Tensor:
    """L2-normalised text embeddings.

    Args:
        model: an unwrapped dual encoder.
        input_ids: token ids, (texts, length). Still needed beside `inputs_embeds`: they say where the text ends.
        attention_mask: 1 on tokens, 0 on padding, (texts, length). CLIP's text encoder is causal and pools at the end
            of the text, so with padding on the right it may be left out, which is faster.
        inputs_embeds: what the token-embedding layer should have returned, (texts, length, width).

    Returns:
        (texts, dim), float32.
    """
    edit = None if inputs_embeds is None else lambda output: inputs_embeds.to(output.dtype)
    with edited_token_embeddings(model, edit):
        output = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)  # type: ignore[operator]
    return F.normalize(_pooled(output).float(), dim=-1)


# Images


def pixel_values(images: Tensor, image_processor: Any) -> Tensor:
    """Differentiable twin of the processor's PIL path: resize (always bicubic, as CLIP's), centre crop, mean and std.

    Values are clipped to [0, 1] after the bicubic resize, as PIL's 8-bit images are; without a resize nothing is
    clipped.

    Args:
        images: in [0, 1], (batch, 3, height, width), any size.
        image_processor: a CLIP-like image processor; its size, crop size, mean and std are used.

    Returns:
        (batch, 3, crop height, crop width).
    """
    size = image_processor.size
    if image_processor.do_resize:
        height, width = images.shape[-2:]
        if (short := size.get("shortest_edge")) is not None:
            target = (
                short if height <= width else int(short * height / width),
                short if width <= height else int(short * width / height),
            )
        else:
            target = (size["height"], size["width"])
        if target != (height, width):
            images = F.interpolate(images, target, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    if getattr(image_processor, "do_center_crop", False):
        crop_height, crop_width = image_processor.crop_size["height"], image_processor.crop_size["width"]
        height, width = images.shape[-2:]
        if height < crop_height or width < crop_width:
            raise ValueError(
                f"images of {height}x{width} are smaller than the processor's crop of {crop_height}x{crop_width} and "
                "`do_resize` is off. Use a processor that resizes."
            )
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        images = images[..., top : top + crop_height, left : left + crop_width]
    if image_processor.do_normalize:
        mean = torch.tensor(image_processor.image_mean, dtype=images.dtype, device=images.device).view(3, 1, 1)
        std = torch.tensor(image_processor.image_std, dtype=images.dtype, device=images.device).view(3, 1, 1)
        images = (images - mean) / std
    return images


def image_embeds(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """L2-normalised image embeddings, (batch, dim), float32, of an unwrapped dual encoder."""
    output = model.get_image_features(pixel_values=pixel_values)  # type: ignore[operator]
    return F.normalize(_pooled(output).float(), dim=-1)


def image_features(model: nn.Module, pixel_values: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
    """Un-normalised features, (batch, dim), and, if asked, projected patch tokens, (batch, patches, dim); float32."""
    output = model.get_image_features(pixel_values=pixel_values)  # type: ignore[operator]
    return _pooled(output).float(), _patches(model, output) if patches else None


def _patches(model: nn.Module, vision_output: Any) -> Tensor:
    """Patch tokens as CLIP projects its class token: final layer norm, then the projection (arXiv:2410.21802)."""
    clip = extract_model_from_parallel(model)
    tokens = clip.vision_model.post_layernorm(vision_output.last_hidden_state[:, 1:])
    return clip.visual_projection(tokens).float()


def check_images(images: Tensor) -> None:
    """Raise unless `images` is a floating (batch, 3, height, width) tensor in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"`images` must be a float tensor (batch, 3, height, width), got {images.dtype} {tuple(images.shape)}."
        )
    low, high = (value.item() for value in images.detach().aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(
            f"`images` must hold pixels in [0, 1], got values from {low:g} to {high:g}. "
            "Divide 8-bit images by 255, and give pixels before mean and std: the model's own are applied inside."
        )


# Both


@dataclass(frozen=True)
class JointOutput:
    """What both towers say of a batch, float32.

    `image_embeds` (images, dim) and `text_embeds` (texts, dim) are L2-normalised, `image_features` and `text_features`
    the same before that; `patches` are projected patch tokens, (images, patches, dim), where they were asked for.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_features: Tensor
    text_features: Tensor
    patches: Tensor | None


def joint_forward(
    model: nn.Module,
    pixel_values: Tensor,
    input_ids: Tensor,
    token_shift: Tensor | None = None,
    patches: bool = False,
) -> JointOutput:
    """Both towers in one forward of the (possibly wrapped) model, so that DDP, FSDP and DeepSpeed see one.

    Args:
        model: the model as the Trainer wrapped it.
        pixel_values: (images, 3, height, width).
        input_ids: (texts, length); the numbers of images and texts may differ.
        token_shift: added to the token embeddings, (texts, length, width); a constant, so the table still gets
            gradients.
        patches: also project the patch tokens.

    Returns:
        The embeddings and features of both.
    """
    edit = None if token_shift is None else lambda output: output + token_shift.to(output.dtype)
    with edited_token_embeddings(model, edit):
        output = model(pixel_values=pixel_values, input_ids=input_ids)
    return JointOutput(
        image_embeds=output.image_embeds.float(),
        text_embeds=output.text_embeds.float(),
        image_features=_pooled(output.vision_model_output).float(),
        text_features=_pooled(output.text_model_output).float(),
        patches=_patches(model, output.vision_model_output) if patches else None,
    )


PARTS = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
    "logit_scale": ("logit_scale",),
}
"""The modules and parameters of each part of a dual encoder."""


def set_trainable(model: nn.Module, image: bool, text: bool, logit_scale: bool) -> nn.Module:
    """Freeze the towers (each with its projection) and the temperature that are not to train, in place."""
    for part, trainable in (("image", image), ("text", text), ("logit_scale", logit_scale)):
        if not trainable:
            for name in PARTS[part]:
                getattr(model, name).requires_grad_(False)
    return model


def trains_text(model: nn.Module) -> bool:
    """Whether any weight of the text encoder of an unwrapped dual encoder is trained."""
    return any(weight.requires_grad for name in PARTS["text"] for weight in getattr(model, name).parameters())


def frozen_copy(model: nn.Module, share: bool = True) -> nn.Module:
    """The model as it is now, in eval mode and without gradient: the pretrained f0 and g0 of METHODS.

    Args:
        model: an unwrapped dual encoder; of a PEFT model, the model without its adapters is copied.
        share: weights that do not train are shared with the copy and not copied. Off where a wrapper moves weights
            about in memory (FSDP, DeepSpeed).
    """
    kept = {id(weight): weight for weight in model.parameters() if share and not weight.requires_grad}
    copied = copy.deepcopy(model, kept)
    copied = copied.unload() if isinstance(copied, PeftModel) else copied  # type: ignore[operator]
    return copied.requires_grad_(False).eval()


def check_same_architecture(teacher: nn.Module, model: nn.Module) -> None:
    """Raise ValueError, naming a weight, unless all weights of the two models have the same names and shapes."""
    theirs, ours = ({n: tuple(w.shape) for n, w in one.state_dict().items()} for one in (teacher, model))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"`teacher` is of another architecture than `model`: {name} is {theirs.get(name, 'missing')} in the "
                f"teacher and {ours.get(name, 'missing')} in the model. Pass the model that training starts from, or "
                "leave `teacher` out: then a copy of it is taken."
            )


class DualEncoder:
    """A dual encoder and its processor as two functions, images and texts to unit vectors in one space.

    Args:
        model: a `CLIPModel`, or a PEFT model around one; not wrapped by DDP and the like.
        processor: the `CLIPProcessor` that belongs to it.

    Raises:
        TypeError: if the model has no two towers, or the processor lacks its tokenizer or image processor.
        ValueError: if model and processor do not fit: image size, vocabulary, or end-of-text token.

    Example:
        >>> encoder = DualEncoder(model, processor)  # doctest: +SKIP
        >>> encoder.encode_images(images) @ encoder.encode_texts(["a cat", "a dog"]).T  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, processor: ProcessorMixin) -> None:
        missing = [
            name for name in ("get_image_features", "get_text_features", "logit_scale") if not hasattr(model, name)
        ]
        if missing:
            raise TypeError(
                f"`model` must be a dual encoder such as CLIPModel; {type(model).__name__} has no {', '.join(missing)}."
            )
        missing = [name for name in ("tokenizer", "image_processor") if getattr(processor, name, None) is None]
        if missing:
            raise TypeError(
                f"`processor` must be a CLIPProcessor with a tokenizer and an image processor; "
                f"{type(processor).__name__} has no {' and no '.join(missing)}. "
                "Load it with CLIPProcessor.from_pretrained."
            )
        self.model = model
        self.processor = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer  # type: ignore[attr-defined]
        self.image_processor: Any = processor.image_processor  # type: ignore[attr-defined]
        self._check_fit()

    @property
    def image_size(self) -> int:
        """Height and width of the image that the model sees, in pixels."""
        return int(self.model.config.vision_config.image_size)  # type: ignore[union-attr,arg-type]

    @property
    def context_length(self) -> int:
        """The most tokens a text may have, BOS and EOS included."""
        return int(self.model.config.text_config.max_position_embeddings)  # type: ignore[union-attr,arg-type]

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature after `exp`, scalar, with gradient; at most 100."""
        return self.model.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()  # type: ignore[union-attr,operator]

    def tokenize(self, texts: list[str], truncation: bool = False) -> dict[str, Tensor]:
        """Token ids and mask, padded on the right to the longest text, on the model's device.

        Raises:
            ValueError: if a text is longer than the context and `truncation` is off; the text is named.
        """
        encoded = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=truncation,
            max_length=self.context_length if truncation else None,
            return_tensors="pt",
        )
        length = encoded["input_ids"].shape[1]
        if length > self.context_length:
            longest = int(encoded["attention_mask"].sum(1).argmax())
            raise ValueError(
                f"the text {texts[longest]!r} has {length} tokens, the model's context holds {self.context_length}. "
                "Shorten the class name or the template."
            )
        device = self.model.logit_scale.device  # type: ignore[union-attr]
        return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}  # type: ignore[arg-type]

    def pixel_values(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (batch, 3, h, w), to what the model reads, (batch, 3, size, size); differentiable."""
        return pixel_values(images, self.image_processor)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (batch, 3, h, w), to unit vectors (batch, dim); differentiable in the images."""
        return image_embeds(self.model, self.pixel_values(images))

    def image_features(self, images: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
        """Images in [0, 1] to un-normalised features (batch, dim), and patch tokens (batch, patches, dim) if asked."""
        return image_features(self.model, self.pixel_values(images), patches)

    def text_features(self, texts: list[str]) -> Tensor:
        """Texts to un-normalised features, (texts, dim); those that are too long are cut."""
        return text_features(self.model, self.tokenize(texts, truncation=True)["input_ids"])

    def encode_texts(self, texts: list[str], batch_size: int = 256, truncation: bool = True) -> Tensor:
        """Texts to unit vectors (texts, dim), in batches of like length: a short text is not padded to a long one."""
        if not texts:
            return torch.empty(0, int(self.model.config.projection_dim))  # type: ignore[union-attr,arg-type]
        order = (
            sorted(range(len(texts)), key=lambda row: len(texts[row])) if len(texts) > batch_size else range(len(texts))
        )
        rows = list(order)
        parts = [
            text_embeds(
                self.model,
                self.tokenize([texts[row] for row in rows[start : start + batch_size]], truncation)["input_ids"],
            )
            for start in range(0, len(rows), batch_size)
        ]
        embeds = torch.cat(parts)
        return embeds[torch.tensor(rows, device=embeds.device).argsort()] if len(parts) > 1 else embeds

    def _check_fit(self) -> None:
        crops = getattr(self.image_processor, "do_center_crop", False)
        crop: Mapping[str, int] = self.image_processor.crop_size if crops else self.image_processor.size
        seen = crop.get("height", crop.get("shortest_edge"))
        if seen != self.image_size:
            raise ValueError(
                f"`processor` makes images of {seen} pixels, `model` reads {self.image_size}: "
                "they do not belong together."
            )
        vocabulary = token_table(self.model).shape[0]
        if len(self.tokenizer) > vocabulary:
            raise ValueError(
                f"`processor` knows {len(self.tokenizer)} tokens, `model` embeds {vocabulary}: "
                "they do not belong together."
            )
        pooled_at, eos = self.model.text_model.eos_token_id, self.tokenizer.eos_token_id  # type: ignore[union-attr]
        # transformers reads a configured id of 2 as "pool at the highest id", the convention of CLIP's first
        # checkpoints.
        expected = len(self.tokenizer) - 1 if pooled_at == 2 else pooled_at
        if eos != expected:
            raise ValueError(
                f"`processor` ends texts with token {eos}, `model` pools at token {expected} "
                f"(config.text_config.eos_token_id = {pooled_at}): its text embeddings would not depend on the text."
            )


def _pooled(output: Any) -> Tensor:
    """The projected features: an output object since transformers 5, a tensor before."""
    return output if isinstance(output, Tensor) else output.pooler_output


def load(model_name_or_path: str | Path) -> tuple[nn.Module, ProcessorMixin]:
    """A CLIP folder or Hub id as `(model, processor)`, in eval mode, without remote code and without torchvision.

    Raises:
        ValueError: if what lies there is no CLIP; the text says what it is.
    """
    name = str(model_name_or_path)
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, CLIPConfig):
        raise ValueError(f"{name!r} is a {config.model_type!r} model; a dual encoder of type 'clip' is needed.")
    # The processor class that transformers picks by itself wants torchvision; the PIL one reads the same file.
    processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(name), AutoTokenizer.from_pretrained(name))
    return CLIPModel.from_pretrained(name).eval(), processor
