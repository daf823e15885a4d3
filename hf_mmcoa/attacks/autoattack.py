"""AutoAttack (arXiv:2003.01690) through its authors' package: an independent reference for attacks and defences."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .contracts import LogitsFn, check_labels
from .image_losses import NUM_TARGETS
from .settings import Norm

Version = Literal["standard", "rand", "apgd-ce", "apgd-t", "apgd-dlr", "fab", "fab-t", "square"]

COMPONENTS: dict[Version, list[str]] = {
    "standard": ["apgd-ce", "apgd-t", "fab-t", "square"],
    "rand": ["apgd-ce", "apgd-dlr"],
    "apgd-ce": ["apgd-ce"],
    "apgd-t": ["apgd-t"],
    "apgd-dlr": ["apgd-dlr"],
    "fab": ["fab"],
    "fab-t": ["fab-t"],
    "square": ["square"],
}
# The difference of logits ratio (DLR) divides by z_(1) - z_(3), its targeted form by z_(1) - (z_(3) + z_(4)) / 2.
CLASSES_NEEDED = {"apgd-dlr": 3, "apgd-t": 4}


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """Run `pyautoattack` on any function from images to logits.

    Unlike the package itself, it preserves the global random state, the parameters' gradients (the package's FAB calls
    `backward`) and the trace function of `sys.settrace`. The targeted DLR loss needs 4 classes, the untargeted one 3;
    with fewer classes, `standard` and `rand` skip that component with a warning, and `apgd-t` raises an error. Square
    takes 5,000 forward passes. Images are attacked in float32.

    Args:
        epsilon: radius of the ball, as in `PGD`.
        norm: "linf" or "l2".
        version: "standard" (APGD-CE, targeted APGD-DLR, targeted FAB, Square), "rand" for randomised models (APGD-CE
            and APGD-DLR, 20 evaluations per gradient), or one component alone: "apgd-ce", "apgd-t", "apgd-dlr", "fab",
            "fab-t" or "square".

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = AutoAttack(epsilon=4 / 255)
        >>> adv_images = attack(images, classifier, labels)  # doctest: +SKIP
    """

    epsilon: float
    norm: Norm = "linf"
    version: Version = "standard"

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f'`norm` must be "linf" or "l2", got {self.norm!r}.')
        if self.version not in COMPONENTS:
            raise ValueError(f"`version` must be one of {', '.join(COMPONENTS)}, got {self.version!r}.")
        if self.epsilon < 0 or (self.norm == "linf" and self.epsilon > 1):
            raise ValueError(f"`epsilon` is in [0, 1] pixel units, got {self.epsilon:g}.")

    def __call__(
        self, images: Tensor, logits_fn: LogitsFn, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack as in `ClassifierAttack`; the package's seed is drawn from the generator, or 0 when that is None.

        Returns:
            Adversarial images; samples for which none was found come back unchanged.

        Raises:
            ImportError: if `pyautoattack` is missing.
            ValueError: if the labels do not fit, or there are too few classes for every component of the version.
        """
        try:
            import pyautoattack
        except ImportError as error:
            raise ImportError('AutoAttack needs pyautoattack: `pip install "hf-mmcoa[autoattack]"`.') from error
        images = images.detach()
        if self.epsilon == 0 or not len(images):
            return images.clone()
        seed = 0 if generator is None else int(torch.randint(2**31, (), generator=generator, device=generator.device))
        with torch.no_grad():
            num_classes = logits_fn(images[:1]).shape[1]
        check_labels(images, labels, num_classes)
        with _outside_state_kept():
            suite = pyautoattack.AutoAttack(
                lambda inputs: _InputsOnly.apply(inputs, logits_fn),
                norm={"linf": "Linf", "l2": "L2"}[self.norm],
                eps=self.epsilon,
                seed=seed,
                device=images.device,
                version="rand" if self.version == "rand" else "standard",
            )
            suite.attacks_to_run = self._components(num_classes)
            suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(NUM_TARGETS, num_classes - 1)
            adv_images, _ = suite.run_standard_evaluation(images.float(), labels, batch_size=len(images))
        return adv_images.detach().to(images.dtype)

    def _components(self, num_classes: int) -> list[str]:
        left_out = [name for name in COMPONENTS[self.version] if num_classes < CLASSES_NEEDED.get(name, 2)]
        kept = [name for name in COMPONENTS[self.version] if name not in left_out]
        reason = "; ".join(f"{name} needs at least {CLASSES_NEEDED.get(name, 2)} classes" for name in left_out)
        if not kept:
            raise ValueError(f'`version` "{self.version}" is not for {num_classes} classes: {reason}. Use "apgd-ce".')
        if left_out:
            warnings.warn(
                f"AutoAttack {self.version} on {num_classes} classes runs without {', '.join(left_out)}: {reason}. "
                f'The result is not comparable with the full one. Choose version="apgd-ce" to silence this.',
                UserWarning,
                stacklevel=3,
            )
        return kept


class _InputsOnly(torch.autograd.Function):
    """Apply a function so that `backward` reaches its input only, never the parameters."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, function: LogitsFn) -> Tensor:
        if not ctx.needs_input_grad[0]:
            with torch.no_grad():
                return function(inputs)
        with torch.enable_grad():
            ctx.inputs = inputs.detach().requires_grad_()
            ctx.outputs = function(ctx.inputs)
        return ctx.outputs.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = torch.autograd.grad(ctx.outputs, ctx.inputs, grads[0], retain_graph=True)
        return grad, None


@contextlib.contextmanager
def _outside_state_kept() -> Iterator[None]:
    """Undo the package's seeding of torch and its removal of the trace function (which coverage and debuggers need)."""
    trace = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        sys.settrace(trace)
