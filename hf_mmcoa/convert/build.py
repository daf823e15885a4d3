"""Build a `CLIPModel` in memory from the weights of any known layout, and say where each decision came from.

`convert` writes what is built here, and `load` hands it to an evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ..models.encoder import DualEncoder, load_clip
from . import layouts
from .layouts import PARTS, Activation, Architecture, Tower
from .source import OPEN_CLIP_CONFIG, Source


@dataclasses.dataclass(frozen=True)
class BuiltCLIP:
    """A model with its weights in OpenAI's names, its processor, and the facts that building it decided.

    `tokenizer` is None where neither the source nor a base or processor has one.
    """

    model: CLIPModel
    tokenizer: Any
    image_processor: Any
    weights: Mapping[str, Tensor]
    layout: layouts.Layout
    from_base: tuple[str, ...]
    architecture: Architecture
    activations: tuple[str, str]  # of the image and the text encoder, each with its source
    eos_token_id: int
    notes: tuple[str, ...]

    @property
    def processor(self) -> CLIPProcessor:
        """Return the processor; for a model with a tokenizer."""
        return CLIPProcessor(self.image_processor, self.tokenizer)


def build_clip(
    source: Source,
    path: Path,
    base: str | Path | None,
    activation: Activation | None,
    image_size: int | None,
    processor_folder: str | Path | None,
    tokenizer_folder: str | Path | None = None,
) -> BuiltCLIP:
    """Build the model that a source holds; the arguments are those of `convert`.

    Args:
        source: what was read.
        path: where it was read.
        base: folder or Hub id of the CLIPModel that supplies what the source lacks.
        activation: activation of the encoders, or None.
        image_size: height and width of the images, or None.
        processor_folder: folder or Hub id of tokenizer and image processor, or None.
        tokenizer_folder: folder or Hub id of the tokenizer of a source that has none, or None.

    Raises:
        ValueError: see `convert`.
    """
    layout = layouts.identify(source.state_dict)
    absent = tuple(part for part in PARTS if part not in layout.parts)
    if absent and base is None:
        raise ValueError(
            f"{source.read} has {', '.join(layout.parts)}, and no {', '.join(absent)}. Name with --base the CLIPModel "
            "that it was fine-tuned from, which supplies the missing parts."
        )
    notes: list[str] = []
    weights, like, base_processor = layout.weights, None, None
    if base is not None:
        base_model, base_processor = load_clip(base)
        if not isinstance(base_model, CLIPModel):
            raise ValueError(f"`base` must be a CLIPModel, {str(base)!r} is a {type(base_model).__name__}.")
        like = layouts.architecture_of(base_model.config)
        base_weights = layouts.to_openai({name: tensor.float() for name, tensor in base_model.state_dict().items()})
        if absent:
            notes += _unlike(layout.weights, base_weights)
            listed = layouts.weights_of(like.vision.layers, like.text.layers)
            weights = weights | {one.openai: base_weights[one.openai] for one in listed if one.part in absent}

    measured = layouts.measure(
        weights,
        source.vision or (like.vision if like else None),
        source.text or (like.text if like else None),
        image_size or (source.architecture.image_size if source.architecture else None),
    )
    if source.architecture is not None:
        _must_agree(dataclasses.replace(source.architecture, image_size=measured.image_size), measured, path)
    if like is not None and absent:  # the image size may differ: the source may be fine-tuned at a higher resolution
        _must_agree(dataclasses.replace(like, image_size=measured.image_size), measured, base)
    towers, activations = [], []
    for part, tower, named, of_base in (
        (PARTS[0], measured.vision, source.vision, like.vision if like else None),
        (PARTS[2], measured.text, source.text, like.text if like else None),
    ):
        present = part in layout.parts
        chosen, reason = _activation(
            activation if present else None, named if present else None, of_base, source.config_name, layout.by_openai
        )
        towers.append(dataclasses.replace(tower, activation=chosen))
        activations.append(f"{chosen} ({reason})")
    architecture = dataclasses.replace(measured, vision=towers[0], text=towers[1])

    tokenizer, image_processor = _processor(processor_folder, path, source, base_processor, architecture.image_size)
    if tokenizer is None and tokenizer_folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    # transformers 5 builds a tokenizer of special tokens only if a folder has none.
    if tokenizer is not None and set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ValueError(f"{str(processor_folder or base or path)!r} has no tokenizer. Name a folder with --processor.")
    token_ids = _token_ids(tokenizer, source.config, architecture.vocab_size)
    model = _clip_model(layouts.clip_config(architecture, token_ids), layouts.to_transformers(weights))
    built = BuiltCLIP(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        weights=weights,
        layout=layout,
        from_base=absent,
        architecture=architecture,
        activations=(activations[0], activations[1]),
        eos_token_id=token_ids["eos_token_id"],
        notes=tuple(notes),
    )
    if tokenizer is not None:
        DualEncoder(model, built.processor)  # raises if they do not belong together
    return built


def _activation(
    given: Activation | None, named: Tower | None, base: Tower | None, config_name: str | None, by_openai: bool
) -> tuple[Activation, str]:
    if given is not None:
        return given, "--activation"
    if named is not None:
        return named.activation, str(config_name)
    if base is not None:
        return base.activation, "--base"
    if by_openai:
        return "quick_gelu", "OpenAI's CLIP has no other"
    raise ValueError(
        "a state dict does not state its activation, and a wrong one lowers accuracy without an error. Name it with "
        "--activation: quick_gelu for OpenAI's weights and models fine-tuned from them, gelu for OpenCLIP's other "
        "models unless their name has -quickgelu; or name with --base the model that it was fine-tuned from."
    )


def _must_agree(configured: Architecture, measured: Architecture, where: object) -> None:
    """Raise ValueError if the sizes of the weights differ from those of the configuration or the base."""
    pairs = [("", configured, measured)]
    pairs += [(f"{name} ", getattr(configured, name), getattr(measured, name)) for name in ("vision", "text")]
    different = [
        f"{prefix}{field.name} is {getattr(one, field.name)} there and {getattr(other, field.name)} in the weights"
        for prefix, one, other in pairs
        for field in dataclasses.fields(one)
        if field.name not in ("vision", "text") and getattr(one, field.name) != getattr(other, field.name)
    ]
    if different:
        raise ValueError(f"the weights are not of the model that {str(where)!r} describes: {'; '.join(different)}.")


def _unlike(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[str]:
    """Return a note if the weights of the first layer look unrelated to those of `base`."""
    name = "visual.conv1.weight" if "visual.conv1.weight" in weights else "token_embedding.weight"
    if name not in weights or weights[name].shape != base[name].shape:
        return []
    cosine = float(F.cosine_similarity(weights[name].flatten(), base[name].flatten(), dim=0))
    if cosine > 0.5:  # fine-tuning hardly changes it; between two trainings from scratch it is about 0
        return []
    return [f"{name} has cosine {cosine:.2f} with that of --base: is the source really fine-tuned from it?"]


def _clip_model(config: CLIPConfig, weights: Mapping[str, Tensor]) -> CLIPModel:
    with torch.device("meta"):
        model = CLIPModel(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = [
        f"{name} is {tuple(tensor.shape)}, the others need {tuple(shapes[name])}"
        for name, tensor in weights.items()
        if tensor.shape != shapes[name]
    ]
    if wrong:
        raise ValueError(f"the shapes of the weights contradict each other: {'; '.join(wrong[:8])}.")
    model.load_state_dict(weights, strict=True, assign=True)
    for tower in (model.text_model, model.vision_model):  # no weight: what is not stored has no values yet
        tower.embeddings.position_ids = torch.arange(tower.embeddings.position_ids.shape[-1])[None]
    return model.eval()


def _processor(
    folder: str | Path | None, source_path: Path, source: Source, base_processor: Any, image_size: int
) -> tuple[Any, Any]:
    """Return the tokenizer, or `None`, and the image processor."""
    if folder is None and source.config is not None and has_image_processor(source_path):
        folder = source_path if (source_path / "tokenizer_config.json").exists() else None
    if folder is not None:
        return AutoTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
    settings = source.preprocessing
    if settings.get("resize_mode", "shortest") != "shortest" or settings.get("interpolation", "bicubic") != "bicubic":
        raise ValueError(
            f"{OPEN_CLIP_CONFIG} asks for {dict(settings)}; CLIP's image processor resizes the shortest edge, bicubic. "
            "Name a folder that has an image processor with --processor."
        )
    statistics: dict[str, Any] = {f"image_{name}": list(settings[name]) for name in ("mean", "std") if name in settings}
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}, **statistics
    )
    return base_processor.tokenizer if base_processor is not None else None, image_processor


def has_image_processor(folder: Path) -> bool:
    """Return whether a folder holds an image processor as transformers writes it."""
    return any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json"))


def _token_ids(tokenizer: Any, config: CLIPConfig | None, vocab_size: int) -> dict[str, int]:
    """Return the ids of BOS, end of text and padding.

    They come from the CLIPModel's configuration, else from the tokenizer, else they are OpenAI's: the last two ids.
    """
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    text: Any = config.text_config if config is not None else None
    if text is not None and text.eos_token_id != 2:  # 2: see _to_open_clip
        return {name: getattr(text, name) for name in names}
    if tokenizer is None:
        return {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    if tokenizer.eos_token_id != len(tokenizer) - 1:
        raise ValueError(
            f"the tokenizer ends texts with id {tokenizer.eos_token_id} of {len(tokenizer)}; the source pools at the "
            "highest id of a text. Name with --processor the one that belongs to the source."
        )
    return {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name) is not None}
