"""The forms in which robust CLIPs are published, made from a small model, for tests.

Names and options are spelt out here and not taken from the code under test.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel

from hf_mmcoa.convert.robust_clips import RobustClip

RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)


def openai_weights(model: CLIPModel) -> dict[str, torch.Tensor]:
    """The model's weights as OpenCLIP and OpenAI name them: query, key and value packed, projections transposed."""
    found: dict[str, torch.Tensor] = {}
    given = {name: weight for name, weight in model.state_dict().items() if "position_ids" not in name}
    for name, weight in given.items():
        if name in ("visual_projection.weight", "text_projection.weight"):
            found["visual.proj" if name[0] == "v" else "text_projection"] = weight.T.contiguous()
            continue
        if packed := re.search(r"self_attn\.([qkv])_proj\.(weight|bias)", name):
            if packed[1] != "q":
                continue
            weight = torch.cat([given[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            name = name.replace(packed[0], f"attn.in_proj_{packed[2]}")
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        found[name] = weight
    return found


def image_tower(model: CLIPModel) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("visual."): weight
        for name, weight in openai_weights(model).items()
        if name.startswith("visual.")
    }


def training_dictionary(model: CLIPModel) -> dict[str, object]:
    """As the scripts of TeCoA, TGA-ZSR and QT-AFT save it."""
    return {
        "epoch": 2,
        "state_dict": {},
        "add_prompter": {"prompt": torch.empty(1, 0, 32)},
        "vision_encoder_state_dict": image_tower(model),
        "best_acc1": np.mean([40.0, 41.0]),
    }


def open_clip_config(model: CLIPModel) -> dict[str, object]:
    vision, text = model.config.vision_config, model.config.text_config
    return {
        "model_cfg": {
            "embed_dim": model.config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": vision.image_size,
                "layers": vision.num_hidden_layers,
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
                "patch_size": vision.patch_size,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "width": text.hidden_size,
                "heads": text.num_attention_heads,
                "layers": text.num_hidden_layers,
                "mlp_ratio": text.intermediate_size / text.hidden_size,
            },
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
    }


def publish(model: CLIPModel, row: RobustClip, folder: Path) -> Path:
    """Save a model in the form that a row says; returns the file or folder."""
    folder.mkdir()
    if row.layout == "CLIPModel folder":
        model.save_pretrained(folder)
        return folder
    if row.layout == "OpenCLIP folder":
        (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(model)))
        torch.save(openai_weights(model), folder / "open_clip_pytorch_model.bin")
        return folder
    scripts = row.method in ("QT-AFT", "TGA-ZSR") or row.name.endswith("-authors")
    torch.save(training_dictionary(model) if scripts else image_tower(model), folder / "weights.pt")
    return folder / "weights.pt"


def with_activation(model: CLIPModel, activation: str) -> CLIPModel:
    """A model of the same weights with another activation."""
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.vision_config.hidden_act = config.text_config.hidden_act = activation
    other = CLIPModel(config).eval()
    other.load_state_dict(model.state_dict())
    return other
