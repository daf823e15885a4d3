"""Functions that map pixels and texts to embeddings, differentiably, with any supported dual encoder.

With `architectures` this is the only code that depends on the interfaces of transformers' models: a new transformers
release is a change here, a new dual encoder a class in `architectures`. All steps from an image in [0, 1] to the
model's `pixel_values` are torch operations with the processor's settings, so that an attack budget applies to the
user's image and not to a resized, normalised copy. Perturbed token embeddings enter through a hook on the embedding
layer; the model's own forward does the rest, so its attention, pooling and `eos_token_id` convention stay its own.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .architectures import Towers, towers_of, unwrapped
from .sharding import is_sharded
from .shared_prefix import SharedPrefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnOutOfRange = Literal["raise", "clamp"]

MAX_SIDES = 100  # a picture of 60000x1 would be resized to 13 million x 224 before it is cropped: 36 GB


MASKED_ATTENTION = ("eager", "sdpa")  # implementations of attention that accept any mask

RESIZES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


# Texts


def token_embedding_layer(model: nn.Module) -> nn.Module:
    """Return the layer that maps token ids to embeddings, also of a model inside DDP, compile and PEFT wrappers."""
    return unwrapped(model).text_model.get_input_embeddings()


def token_table(model: nn.Module) -> Tensor:
    """Return the token-embedding table, (vocabulary, width), detached from its graph."""
    return token_embedding_layer(model).weight.detach()  # type: ignore[union-attr,operator]


def token_embeddings(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Return token embeddings before positions are added, (texts, length, width), differentiable in the table."""
    return token_embedding_layer(model)(input_ids)


