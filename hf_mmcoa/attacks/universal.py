"""One perturbation for all images (arXiv:1610.08401): found on a training split, read from a file, applied to others.

It is found by gradient ascent over mini-batches (arXiv:1811.11304; arXiv:2103.01498 surveys the field), which is
simpler than the original search image by image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..gradients import gradient, shorten
from .beyond import Changed
from .contracts import LogitsFn
from .image_losses import log_odds_loss
from .pgd import PGD
from .settings import Norm, pixels

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
CLIPPED_AT = 9.0  # the loss is clipped as in arXiv:1811.11304: beyond it a misled image pulls no more
LAST_STEP = 0.1  # share of the step size that is left at the end
ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation:
    """Add one perturbation to every picture, and clip to [0, 1].

    Args:
        delta: the perturbation in [0, 1] pixel units, (3, height, width).
        epsilon: radius of the ball that it keeps: largest change of a pixel for linf, Euclidean length for l2.
        norm: "linf" or "l2".

    Raises:
        ValueError: if the perturbation has another shape, is not finite or leaves the ball.

    Example:
        >>> attack = UniversalPerturbation(delta=torch.full((3, 2, 2), 0.1), epsilon=0.1)
        >>> attack.apply(torch.zeros(1, 3, 2, 2)).max()
        tensor(0.1000)
    """

    delta: Tensor = field(repr=False, compare=False)
    epsilon: float
    norm: Norm = "linf"
    fingerprint: str = field(init=False, repr=False)
    """Sixteen hexadecimal digits of the perturbation. A result holds them beside its threat model, not in it: each
    model has a perturbation of its own, as it has images of its own under PGD."""

    def __post_init__(self) -> None:
        delta = self.delta.detach().float().cpu()
        if delta.ndim != 3 or delta.shape[0] != 3:
            raise ValueError(f"`delta` must be (3, height, width), got shape {tuple(delta.shape)}.")
        if not delta.isfinite().all():
            raise ValueError("`delta` holds NaN or infinity.")
        PGD(epsilon=self.epsilon, step_size=0.0, num_steps=0, norm=self.norm)  # checks radius and norm
        if (length := length_of(delta, self.norm)) > self.epsilon * (1 + ROUNDING):
            raise ValueError(f"`delta` has the {self.norm} length {length:.6g}, above `epsilon` {self.epsilon:.6g}.")
        object.__setattr__(self, "delta", delta)  # a frozen dataclass normalises its own fields this way
        object.__setattr__(self, "fingerprint", hashlib.sha256(delta.numpy().tobytes()).hexdigest()[:16])

    def apply(self, images: Tensor) -> Tensor:
        """Return perturbed images in [0, 1], (batch, 3, height, width).

        Raises:
            ValueError: if the images have another size than the perturbation.
        """
        if images.shape[1:] != self.delta.shape:
            size, own = ("x".join(map(str, each.shape[-2:])) for each in (images, self.delta))
            raise ValueError(
                f"the universal perturbation is of {own} pixels and the images of {size}: train one on images of "
                'their size, or read both at the model\'s size with `perturb_at="model"`.'
            )
        return (images + self.delta.to(images)).clamp(0, 1)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        class_names: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Iterator[Changed]:
        """Change a batch as in `BeyondAttack`."""
        yield Changed(self.apply(images))

    def save(self, path: str | Path) -> None:
        """Write the perturbation to a safetensors file, with its radius and norm, or, without them, to a .npy file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, self.delta.numpy())
        else:
            save_file({"delta": self.delta}, path, {"epsilon": repr(float(self.epsilon)), "norm": self.norm})

    @classmethod
    def load(
        cls, path: str | Path, *, epsilon: float | str | None = None, norm: Norm | None = None
    ) -> UniversalPerturbation:
        """Read a perturbation that this class or somebody else wrote.

        Args:
            path: a .safetensors, .npy, .pt or .pth file of one tensor, (3, h, w), (1, 3, h, w) or (h, w, 3), in [0, 1]
                pixel units. Pickled objects are refused.
            epsilon: radius that it must keep; the file's own, else its length, when None.
            norm: norm of the radius; the file's own, else linf, when None.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no such tensor, or one out of range.
        """
        path = Path(path)
        delta, notes = _read(path)
        delta = delta.squeeze(0) if delta.ndim == 4 else delta
        if delta.ndim == 3 and delta.shape[0] != 3 and delta.shape[-1] == 3:
            delta = delta.permute(2, 0, 1)
        if delta.numel() and float(delta.abs().max()) > 1:
            raise ValueError(
                f"{path}: values up to {float(delta.abs().max()):.4g} are no perturbation in [0, 1] pixel units: "
                "divide it by 255, or by what else it was multiplied with."
            )
        chosen: Any = norm or notes.get("norm", "linf")
        radius = notes.get("epsilon") if epsilon is None else epsilon
        try:
            length = length_of(delta, chosen)
            return cls(
                delta=delta.contiguous(), epsilon=length if radius is None else pixels("epsilon", radius), norm=chosen
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def length_of(delta: Tensor, norm: Norm) -> float:
    """Return the length of one perturbation, (3, height, width)."""
    return float(delta.abs().max() if norm == "linf" else delta.norm()) if delta.numel() else 0.0


def _read(path: Path) -> tuple[Tensor, dict[str, str]]:
    """Return the only tensor of a file, float32, and what the file says of it."""
    if path.suffix not in (".safetensors", ".npy", ".pt", ".pth"):
        raise ValueError(f"{path}: a perturbation is a .safetensors, .npy, .pt or .pth file.")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)).float(), {}
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
                tensors, notes = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        else:
            found, notes = torch.load(path, map_location="cpu", weights_only=True), {}
            tensors = found if isinstance(found, dict) else {"": found}
    except FileNotFoundError:
        raise
    except Exception as error:  # a hostile or broken file may raise anything
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ValueError(f"{path} holds no plain tensor ({type(error).__name__}: {reason}).") from error
    if len(tensors) != 1 or not isinstance(one := next(iter(tensors.values())), Tensor):
        raise ValueError(f"{path} must hold one tensor, holds {', '.join(map(repr, tensors)) or 'none'}.")
    return one.float(), notes


