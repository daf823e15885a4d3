"""CLIP's forward on OpenAI's layout in plain torch, with which every conversion is compared.

It shares no code with transformers' model and uses the weights as OpenAI's and OpenCLIP's models do: packed query, key
and value, projections multiplied from the right, pooling at the highest token id. So a mistake in a conversion shows as
a difference between embeddings. tests/convert/test_convert.py compares this module with OpenAI's own code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .layouts import Architecture, Tower


@dataclasses.dataclass(frozen=True)
class ReferenceCLIP:
    """Compute projected features of images and texts (CLIP, arXiv:2103.00020; code openai/CLIP, MIT licence).

    Args:
        weights: all weights of a CLIP, in OpenAI's names.
        architecture: supplies what the shapes do not determine: heads, activation, epsilon.
    """

    weights: Mapping[str, Tensor]
    architecture: Architecture

    @property
    def logit_scale(self) -> float:
        """Return the logarithm of the inverse temperature."""
        return float(self.weights["logit_scale"])

    @torch.no_grad()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return projected features before normalisation, (images, dim).

        Args:
            pixel_values: images after mean and std, (images, 3, height, width).
        """
        weights, tower = self.weights, self.architecture.vision
        patches = F.conv2d(pixel_values, weights["visual.conv1.weight"], stride=self.architecture.patch_size)
        hidden = patches.flatten(2).transpose(1, 2)  # (images, patches, width)
        cls = weights["visual.class_embedding"].expand(len(hidden), 1, -1)
        hidden = torch.cat([cls, hidden], dim=1) + weights["visual.positional_embedding"]
        hidden = self._norm(hidden, "visual.ln_pre", tower)
        hidden = self._transformer(hidden, "visual.transformer", tower, None)
        return self._norm(hidden[:, 0], "visual.ln_post", tower) @ weights["visual.proj"]

    @torch.no_grad()
    def encode_texts(self, input_ids: Tensor) -> Tensor:
        """Return projected features before normalisation, (texts, dim), of token ids, (texts, length)."""
        weights, tower = self.weights, self.architecture.text
        length = input_ids.shape[1]
        hidden = F.embedding(input_ids, weights["token_embedding.weight"]) + weights["positional_embedding"][:length]
        later = torch.full((length, length), -torch.inf).triu(1)
        hidden = self._norm(self._transformer(hidden, "transformer", tower, later), "ln_final", tower)
        ends = input_ids.argmax(dim=-1)  # the end of text has the highest id
        return hidden[torch.arange(len(hidden)), ends] @ weights["text_projection"]

    def _transformer(self, hidden: Tensor, prefix: str, tower: Tower, mask: Tensor | None) -> Tensor:
        for layer in range(tower.layers):
            block = f"{prefix}.resblocks.{layer}"
            hidden = hidden + self._attention(self._norm(hidden, f"{block}.ln_1", tower), block, tower, mask)
            inner = self._linear(self._norm(hidden, f"{block}.ln_2", tower), f"{block}.mlp.c_fc")
            # QuickGELU: OpenAI's approximation of GELU, arXiv:1606.08415, section 2.
            inner = inner * torch.sigmoid(1.702 * inner) if tower.activation == "quick_gelu" else F.gelu(inner)
            hidden = hidden + self._linear(inner, f"{block}.mlp.c_proj")
        return hidden

    def _attention(self, hidden: Tensor, block: str, tower: Tower, mask: Tensor | None) -> Tensor:
        packed = F.linear(
            hidden, self.weights[f"{block}.attn.in_proj_weight"], self.weights[f"{block}.attn.in_proj_bias"]
        )
        query, key, value = packed.unflatten(-1, (3, tower.heads, -1)).permute(2, 0, 3, 1, 4)  # each (n, heads, l, d)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = (scores if mask is None else scores + mask).softmax(-1) @ value
        return self._linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.out_proj")

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str, tower: Tower) -> Tensor:
        shape = (tower.width,)
        return F.layer_norm(
            hidden, shape, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], tower.layer_norm_eps
        )