@contextlib.contextmanager
def edited_token_embeddings(model: nn.Module, edit: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Apply `edit` to the output of the token-embedding layer while the block runs; `None` changes nothing."""
    if edit is None:
        yield
        return
    handle = token_embedding_layer(model).register_forward_hook(lambda layer, ids, output: edit(output))
    try:
        yield
    finally:
        handle.remove()


def text_ends(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Return the position of the token at which the text encoder pools each text, (texts,), by the model's own rule."""
    return towers_of(model).text_ends(input_ids)


def word_positions(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return True for tokens of words and False for BOS, end of text and padding, (texts, length)."""
    return towers_of(model).word_positions(input_ids, attention_mask)


def tokenize(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str], truncation: bool, offsets: bool = False
) -> dict[str, Tensor]:
    """Tokenize texts as the model was trained to read them, composed (Unicode's NFC), onto its device.

    Args:
        model: an unwrapped dual encoder.
        tokenizer: the model's tokenizer.
        texts: any number.
        truncation: cut texts at the context length.
        offsets: also return where in its text each token lies; needs a fast tokenizer.

    Returns:
        `input_ids` and `attention_mask`, (texts, length), padded on the right to the longest text, or to the context
        length if the model reads padding. With `offsets` also `offset_mapping`, (texts, length, 2), in characters of
        the composed text.
    """
    kind, context = towers_of(model), int(model.config.text_config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    encoded = tokenizer(
        [text.lower() for text in composed] if kind.lowercase else composed,
        padding=True,
        padding_side="right",
        pad_to_multiple_of=context if kind.reads_padding else None,
        truncation=truncation,
        max_length=context if truncation else None,
        return_attention_mask=True,  # SigLIP's tokenizers leave it out by themselves
        return_offsets_mapping=offsets,
        return_tensors="pt",
    )
    names = ("input_ids", "attention_mask", *(["offset_mapping"] if offsets else []))
    device = model.logit_scale.device
    return {name: encoded[name].to(device) for name in names}  # type: ignore[arg-type,union-attr]


def text_features(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
) -> Tensor:
    """Return un-normalised text features.

    If the encoder is causal and gets neither mask nor embeddings, texts with a common beginning are encoded together
    (see `shared_prefix`); the features are the same up to rounding.

    Args:
        model: an unwrapped dual encoder.
        input_ids: token ids, (texts, length). Needed beside `inputs_embeds` too: they say where each text ends.
        attention_mask: 1 on tokens, 0 on padding, (texts, length). CLIP's text encoder is causal and pools at the end
            of the text, so with padding on the right the mask may be left out, which is faster. SigLIP's text encoder
            reads padding: it never gets the mask, and `input_ids` must have the context length.
        inputs_embeds: token embeddings that replace the output of the token-embedding layer, (texts, length, width).

    Returns:
        (texts, dim), float32.
    """
    kind = towers_of(model)
    if not kind.reads_padding and attention_mask is None and inputs_embeds is None and len(input_ids) > 1:
        ends = kind.text_ends(input_ids)
        shared = SharedPrefix.of(input_ids, ends, int(kind.model.config.text_config.max_position_embeddings))
        if shared is not None and kind.model.config.text_config._attn_implementation in MASKED_ATTENTION:
            output = model.get_text_features(  # type: ignore[operator]
                input_ids=shared.pack(input_ids),
                attention_mask=shared.mask(token_table(model).dtype, input_ids.device),
                position_ids=shared.positions(input_ids.device),
            )
            return kind.project_texts(output.last_hidden_state[shared.places(ends)]).float()
    edit = None if inputs_embeds is None else lambda output: inputs_embeds.to(output.dtype)
    mask = None if kind.reads_padding else attention_mask
    with edited_token_embeddings(model, edit):
        output = model.get_text_features(input_ids=input_ids, attention_mask=mask)  # type: ignore[operator]
    return _pooled(output).float()


def text_embeds(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, inputs_embeds: Tensor | None = None
) -> Tensor:
    """Return L2-normalised text features, (texts, dim), float32; the arguments are those of `text_features`."""
    return F.normalize(text_features(model, input_ids, attention_mask, inputs_embeds), dim=-1)


# Images


def pixel_values(images: Tensor, image_processor: Any) -> Tensor:
    """Resize, crop and normalise images as the processor's PIL path does, but differentiably.

    Values are clipped to [0, 1] after the resize (bicubic or bilinear), as PIL's 8-bit images are; without a resize
    nothing is clipped.

    Args:
        images: in [0, 1], (batch, 3, height, width), of any size.
        image_processor: an image processor like CLIP's; its size, resampling, crop size, mean and std are used.

    Returns:
        (batch, 3, crop height, crop width).

    Raises:
        ValueError: if the resized image would be too long for its width, or the images are smaller than the crop and
            the processor does not resize.
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
        if max(target) > MAX_SIDES * min(target):
            raise ValueError(
                f"images of {height}x{width} are more than {MAX_SIDES} times as long as wide, and would be enlarged to "
                f'{target[0]}x{target[1]}. Crop them, or read them with `perturb_at="model"`.'
            )
        if target != (height, width):
            mode = RESIZES[image_processor.resample]
            images = F.interpolate(images, target, mode=mode, align_corners=False, antialias=True).clamp(0, 1)
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
        mean, std = (_of_channels(values, images) for values in (image_processor.image_mean, image_processor.image_std))
        images = (images - mean) / std
    return images


def _of_channels(values: Sequence[float], images: Tensor) -> Tensor:
    """Return (channels, 1, 1), written on the device: a copy from the host would make it wait in every attack step."""
    return torch.stack([images.new_full((1, 1), value) for value in values])


def image_embeds(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Return L2-normalised image embeddings, (batch, dim), float32, of an unwrapped dual encoder."""
    output = model.get_image_features(pixel_values=pixel_values)  # type: ignore[operator]
    return F.normalize(_pooled(output).float(), dim=-1)


def image_features(model: nn.Module, pixel_values: Tensor, patches: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return un-normalised image features, (batch, dim), float32, of an unwrapped dual encoder.

    Args:
        model: an unwrapped dual encoder.
        pixel_values: the model's input, (batch, 3, size, size).
        patches: also return the projected patch tokens, (batch, patches, dim); None otherwise.
    """
    output = model.get_image_features(pixel_values=pixel_values)  # type: ignore[operator]
    return _pooled(output).float(), towers_of(model).patches(output.last_hidden_state) if patches else None


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is a floating (batch, 3, height, width) tensor in [0, 1], up to rounding."""
    _check_shape(images)
    if (extremes := _extremes(images)) is not None:
        _check_range(*extremes, beyond=_rounding(images))


def pixels_in_range(images: Tensor, on_out_of_range: OnOutOfRange) -> Tensor:
    """Return images in [0, 1]; the gradient passes a clamped pixel as if it were not clamped.

    A graph of `torch.compile`, `torch.export` or ONNX cannot raise, nor can `torch.func.vmap`. There an image that
    "raise" refuses becomes NaN, and so does what is computed from it.

    Args:
        images: (batch, 3, height, width), floating. Pixels outside [0, 1] by rounding are clamped.
        on_out_of_range: "raise" refuses images that are clearly outside, "clamp" clamps them.

    Raises:
        ValueError: if the images have another shape or type, are refused, or hold NaN or infinity.
    """
    _check_shape(images)
    extremes = _extremes(images)
    beyond = _rounding(images) if on_out_of_range == "raise" else torch.finfo(images.dtype).max
    if extremes is not None:
        _check_range(*extremes, beyond=beyond)
        if extremes[0] >= 0 and extremes[1] <= 1:
            return images
    clamped = images.detach().clamp(0, 1) + (images - images.detach())  # the value of one, the gradient of the other
    if extremes is not None or on_out_of_range == "clamp":
        return clamped
    refused = (clamped - images).detach().abs().amax((1, 2, 3), keepdim=True) > beyond
    return clamped.masked_fill(refused, float("nan"))


def _extremes(images: Tensor) -> tuple[float, float] | None:
    """Return the smallest and the largest pixel; None where values cannot be read, as in a graph that is recorded."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if images.numel() == 0:
        return 0.0, 0.0
    try:
        return images.detach().amin().item(), images.detach().amax().item()
    except RuntimeError:  # of `torch.func.vmap`, and of tensors without values; torch has no public way to ask before
        return None


def _rounding(images: Tensor) -> float:
    return 4 * torch.finfo(images.dtype).eps  # what a resize or a mean and its inverse may leave


def _check_shape(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"`images` must be a float tensor (batch, 3, height, width), got {images.dtype} {tuple(images.shape)}."
        )


def _check_range(low: float, high: float, beyond: float) -> None:
    if not (low >= -beyond and high <= 1 + beyond):  # written so that NaN fails too
        raise ValueError(
            f"`images` must hold pixels in [0, 1], got values from {low:g} to {high:g}. "
            "Divide 8-bit images by 255, and give pixels before mean and std: the model's own are applied inside. "
            'For an attack that steps outside, `ZeroShotClassifier` takes on_out_of_range="clamp".'
        )


# Both


@dataclass(frozen=True)
class JointOutput:
    """The outputs of both encoders for one batch, float32.

    `image_embeds` (images, dim) and `text_embeds` (texts, dim) are L2-normalised; `image_features` and `text_features`
    are the same vectors before normalisation. `patches` are projected patch tokens, (images, patches, dim), or None if
    not asked for. `logit_scale` and `logit_bias` are those of `DualEncoder`, with gradient.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_features: Tensor
    text_features: Tensor
    patches: Tensor | None
    logit_scale: Tensor
    logit_bias: Tensor | None


def joint_forward(
    model: nn.Module,
    pixel_values: Tensor,
    input_ids: Tensor,
    token_shift: Tensor | None = None,
    patches: bool = False,
    batch_size: int = 0,
    attack: Callable[[Tensor], Tensor] | None = None,
) -> JointOutput:
    """Run both encoders in one forward of the (possibly wrapped) model, as DDP, FSDP and DeepSpeed need it.

    Args:
        model: the model as the Trainer wrapped it.
        pixel_values: the model's input, (images, 3, height, width).
        input_ids: token ids, (texts, length); the numbers of images and texts may differ.
        token_shift: added to the token embeddings, (texts, length, width); a constant, so the table still gets
            gradients.
        patches: also project the patch tokens.
        batch_size: images or texts that an encoder processes at a time; their activations are recomputed in the
            backward, chunk by chunk. The gradient is that of the whole batch (GradCache, arXiv:2101.06983) and the
            memory that of one chunk, at the price of a second forward. 0 processes all at once.
        attack: maps the features of all images, (images, dim), to further pixel values, which are encoded within the
            same forward: the output has their rows after those of the images.

    Returns:
        The embeddings and features of both encoders, with the temperature.
    """
    kind = towers_of(model)
    with (
        _towers_in_pieces(model, batch_size, token_shift),
        _attacked_images(kind, attack),
        _temperature_in_forward(kind) as temperature,
    ):
        output = model(pixel_values=pixel_values, input_ids=input_ids)
    scale, bias = temperature or [logit_scale(kind), logit_bias(kind)]
    return JointOutput(
        image_embeds=output.image_embeds.float(),
        text_embeds=output.text_embeds.float(),
        image_features=_pooled(output.vision_model_output).float(),
        text_features=_pooled(output.text_model_output).float(),
        patches=kind.patches(output.vision_model_output.last_hidden_state) if patches else None,
        logit_scale=scale,  # type: ignore[arg-type]  # never None
        logit_bias=bias,
    )


def _shift(token_shift: Tensor | None, rows: slice = slice(None)) -> Callable[[Tensor], Tensor] | None:
    return None if token_shift is None else lambda output: output + token_shift[rows].to(output.dtype)


@contextlib.contextmanager
def _towers_in_pieces(model: nn.Module, batch_size: int, token_shift: Tensor | None) -> Iterator[None]:
    """Make each encoder process `batch_size` rows at a time while the block runs; the shift is added to texts.

    The forwards of the two encoders are replaced, not that of the model, so a wrapper still sees one call.
    """

    def in_pieces(tower: nn.Module, key: str, shift: Tensor | None) -> Callable[..., BaseModelOutputWithPooling]:
        whole = tower.forward

        def encode(rows: slice, inputs: Tensor, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            with edited_token_embeddings(model, _shift(shift, rows)):  # here, because the backward runs `encode` again
                output = whole(**{key: inputs[rows]}, **kwargs)
            return output.last_hidden_state, output.pooler_output

        def forward(**kwargs: Any) -> BaseModelOutputWithPooling:
            inputs = kwargs.pop(key)
            pieces = [slice(start, start + batch_size) for start in range(0, len(inputs), batch_size)]
            outputs = [checkpoint(encode, rows, inputs, kwargs, use_reentrant=False) for rows in pieces]
            hidden, pooled = (torch.cat(parts) for parts in zip(*outputs, strict=True))
            return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

        return forward

    if batch_size == 0:
        with edited_token_embeddings(model, _shift(token_shift)):
            yield
        return
    plain = towers_of(model).model
    towers = ((plain.vision_model, "pixel_values", None), (plain.text_model, "input_ids", token_shift))
    with contextlib.ExitStack() as stack:
        for tower, key, shift in towers:
            stack.callback(_put_back, tower, vars(tower).get("forward"))
            tower.forward = in_pieces(tower, key, shift)
        yield


def _put_back(tower: nn.Module, forward: Any) -> None:
    del tower.forward
    if forward is not None:  # another wrapper had replaced it before
        tower.forward = forward


@contextlib.contextmanager
def _attacked_images(kind: Towers, attack: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
    """Make the model encode its images, then what the attack makes of their features, while the block runs."""
    if attack is None:
        yield
        return
    tower = kind.model.vision_model
    encode, before = tower.forward, vars(tower).get("forward")

    def forward(pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        clean = encode(pixel_values=pixel_values, **kwargs)
        attacked = encode(pixel_values=attack(kind.project_images(clean.pooler_output)), **kwargs)
        hidden, pooled = zip(*((each.last_hidden_state, each.pooler_output) for each in (clean, attacked)), strict=True)
        return BaseModelOutputWithPooling(last_hidden_state=torch.cat(hidden), pooler_output=torch.cat(pooled))

    tower.forward = forward
    try:
        yield
    finally:
        _put_back(tower, before)


@contextlib.contextmanager
def _temperature_in_forward(kind: Towers) -> Iterator[list[Tensor | None]]:
    """Yield a list that receives the logit scale and bias while the forward in the block runs, if weights are sharded.

    A sharded parameter outside all layers is complete on this process only during the forward. For weights that are not
    sharded the list stays empty.
    """
    found: list[Tensor | None] = []
    if not is_sharded(kind.model):
        yield found
        return
    handle = kind.model.register_forward_pre_hook(lambda *_: found.extend([logit_scale(kind), logit_bias(kind)]))
    try:
        yield found
    finally:
        handle.remove()


def logit_scale(kind: Towers) -> Tensor:
    """Return the inverse temperature after `exp`, scalar, with gradient; for a CLIP it is at most 100."""
    return kind.model.logit_scale.float().clamp(max=kind.max_logit_scale).exp().squeeze()


def logit_bias(kind: Towers) -> Tensor | None:
    """Return the bias that a SigLIP adds to its logits, scalar, with gradient; None for a CLIP."""
    return kind.model.logit_bias.float().squeeze() if "logit_bias" in kind.scalars else None


def _pooled(output: Any) -> Tensor:
    """Return the projected features; transformers returns an output object since version 5, and a tensor before."""
    return output if isinstance(output, Tensor) else output.pooler_output
