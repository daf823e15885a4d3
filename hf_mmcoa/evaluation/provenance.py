"""What a number depends on beside its specification: the weights and the libraries."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform

import torch
from torch import nn

from .._version import __version__


def model_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits of the weights: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the libraries that a number depends on."""
    libraries = ("torch", "transformers", "datasets", "accelerate")
    return {
        "python": platform.python_version(),
        "hf_mmcoa": __version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }
