"""A tiny CLIP that knows English: the shipped text tower under an image tower of any size.

A CLIP that was built from captions alone knows the words of its captions, so a synonym that no caption holds means
nothing to it. The text tower in `english/` was distilled from a public sentence encoder over the nouns and adjectives
of WordNet (`build_english.py`), so that words have a meaning before any image is seen. Locked, it teaches an image
tower (LiT, arXiv:2111.07991) in seconds.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from transformers import CLIPModel, CLIPProcessor, CLIPTextModelWithProjection, CLIPTokenizer

from .tiny_clip import image_processor, untrained_clip


def english_clip(
    *, image_size: int, patch_size: int, width: int = 64, layers: int = 2, seed: int = 0
) -> tuple[CLIPModel, CLIPProcessor]:
    """Build a CLIP with the shipped English text tower and an untrained image tower.

    Args:
        image_size: height and width of an image, in pixels.
        patch_size: height and width of a patch, in pixels.
        width: width of the image tower; a multiple of its 4 heads.
        layers: number of layers of the image tower.
        seed: seed of the image tower's weights; the global random state is not changed.

    Returns:
        `(model, processor)`, float32, in eval mode; texts have at most 20 tokens.
    """
    with as_file(files(__package__) / "english") as folder:
        text = CLIPTextModelWithProjection.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    model = untrained_clip(
        text.config, image_size=image_size, patch_size=patch_size, width=width, layers=layers, seed=seed
    )
    model.text_model.load_state_dict(text.text_model.state_dict())
    model.text_projection.load_state_dict(text.text_projection.state_dict())
    return model.eval(), CLIPProcessor(image_processor(image_size), tokenizer)