def train_universal(
    logits_fn: LogitsFn,
    batches: Batches,
    *,
    epsilon: float,
    norm: Norm = "linf",
    epochs: int = 10,
    step_size: float | None = None,
    seed: int = 0,
) -> UniversalPerturbation:
    """Find one perturbation that misleads a classifier on as many images as possible.

    Every mini-batch moves it by one step (signed for linf, normalised for l2) up the mean log-odds against the true
    classes, each clipped at `CLIPPED_AT`, and back into the ball; the steps shrink to a tenth. It starts at random.

    Args:
        logits_fn: images in [0, 1], (batch, 3, height, width), to logits, (batch, classes).
        batches: returns one pass over images and labels; use the training split, and measure on another.
        epsilon: radius of the ball, in [0, 1] pixel units.
        norm: "linf" or "l2".
        epochs: number of passes, at least 1.
        step_size: length of the first step; a tenth of `epsilon` when None.
        seed: seed of the start.

    Returns:
        The perturbation of the last step.

    Raises:
        ValueError: if a setting is out of range, or there is no image.
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1, got {epochs}.")
    first = next(iter(batches()), None)
    if first is None:
        raise ValueError("`batches` returns no image to train on.")
    length = epsilon / 10 if step_size is None else step_size
    ball = PGD(epsilon=epsilon, step_size=length, num_steps=1, norm=norm)
    grey = torch.full_like(first[0][:1], 0.5)
    delta = ball.start(grey, torch.Generator(grey.device).manual_seed(seed))  # (1, 3, height, width)
    for epoch in range(epochs):
        shrunk = replace(ball, step_size=length * LAST_STEP ** (epoch / max(epochs - 1, 1)))
        for images, labels in batches():
            # The sum over the batch is one loss of one perturbation.
            grad = gradient(lambda moved, x=images, y=labels: _loss(logits_fn, x, y, moved), delta)  # type: ignore[misc]
            delta = delta + shrunk.step(grad)
            delta = delta.clamp(-epsilon, epsilon) if norm == "linf" else shorten(delta, epsilon, (1, 2, 3))
    return UniversalPerturbation(delta=delta.squeeze(0), epsilon=epsilon, norm=norm)


def _loss(logits_fn: LogitsFn, images: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
    """Return the mean clipped log-odds of a batch under one perturbation, (1,)."""
    logits = logits_fn((images + delta).clamp(0, 1))
    return log_odds_loss(logits, labels).clamp(max=CLIPPED_AT).mean().unsqueeze(0)
