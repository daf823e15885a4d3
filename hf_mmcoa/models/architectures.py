"""The differences between dual encoders: one class per architecture, chosen by the class of the model.

`encoding` asks it and knows no class of model itself. docs/models.md lists what a new architecture must define.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

MAX_LOGIT_SCALE = math.log(100)  # CLIP, arXiv:2103.00020, section 2.5: the scale never exceeds 100


class Towers(Protocol):
    """The interface of an architecture: an image and a text encoder that map into one embedding space.

    It leaves out what all of transformers' dual encoders have: `get_image_features`, `get_text_features`, `text_model`,
    a `logit_scale` before `exp`, `config.vision_config.image_size` and `config.text_config.max_position_embeddings`.
    """

    config_class: ClassVar[Any]
    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    image_processor_class: ClassVar[Any]
    """The image processor of the PIL backend; the one that transformers picks by default needs torchvision."""

    modules: ClassVar[Mapping[str, tuple[str, ...]]]
    """Names of the modules of each encoder, by "image" and "text"."""
    blocks: ClassVar[Mapping[str, str]]
    """Name of each encoder's list of transformer blocks, by "image" and "text"."""
    after_blocks: ClassVar[Mapping[str, tuple[str, ...]]]
    """Names of the modules that each encoder applies after its blocks: the final norm, and the projection or pooling
    head that maps into the joint space."""
    scalars: ClassVar[tuple[str, ...]]
    """Names of the parameters outside the encoders: "logit_scale", and "logit_bias" if the loss is a sigmoid."""

    max_logit_scale: ClassVar[float]
    """Upper bound of `logit_scale` before `exp`."""
    lowercase: ClassVar[bool]
    """True if texts must be lower-cased before tokenization because the tokenizer may not do it."""
    reads_padding: ClassVar[bool]
    """True if the text encoder reads padding: every text is then padded to the context length and gets no mask."""

    model: Any

    @property
    def embed_dim(self) -> int:
        """Return the width of the joint space."""

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """Return the patch tokens in the joint space, (images, patches, dim), float32.

        Args:
            last_hidden_state: last hidden state of the image encoder, (images, tokens, width).
        """

    def project_images(self, pooled: Tensor) -> Tensor:
        """Map the image encoder's pooled output, (images, width), into the joint space, (images, dim)."""

    def project_texts(self, hidden: Tensor) -> Tensor:
        """Map the last hidden states of the pooled tokens, (texts, width), into the joint space, (texts, dim)."""

    def text_ends(self, input_ids: Tensor) -> Tensor:
        """Return the position of the token at which the text encoder pools each text, (texts,)."""

    def word_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return True for tokens of words and False for BOS, end of text and padding, (texts, length)."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ValueError if the tokenizer encodes texts in another form than the model reads."""


