"""The conversion itself: other repositories' checkpoints to `CLIPModel`, and `CLIPModel` to OpenCLIP.

The written folder is read back as its users will read it, and compared with an independent implementation of the other
side on random images and texts: `ReferenceCLIP` against transformers' model. A folder is kept only if the embeddings
agree. No weight determines the number of heads or the activation, so the comparison cannot confirm them: `Conversion`
says where each was taken from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..io import write_text
from . import layouts
from .build import BuiltCLIP, build_clip, has_image_processor
from .layouts import ACTIVATIONS, Activation, Architecture
from .reference import ReferenceCLIP
from .robust_build import build_robust
from .robust_clips import is_robust
from .source import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, Source, read_source, refuse_remote_code

Target = Literal["clip", "open_clip"]
TARGETS: tuple[Target, ...] = get_args(Target)

LIMIT = 1e-4  # largest difference of embeddings that is accepted; float32 rounding causes about 1e-6


class _Encoder(Protocol):
    @property
    def logit_scale(self) -> float: ...

    def encode_images(self, pixel_values: Tensor) -> Tensor: ...

    def encode_texts(self, input_ids: Tensor) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class _TransformersCLIP:
    """A CLIPModel with the methods of ReferenceCLIP, which return features before normalisation."""

    model: Any

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach())

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixel_values).pooler_output)

    @torch.no_grad()
    def encode_texts(self, input_ids: Tensor) -> Tensor:
        return self.model.text_projection(self.model.text_model(input_ids=input_ids).pooler_output)


@dataclasses.dataclass(frozen=True)
class Parity:
    """The largest differences between two implementations on random inputs.

    `images` and `texts` are the larger of two measures: the largest absolute difference between coordinates of unit
    vectors, and the largest difference between features before normalisation, relative to the largest coordinate.
    `logit_scale` is the absolute difference of the logit scales before `exp`.
    """

    images: float
    texts: float
    logit_scale: float

    @property
    def difference(self) -> float:
        """Return the largest of the three differences; NaN if one of them is NaN."""
        return float(torch.tensor([self.images, self.texts, self.logit_scale]).max())

    def __str__(self) -> str:
        return f"images {self.images:.1e}, texts {self.texts:.1e}, logit scale {self.logit_scale:.1e} (limit {LIMIT:g})"


def compare(source: _Encoder, converted: _Encoder, architecture: Architecture, eos_token_id: int) -> Parity:
    """Compare two implementations on 4 random images and on 16 random texts of all lengths up to the context length.

    Args:
        source: the model before the conversion.
        converted: the model after it.
        architecture: gives the sizes of the inputs.
        eos_token_id: id that ends each text. All other tokens have lower ids, as in CLIP; the texts have tokens after
            their end too, which must not matter.

    Returns:
        The largest differences of image features, text features and logit scale.
    """
    generator = torch.Generator().manual_seed(0)
    size, context = architecture.image_size, architecture.context_length
    images = torch.randn(4, 3, size, size, generator=generator)
    texts = torch.randint(0, eos_token_id, (16, context), generator=generator)
    ends = torch.linspace(1, context - 1, 16).long()
    texts[torch.arange(16), ends] = eos_token_id

    def difference(ours: Tensor, theirs: Tensor) -> float:
        unit = (F.normalize(ours, dim=-1) - F.normalize(theirs, dim=-1)).abs().max()
        relative = (ours - theirs).abs().max() / ours.abs().max()
        return float(torch.stack([unit, relative]).max())

    return Parity(
        images=difference(source.encode_images(images), converted.encode_images(images)),
        texts=difference(source.encode_texts(texts), converted.encode_texts(texts)),
        logit_scale=abs(source.logit_scale - converted.logit_scale),
    )


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The facts that a conversion read, decided and measured; `str` gives them as the lines that the command prints."""

    output: Path
    source: str
    layout: str
    parts: tuple[str, ...]
    from_base: tuple[str, ...]
    architecture: Architecture
    activations: tuple[str, str]  # of the image and the text encoder, each with its source
    parity: Parity
    notes: tuple[str, ...]

    def __str__(self) -> str:
        vision, text = self.architecture.vision, self.architecture.text
        lines = [
            f"source      {self.source}: {self.layout}; {', '.join(self.parts)}",
            f"image tower {self.architecture.image_size} pixels in patches of {self.architecture.patch_size}, width "
            f"{vision.width}, {vision.layers} layers, {vision.heads} heads, {self.activations[0]}",
            f"text tower  {self.architecture.context_length} tokens of {self.architecture.vocab_size}, width "
            f"{text.width}, {text.layers} layers, {text.heads} heads, {self.activations[1]}",
            f"difference  {self.parity}",
            *(f"note        {note}" for note in self.notes),
        ]
        if self.from_base:
            lines.insert(1, f"--base      {', '.join(self.from_base)}")
        return "\n".join(lines)


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: Target = "clip",
    base: str | Path | None = None,
    activation: Activation | None = None,
    image_size: int | None = None,
    processor: str | Path | None = None,
) -> Conversion:
    """Convert a checkpoint and write it as a folder; after an error nothing is left at `output`.

    Args:
        source: a file of weights (.safetensors, or a pickle that torch.load(weights_only=True) can read), a folder in
            transformers' or OpenCLIP's form, or `robust:` and the name of a robust CLIP. docs/convert.md lists both.
        output: a new or empty folder.
        to: `"clip"` for transformers' CLIPModel, `"open_clip"` for a folder that OpenCLIP loads (from a CLIPModel
            folder).
        base: folder or Hub id of the CLIPModel that the source was fine-tuned from. It supplies what the source lacks:
            the other encoder, the temperature, the tokenizer and, for a bare state dict, the activation.
        activation: activation of the encoders in the source; `None` takes it from the source's configuration, from
            `base` or from the layout, in this order.
        image_size: height and width of the images, in pixels; needed only if the patches do not fill the image.
        processor: folder or Hub id from which tokenizer and image processor are copied. `None` takes the source's own,
            else the tokenizer of `base` and CLIP's image processor.

    Returns:
        The facts that were read, decided and measured; its text is what `hf-mmcoa convert` prints.

    Raises:
        ValueError: if the source has an unknown layout, needs code of its own, or lacks parts or its activation without
            a `base` or `activation` that supplies them; or if the converted model's embeddings differ by more than
            1e-4.
        FileNotFoundError: if there is nothing at `source`.
        FileExistsError: if `output` is a file or a folder that is not empty.

    Example:
        >>> print(convert("fare_eps_2.pt", "fare2-clip", base="openai/clip-vit-large-patch14"))  # doctest: +SKIP
    """
    output = Path(output)
    if to not in TARGETS:
        raise ValueError(f"`to` must be one of {', '.join(TARGETS)}, got {to!r}.")
    if activation not in (None, *ACTIVATIONS):
        raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` {str(output)!r} exists and is not an empty folder. Name a new folder.")
    if to == "open_clip":
        given = {"base": base, "activation": activation, "image_size": image_size, "processor": processor}
        if named := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"`{named[0]}` belongs to `to='clip'`: leave it out, a CLIPModel folder has all that OpenCLIP needs."
            )
    for folder in (base, processor):
        if folder is not None:
            refuse_remote_code(Path(folder))
    if is_robust(source) and to == "open_clip":
        raise ValueError(f"`to='open_clip'` converts a CLIPModel folder: convert {str(source)!r} to 'clip' first.")
    read = None if is_robust(source) else read_source(source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as holder:
        built = Path(holder) / output.name
        built.mkdir()
        if read is None:
            robust = build_robust(source, None, base, activation, image_size, processor)
            done = _to_clip(robust, str(source), built)
        elif to == "open_clip":
            done = _to_open_clip(read, Path(source), built)
        else:
            clip = build_clip(read, Path(source), base, activation, image_size, processor)
            done = _to_clip(clip, read.read, built)
        if not done.parity.difference <= LIMIT:  # written so that NaN fails too
            raise ValueError(
                f"the converted model's embeddings differ from the source's: {done.parity}. Nothing was written."
            )
        os.replace(built, output)
    return dataclasses.replace(done, output=output)


def _to_clip(built: BuiltCLIP, read: str, folder: Path) -> Conversion:
    notes = list(built.notes)
    built.model.save_pretrained(folder)
    if built.tokenizer is None:
        built.image_processor.save_pretrained(folder)
        notes.append("no tokenizer was written: name a folder that has one with --processor, or --base")
    else:
        built.processor.save_pretrained(folder)
    return Conversion(
        output=folder,
        source=read,
        layout=built.layout.name,
        parts=built.layout.parts,
        from_base=built.from_base,
        architecture=built.architecture,
        activations=built.activations,
        parity=parity(built, CLIPModel.from_pretrained(folder).eval()),
        notes=tuple(notes),
    )


def parity(built: BuiltCLIP, model: CLIPModel) -> Parity:
    """Return how far a model is from `ReferenceCLIP` on the weights that it was built from."""
    reference = ReferenceCLIP(built.weights, built.architecture)
    return compare(reference, _TransformersCLIP(model), built.architecture, built.eos_token_id)


def _to_open_clip(source: Source, path: Path, built: Path) -> Conversion:
    if source.config is None or source.architecture is None:
        raise ValueError(
            f"`to='open_clip'` converts a CLIPModel folder, and {str(path)!r} is none: convert it to 'clip' first."
        )
    layout = layouts.identify(source.state_dict)
    architecture = source.architecture
    text_config: Any = source.config.text_config
    eos, vocab_size = text_config.eos_token_id, architecture.vocab_size
    if eos not in (2, vocab_size - 1):  # 2: CLIP's first configs, for "the highest id" (transformers, issue 24773)
        raise ValueError(
            f"this model pools at token {eos} of {vocab_size}; OpenCLIP pools at a text's highest id, so only the last "
            "id of the vocabulary can end a text there."
        )
    preprocessing: dict[str, Any] = {"interpolation": "bicubic", "resize_mode": "shortest"}
    image_processor = CLIPImageProcessorPil()
    if has_image_processor(path):
        image_processor = CLIPImageProcessorPil.from_pretrained(path)
    preprocessing |= {"mean": list(image_processor.image_mean), "std": list(image_processor.image_std)}
    config = {"model_cfg": layouts.open_clip_config(architecture), "preprocess_cfg": preprocessing}
    write_text(json.dumps(config, indent=2) + "\n", built / OPEN_CLIP_CONFIG)
    weights = {name: tensor.contiguous() for name, tensor in layout.weights.items()}
    save_file(weights, built / OPEN_CLIP_WEIGHTS[0], metadata={"format": "pt"})

    written = read_source(built)
    assert written.architecture is not None
    notes = []
    if vocab_size != 49408:
        notes.append(f"OpenCLIP's tokenizer has 49408 tokens, this model {vocab_size}: use the model's own tokenizer")
    activation = f"{architecture.text.activation} ({source.config_name})"
    return Conversion(
        output=built,
        source=source.read,
        layout=layout.name,
        parts=layout.parts,
        from_base=(),
        architecture=architecture,
        activations=(activation, activation),
        parity=compare(
            _TransformersCLIP(CLIPModel.from_pretrained(path).float().eval()),
            ReferenceCLIP(layouts.identify(written.state_dict).weights, written.architecture),
            architecture,
            vocab_size - 1,
        ),
        notes=tuple(notes),
    )
