"""What differs between dual encoders: one object per architecture, chosen by the model's class.

`encoding` asks it and knows no class of model itself. docs/models.md lists what the next architecture has to say.
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
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, SiglipConfig, SiglipModel, SiglipProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

MAX_LOGIT_SCALE = math.log(100)  # CLIP, arXiv:2103.00020, section 2.5: the scale never exceeds 100


class Towers(Protocol):
    """A dual encoder seen as two towers that meet in one space.

    What every one of transformers shares is not asked for: `get_image_features`, `get_text_features`, `text_model`, a
    `logit_scale` before `exp`, `config.vision_config.image_size` and `config.text_config.max_position_embeddings`.
    """

    config_class: ClassVar[Any]
    model_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    image_processor_class: ClassVar[Any]
    """Of the PIL backend: what transformers picks by itself wants torchvision."""

    modules: ClassVar[Mapping[str, tuple[str, ...]]]
    """The modules of the encoders "image" and "text"."""
    blocks: ClassVar[Mapping[str, str]]
    """Where each encoder has its list of transformer blocks."""
    after_blocks: ClassVar[Mapping[str, tuple[str, ...]]]
    """What each encoder applies behind them: the norm and what leads into the joint space."""
    scalars: ClassVar[tuple[str, ...]]
    """Parameters outside the encoders: "logit_scale", and "logit_bias" where the loss is a sigmoid's."""

    max_logit_scale: ClassVar[float]
    """Bound of `logit_scale` before `exp`."""
    lowercase: ClassVar[bool]
    """Whether texts are lower-cased before the tokenizer, which need not do it."""
    reads_padding: ClassVar[bool]
    """Whether padding is part of the text: every text then has the context's length, and goes without a mask."""

    model: Any

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """The vision tower's tokens to patch tokens in the joint space, (images, patches, dim), float32."""

    def project_texts(self, hidden: Tensor) -> Tensor:
        """Last hidden states of the tokens at which texts are pooled, (texts, width), into the joint space."""

    def text_ends(self, input_ids: Tensor) -> Tensor:
        """Position of the token at which the text encoder pools, (texts,)."""

    def word_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """True on tokens of words, False on BOS, end of text and padding, (texts, length)."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ValueError if the tokenizer writes texts otherwise than the model reads them."""


@dataclass(frozen=True)
class CLIPTowers:
    """CLIP (arXiv:2103.00020): a causal text encoder that pools at the end of the text, and a projection per tower."""

    config_class = CLIPConfig
    model_class = CLIPModel
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
    lowercase = False  # its tokenizer does
    reads_padding = False  # causal, and pooled before it

    model: Any

    @property
    def embed_dim(self) -> int:
        return int(self.model.config.projection_dim)

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """As the class token is projected: final layer norm, then the projection (arXiv:2410.21802)."""
        tokens = self.model.vision_model.post_layernorm(last_hidden_state[:, 1:])
        return self.model.visual_projection(tokens).float()

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
                f"(config.text_config.eos_token_id = {pooled_at}): its text embeddings would not depend on the text."
            )


@dataclass(frozen=True)
class SiglipTowers:
    """SigLIP (arXiv:2303.15343) and SigLIP 2 of fixed resolution (arXiv:2502.14786).

    The text encoder sees all of a padded text and pools at its last position, which is padding; the image encoder pools
    by attention. Neither has a projection of its own name, and the scale is as large as training made it.
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
    lowercase = True  # both were trained so; the tokenizer of SigLIP 2 does not do it (transformers, issue 43054)
    reads_padding = True

    model: Any

    @property
    def embed_dim(self) -> int:
        return int(self.model.config.vision_config.hidden_size)

    def patches(self, last_hidden_state: Tensor) -> Tensor:
        """What the pooling head makes of each patch alone: its attention then has nothing else to look at."""
        images, patches, width = last_hidden_state.shape
        alone = last_hidden_state.reshape(images * patches, 1, width)
        return self.model.vision_model.head(alone).view(images, patches, -1).float()

    def project_texts(self, hidden: Tensor) -> Tensor:
        return self.model.text_model.head(hidden)

    def text_ends(self, input_ids: Tensor) -> Tensor:
        return torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)

    def word_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        if attention_mask is None:  # SigLIP's padding is its end-of-text token: the ids do not tell
            raise ValueError("`attention_mask` is needed to tell a SigLIP text's words from its padding, got None.")
        ends = attention_mask.sum(1, keepdim=True) - 1  # the last token that is no padding ends the text; no BOS
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0) < ends

    def check_tokenizer(self, tokenizer: Any) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError("`processor` has no padding token, and `model` reads texts padded to its context.")
        plain, written = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        if written != [*plain, tokenizer.eos_token_id]:
            raise ValueError(
                f"`processor` writes 'a' as {tokenizer.convert_ids_to_tokens(written)}; `model` reads texts with an "
                f"end-of-text token ({tokenizer.eos_token}) and without a beginning-of-text token."
            )


ARCHITECTURES: tuple[type[Any], ...] = (CLIPTowers, SiglipTowers)
MODELS = tuple(kind.model_class for kind in ARCHITECTURES)


def towers_of(model: nn.Module) -> Towers:
    """How the dual encoder inside any wrappers (DDP, compile, PEFT) is built; one of no known class is taken for CLIP.

    Raises:
        ValueError: if it is known not to work.
    """
    plain = extract_model_from_parallel(model, keep_torch_compile=False)
    plain = plain.get_base_model() if isinstance(plain, PeftModel) else plain
    refuse(getattr(plain, "config", None))
    found: type[Any] = next((kind for kind in ARCHITECTURES if isinstance(plain, kind.model_class)), CLIPTowers)
    return found(plain)


def architecture_of(config: Any, name: str) -> type[Any]:
    """The class of `Towers` for a configuration; `name` is whose, for the error.

    Raises:
        ValueError: if it describes no dual encoder that is known; the text says what it is.
    """
    refuse(config)
    found = [kind for kind in ARCHITECTURES if isinstance(config, kind.config_class)]
    if not found:
        known = " or ".join(repr(kind.config_class.model_type) for kind in ARCHITECTURES)
        raise ValueError(f"{name!r} is a {config.model_type!r} model; a dual encoder of type {known} is needed.")
    return found[0]


def refuse(config: Any) -> None:
    """Raise ValueError for SigLIP 2's NaFlex variant, whose pictures are lists of patches of their own shapes."""
    if getattr(config, "model_type", None) == "siglip2":
        raise ValueError(
            "a 'siglip2' model (NaFlex) reads every image as patches of its own number and shape, which no attack here "
            "does. The SigLIP 2 checkpoints of fixed resolution are of type 'siglip' and work: "
            "google/siglip2-base-patch16-224 and others without 'naflex' in their name."
        )