@dataclass(frozen=True)
class CLIPTowers:
    """CLIP (arXiv:2103.00020): a causal text encoder, pooled at the end of the text, and a projection per encoder."""

    config_class: ClassVar[Any] = CLIPConfig
    model_class: ClassVar[Any] = CLIPModel
    processor_class = CLIPProcessor
    image_processor_class = CLIPImageProcessorPil
    modules = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}  # noqa: RUF012
    blocks = {"image": "vision_model.encoder.layers", "text": "text_model.encoder.layers"}  # noqa: RUF012
    after_blocks = {  # noqa: RUF012
        "image": ("vision_model.post_layernorm", "visual_projection"),
        "text": ("text_model.final_layer_norm", "text_projection"),
    }
    scalars = ("logit_scale",)
    max_logit_scale = MAX_LOGIT_SCALE
    lowercase = False  # CLIP's tokenizer does it
    reads_padding = False  # the text encoder is causal and pools before the padding

    model: Any

    @property
    def embed_dim(self) -> int:
        return int(self.model.config.projection_dim)

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """Apply the class token's final norm and projection to the patch tokens (arXiv:2410.21802)."""
        tokens = self.model.vision_model.post_layernorm(last_hidden_state[:, 1:])
        return self.model.visual_projection(tokens).float()

    def project_images(self, pooled: Tensor) -> Tensor:
        return self.model.visual_projection(pooled)

    def project_texts(self, hidden: Tensor) -> Tensor:
        return self.model.text_projection(hidden)

    def text_ends(self, input_ids: Tensor) -> Tensor:
        eos = self.model.text_model.eos_token_id
        # An id of 2 in old configs is wrong and means "the highest id" (transformers, pull request 24773).
        return input_ids.argmax(dim=-1) if eos == 2 else (input_ids == eos).int().argmax(dim=-1)

    def word_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        ends = self.text_ends(input_ids).unsqueeze(1)  # (texts, 1)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        words = (positions > 0) & (positions < ends)  # position 0 is BOS
        return words if attention_mask is None else words & attention_mask.bool()

    def check_tokenizer(self, tokenizer: Any) -> None:
        pooled_at, eos = self.model.text_model.eos_token_id, tokenizer.eos_token_id
        # transformers reads a configured id of 2 as "pool at the highest id", the convention of CLIP's first
        # checkpoints.
        expected = len(tokenizer) - 1 if pooled_at == 2 else pooled_at
        if eos != expected:
            raise ValueError(
                f"`processor` ends texts with token {eos}, `model` pools at token {expected} "
                f"(config.text_config.eos_token_id = {pooled_at}): the text embeddings would not depend on the text. "
                "Pass the processor that was saved with the model."
            )


@dataclass(frozen=True)
class MetaClip2Towers(CLIPTowers):
    """MetaCLIP 2 (arXiv:2507.22062): a CLIP for many languages, with XLM-V's tokenizer.

    Its texts end with id 2, the id that CLIP's first configurations had wrong.
    """

    config_class = MetaClip2Config
    model_class = MetaClip2Model

    def text_ends(self, input_ids: Tensor) -> Tensor:
        return (input_ids == self.model.text_model.eos_token_id).int().argmax(dim=-1)

    def check_tokenizer(self, tokenizer: Any) -> None:
        pooled_at = self.model.text_model.eos_token_id
        if tokenizer.eos_token_id != pooled_at:
            raise ValueError(
                f"`processor` ends texts with token {tokenizer.eos_token_id}, `model` pools at token {pooled_at}: the "
                "text embeddings would not depend on the text. Pass the processor that was saved with the model."
            )


@dataclass(frozen=True)
class SiglipTowers:
    """SigLIP (arXiv:2303.15343) and SigLIP 2 of fixed resolution (arXiv:2502.14786).

    The text encoder is not causal: it reads the padded text and pools at its last position, which is padding. The image
    encoder pools by attention. Neither has a separate projection, and the logit scale has no upper bound.
    """

    config_class = SiglipConfig
    model_class = SiglipModel
    processor_class = SiglipProcessor
    image_processor_class = SiglipImageProcessorPil
    modules = {"image": ("vision_model",), "text": ("text_model",)}  # noqa: RUF012
    blocks = CLIPTowers.blocks
    after_blocks = {  # noqa: RUF012
        "image": ("vision_model.post_layernorm", "vision_model.head"),
        "text": ("text_model.final_layer_norm", "text_model.head"),
    }
    scalars = ("logit_scale", "logit_bias")
    max_logit_scale = math.inf  # published checkpoints are above ln 100
    lowercase = True  # both were trained on lower case; SigLIP 2's tokenizer keeps case (transformers, issue 43054)
    reads_padding = True

    model: Any

    @property
    def embed_dim(self) -> int:
        return int(self.model.config.vision_config.hidden_size)

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """Apply the attention pooling head to each patch alone, so that it can attend to nothing else."""
        images, patches, width = last_hidden_state.shape
        alone = last_hidden_state.reshape(images * patches, 1, width)
        return self.model.vision_model.head(alone).view(images, patches, -1).float()

    def project_images(self, pooled: Tensor) -> Tensor:
        return pooled

    def project_texts(self, hidden: Tensor) -> Tensor:
        return self.model.text_model.head(hidden)

    def text_ends(self, input_ids: Tensor) -> Tensor:
        return torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)

    def word_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:  # SigLIP pads with its end-of-text token, so ids alone do not show where words end
            raise ValueError("`attention_mask` is needed to tell a SigLIP text's words from its padding, got None.")
        ends = attention_mask.sum(1, keepdim=True) - 1  # the last token before the padding ends the text; no BOS
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0) < ends

    def check_tokenizer(self, tokenizer: Any) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "`processor` has no padding token, and `model` reads texts padded to its context length. Set "
                "`processor.tokenizer.pad_token`, or pass the processor that was saved with the model."
            )
        plain, written = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        if written != [*plain, tokenizer.eos_token_id]:
            raise ValueError(
                f"`processor` writes 'a' as {tokenizer.convert_ids_to_tokens(written)}; `model` reads texts with an "
                f"end-of-text token ({tokenizer.eos_token}) and without a beginning-of-text token. Pass the processor "
                "that was saved with the model."
            )


