"""A LLaVA small enough to be taught in seconds, on the vision tower of a tiny CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from ..models.llava import swap_vision_tower

PAD, BOS, EOS, IMAGE = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")


def tiny_llava(
    clip: CLIPModel,
    words: Sequence[str],
    *,
    width: int = 64,
    layers: int = 2,
    vision_feature_layer: int | list[int] = -2,
    vision_feature_select_strategy: str = "default",
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """Build a LLaVA with random projector and language model on a copy of a CLIP's vision tower.

    Args:
        clip: the CLIP whose tower it reads.
        words: vocabulary of the language model, in the order of its token ids behind those of `SPECIAL`.
        width: width of the language model.
        layers: number of layers of the language model.
        vision_feature_layer: hidden states of the tower that it reads, as in `LlavaConfig`.
        vision_feature_select_strategy: "default" reads the patch tokens, "full" the class token too.
        seed: seed of the weights; the global random state is not changed.

    Returns:
        The model, in eval mode.
    """
    vision: Any = clip.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    text = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=patches + 32,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=IMAGE,
        image_seq_length=patches + (vision_feature_select_strategy == "full"),
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy=vision_feature_select_strategy,  # type: ignore[arg-type]
        attn_implementation="eager",  # type: ignore[call-arg]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llava = LlavaForConditionalGeneration(config)
    return swap_vision_tower(llava, clip).eval()


def teach(
    llava: LlavaForConditionalGeneration, pixel_values: Tensor, answers: Tensor, *, steps: int, seed: int = 0
) -> None:
    """Train projector and language model to answer a picture, with the tower frozen, as LLaVA is trained.

    Args:
        llava: the model; in eval mode afterwards, its tower frozen.
        pixel_values: normalised pictures, (images, 3, size, size).
        answers: token ids of each picture's answer, (images, length), ending in `EOS`.
        steps: gradient steps of 64 pictures each.
        seed: seed of the order of the pictures.
    """
    llava.train()
    llava.model.vision_tower.requires_grad_(False).eval()
    weights = [weight for weight in llava.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(pixel_values), (64,), generator=generator)
        asked = question(llava, len(rows))
        logits = llava(input_ids=torch.cat([asked, answers[rows]], 1), pixel_values=pixel_values[rows]).logits
        said = logits[:, asked.shape[1] - 1 : -1]
        loss = F.cross_entropy(said.flatten(0, 1), answers[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    llava.eval()


def question(llava: LlavaForConditionalGeneration, images: int) -> Tensor:
    """Return the token ids before the answer, (images, tokens): the picture's tokens, and the beginning of a text."""
    return torch.tensor([[*[IMAGE] * llava.config.image_seq_length, BOS]]).expand(images, -1)


def say(llava: LlavaForConditionalGeneration, pixel_values: Tensor, words: Sequence[str], length: int) -> list[str]:
    """Return the model's greedy text for each of the pictures (images, 3, size, size), of at most `length` words."""
    asked = question(llava, len(pixel_values))
    with torch.no_grad():
        ids = llava.generate(
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            pixel_values=pixel_values,
            max_new_tokens=length + 1,
            do_sample=False,
        )
    names = [*SPECIAL, *words]
    return [
        " ".join(names[token] for token in row if token not in (PAD, EOS)) for row in ids[:, asked.shape[1] :].tolist()
    ]
