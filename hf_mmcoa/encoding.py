"""Pixels and texts to embeddings, differentiable: with `towers`, the only files that know transformers' models.

A new transformers release is a change here, a new dual encoder an object in `towers`. Everything between an image in
[0, 1] and the model's `pixel_values` is torch, read off the processor, so that an attack's budget applies to the image
that the user has and not to a resized, normalised copy. Perturbed token embeddings enter through a hook on the
embedding layer: the model's own forward does the rest, whatever its attention, pooling or `eos_token_id` convention.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer
from transformers.image_utils import PILImageResampling
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .distributed import is_sharded
from .shared_prefix import SharedPrefix
from .towers import Towers, architecture_of, towers_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

TOWERS = ("image", "text")
MAX_SIDES = 100  # a picture of 60000x1 would be resized to 13 million x 224 before it is cropped: 36 GB
"""The encoders."""

MASKED_ATTENTION = ("eager", "sdpa")
"""Implementations of attention that take any mask."""

RESIZES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


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
    """Position of the token at which the text encoder pools, (texts,), as transformers' model finds it."""
    return towers_of(model).text_ends(input_ids)


def word_positions(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """True on tokens of words: never BOS, the end-of-text token or padding; (texts, length)."""
    return towers_of(model).word_positions(input_ids, attention_mask)


def tokenize(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str], truncation: bool, offsets: bool = False
) -> dict[str, Tensor]:
    """Texts as the model was trained to read them, on its device.

    Args:
        model: an unwrapped dual encoder.
        tokenizer: its tokenizer.
        texts: any number.
        truncation: cut texts at the context's length.
        offsets: also say where in its text each token lies; needs a fast tokenizer.

    Returns:
        `input_ids` and `attention_mask`, (texts, length), padded on the right to the longest text, or to the context
        where the model reads padding; `offset_mapping`, (texts, length, 2).
    """
    kind, context = towers_of(model), int(model.config.text_config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    encoded = tokenizer(
        [text.lower() for text in texts] if kind.lowercase else texts,
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
    """Un-normalised text features.

    Of a causal encoder that is given neither mask nor embeddings, texts that begin alike are encoded together (see
    `shared_prefix`): equal up to rounding.

    Args:
        model: an unwrapped dual encoder.
        input_ids: token ids, (texts, length). Still needed beside `inputs_embeds`: they say where the text ends.
        attention_mask: 1 on tokens, 0 on padding, (texts, length). CLIP's text encoder is causal and pools at the end
            of the text, so with padding on the right it may be left out, which is faster. SigLIP's reads padding: it
            never gets the mask, and `input_ids` must have the context's length.
        inputs_embeds: what the token-embedding layer should have returned, (texts, length, width).

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
    """L2-normalised `text_features`, (texts, dim), float32, of the same arguments."""
    return F.normalize(text_features(model, input_ids, attention_mask, inputs_embeds), dim=-1)


# Images


def pixel_values(images: Tensor, image_processor: Any) -> Tensor:
    """Differentiable twin of the processor's PIL path: resize (bicubic or bilinear), centre crop, mean and std.

    Values are clipped to [0, 1] after the resize, as PIL's 8-bit images are; without a resize nothing is clipped.

    Args:
        images: in [0, 1], (batch, 3, height, width), any size.
        image_processor: a CLIP-like image processor; its size, resampling, crop size, mean and std are used.

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
    return _pooled(output).float(), towers_of(model).patches(output.last_hidden_state) if patches else None


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
    `logit_scale` and `logit_bias` are those of `DualEncoder`, with gradient.
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
) -> JointOutput:
    """Both towers in one forward of the (possibly wrapped) model, so that DDP, FSDP and DeepSpeed see one.

    Args:
        model: the model as the Trainer wrapped it.
        pixel_values: (images, 3, height, width).
        input_ids: (texts, length); the numbers of images and texts may differ.
        token_shift: added to the token embeddings, (texts, length, width); a constant, so the table still gets
            gradients.
        patches: also project the patch tokens.
        batch_size: images and texts that a tower encodes at a time; their activations are computed again, piece by
            piece, in the backward. The gradient is that of the whole batch (GradCache, arXiv:2101.06983), the memory
            that of a piece, for one more forward. 0: all at once.

    Returns:
        The embeddings and features of both.
    """
    kind = towers_of(model)
    with _towers_in_pieces(model, batch_size, token_shift), _temperature_in_forward(kind) as temperature:
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
    """While the block runs, each tower of the model takes `batch_size` rows at a time; the shift is the texts'.

    The towers' own forwards are replaced, not the model's, which a wrapper still sees called once.
    """

    def in_pieces(tower: nn.Module, key: str, shift: Tensor | None) -> Callable[..., BaseModelOutputWithPooling]:
        whole = tower.forward

        def encode(rows: slice, inputs: Tensor, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
            with edited_token_embeddings(model, _shift(shift, rows)):  # inside: the backward computes this again
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
    if forward is not None:  # somebody else had replaced it
        tower.forward = forward


@contextlib.contextmanager
def _temperature_in_forward(kind: Towers) -> Iterator[list[Tensor | None]]:
    """Scale and bias as the forward in the block finds them; of weights that are not sharded they are not looked for.

    A parameter outside all layers is whole on this process only while the forward runs.
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
    """Inverse temperature after `exp`, scalar, with gradient; of a CLIP at most 100."""
    return kind.model.logit_scale.float().clamp(max=kind.max_logit_scale).exp().squeeze()


def logit_bias(kind: Towers) -> Tensor | None:
    """What a SigLIP adds to its logits, scalar, with gradient; None for a CLIP."""
    return kind.model.logit_bias.float().squeeze() if "logit_bias" in kind.scalars else None


def set_trainable(model: nn.Module, image: bool, text: bool, logit_scale: bool) -> nn.Module:
    """Freeze the towers (each with its projection) and the temperature (with SigLIP's bias) that are not to train, in
    place."""
    kind = towers_of(model)
    parts = dict.fromkeys(kind.modules["image"], image) | dict.fromkeys(kind.modules["text"], text)
    for name, trainable in (parts | dict.fromkeys(kind.scalars, logit_scale)).items():
        if not trainable:
            getattr(model, name).requires_grad_(False)
    return model


def train_last_blocks(model: nn.Module, last_blocks: int) -> nn.Module:
    """Freeze all of a tower but its last transformer blocks, its final layer norm and its projection, in place.

    A tower of which nothing trains stays frozen, and the temperature as it is: call it after `set_trainable`.

    Args:
        model: a `CLIPModel` or `SiglipModel`; what pools SigLIP's towers is its projection.
        last_blocks: number of blocks that train; with 0 the final layer norm and the projection alone do.

    Raises:
        ValueError: if a tower has fewer blocks; the text says how many.
    """
    kind = towers_of(model)
    trained = [name for name in TOWERS if any(weight.requires_grad for weight in tower_parameters(model, name))]
    blocks = {name: list(kind.model.get_submodule(kind.blocks[name])) for name in trained}
    for name in trained:
        if not 0 <= last_blocks <= len(blocks[name]):
            raise ValueError(
                f"`last_blocks` must be from 0 to {len(blocks[name])}, the number of layers of the {name} "
                f"tower, got {last_blocks}."
            )
    for name in trained:
        for weight in tower_parameters(model, name):
            weight.requires_grad_(False)
        after = [kind.model.get_submodule(part) for part in kind.after_blocks[name]]
        for part in (*blocks[name][len(blocks[name]) - last_blocks :], *after):
            part.requires_grad_(True)
    return model


def tower_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The weights of the encoder "image" or "text", its projection included."""
    kind = towers_of(model)
    return [weight for part in kind.modules[name] for weight in kind.model.get_submodule(part).parameters()]


def trains_text(model: nn.Module) -> bool:
    """Whether any weight of the text encoder of an unwrapped dual encoder is trained."""
    return any(weight.requires_grad for weight in tower_parameters(model, "text"))


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
        model: a `CLIPModel` or `SiglipModel`, or a PEFT model around one; not wrapped by DDP and the like.
        processor: the `CLIPProcessor` or `SiglipProcessor` that belongs to it.

    Raises:
        TypeError: if the model has no two towers, or the processor lacks its tokenizer or image processor.
        ValueError: if model and processor do not fit: image size, resampling, vocabulary, or end-of-text token; or if
            the model is a SigLIP 2 of changing resolution.

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
        self.towers = towers_of(model)
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
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return self.towers.embed_dim

    @property
    def logit_scale(self) -> Tensor:
        """Inverse temperature after `exp`, scalar, with gradient; of a CLIP at most 100."""
        return logit_scale(self.towers)

    @property
    def logit_bias(self) -> Tensor | None:
        """What a SigLIP adds to its logits, scalar, with gradient; None for a CLIP."""
        return logit_bias(self.towers)

    def tokenize(self, texts: list[str], truncation: bool = False) -> dict[str, Tensor]:
        """Token ids and mask, padded on the right, on the model's device; see the function `tokenize`.

        Raises:
            ValueError: if a text is longer than the context and `truncation` is off; the text is named.
        """
        encoded = tokenize(self.model, self.tokenizer, texts, truncation)
        if encoded["input_ids"].shape[1] > self.context_length:
            lengths = encoded["attention_mask"].sum(1)
            raise ValueError(
                f"the text {texts[int(lengths.argmax())]!r} has {int(lengths.max())} tokens, the model's context holds "
                f"{self.context_length}. Shorten the class name or the template."
            )
        return encoded

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
            return torch.empty(0, self.embed_dim)
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
        if self.image_processor.do_resize and self.image_processor.resample not in RESIZES:
            raise ValueError(
                f"`processor` resizes images with resample={self.image_processor.resample!r}; only "
                f"{' and '.join(f'{int(code)} ({name})' for code, name in RESIZES.items())} are differentiable here."
            )
        self.towers.check_tokenizer(self.tokenizer)


def _pooled(output: Any) -> Tensor:
    """The projected features: an output object since transformers 5, a tensor before."""
    return output if isinstance(output, Tensor) else output.pooler_output


def load(model_name_or_path: str | Path) -> tuple[nn.Module, ProcessorMixin]:
    """A CLIP's or SigLIP's folder or Hub id as `(model, processor)`, in eval mode, without remote code and torchvision.

    Raises:
        ValueError: if what lies there is neither; the text says what it is.
    """
    name = str(model_name_or_path)
    kind = architecture_of(AutoConfig.from_pretrained(name), name)
    # The processor class that transformers picks by itself wants torchvision; the PIL one reads the same file.
    image_processor, tokenizer = kind.image_processor_class.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    return kind.model_class.from_pretrained(name).eval(), kind.processor_class(image_processor, tokenizer)