ARCHITECTURES: tuple[type[Any], ...] = (CLIPTowers, MetaClip2Towers, SiglipTowers)
MODELS = tuple(kind.model_class for kind in ARCHITECTURES)


def unwrapped(model: nn.Module, keep_torch_compile: bool = True) -> Any:
    """Return the model inside DDP, FSDP and DataParallel wrappers.

    accelerate looks through all modules, and for deepspeed on the disk, even of a model without wrappers: 0.2 ms of a
    ViT-B/32, and attacks ask in each of their steps.

    Args:
        model: a model, wrapped or not.
        keep_torch_compile: whether a compiled model stays compiled.
    """
    if isinstance(model, PreTrainedModel | PeftModel) and "_orig_mod" not in vars(model):
        return model
    return extract_model_from_parallel(model, keep_torch_compile=keep_torch_compile)


def towers_of(model: nn.Module) -> Towers:
    """Return the `Towers` of the dual encoder inside any wrappers (DDP, compile, PEFT).

    A model of an unknown class is treated as a CLIP.

    Raises:
        ValueError: if the model is of a type that is known not to work.
    """
    plain = unwrapped(model, keep_torch_compile=False)
    plain = plain.get_base_model() if isinstance(plain, PeftModel) else plain
    refuse(getattr(plain, "config", None))
    found: type[Any] = next((kind for kind in ARCHITECTURES if isinstance(plain, kind.model_class)), CLIPTowers)
    return found(plain)


def architecture_of(config: Any, name: str) -> type[Any]:
    """Return the class of `Towers` that belongs to a configuration.

    Args:
        config: a configuration of transformers.
        name: the model's name, for the error message.

    Raises:
        ValueError: if the configuration describes no supported dual encoder; the text names its type.
    """
    refuse(config)
    found = [kind for kind in ARCHITECTURES if isinstance(config, kind.config_class)]
    if not found:
        known = " or ".join(repr(kind.config_class.model_type) for kind in ARCHITECTURES)
        raise ValueError(f"{name!r} is a {config.model_type!r} model; a dual encoder of type {known} is needed.")
    return found[0]


_MASKED = (
    "reads a whole text at once and needs a mask over its padding, which the attacks on texts here do not pass on. A "
    "CLIP of many languages that works is MetaCLIP 2, facebook/metaclip-2-worldwide-huge-quickgelu."
)
_REFUSED = {
    "siglip2": (
        "a 'siglip2' model (NaFlex) splits each image into its own number of patches, which no attack here "
        "supports. SigLIP 2 checkpoints of fixed resolution are of type 'siglip' and work: "
        "google/siglip2-base-patch16-224 and others without 'naflex' in their name."
    ),
    "chinese_clip": f"the text encoder of a 'chinese_clip' model {_MASKED}",
    "altclip": f"the text encoder of an 'altclip' model {_MASKED}",
    "clipseg": (
        "a 'clipseg' model segments images; its encoders are those of openai/clip-vit-base-patch16, unchanged. Name "
        "that one."
    ),
}


def refuse(config: Any) -> None:
    """Raise ValueError for a dual encoder that is known not to work; the text says why, and what works."""
    if reason := _REFUSED.get(getattr(config, "model_type", "")):
        raise ValueError(reason)
