"""RobustBench's rules for defences (arXiv:2010.09670, section 3): where they are broken, gradient attacks mislead.

A defence must have gradients that are not zero, a forward pass without randomness, and no optimisation in the forward
pass. All three are checked on a few images, from outside: any function from images to logits will do.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks.image_losses import margin_loss
from ..gradients import value_and_gradient
from .findings import Finding, finding

NOISE = 1e-4  # of the largest logit: what one forward may differ from the next by rounding on a GPU


def check_rules(classifier: Callable[[Tensor], Tensor], images: Tensor) -> list[Finding]:
    """Check the three rules.

    Args:
        classifier: maps images to logits, (batch, classes). Of an `nn.Module` the runs of every weight are counted too.
        images: in [0, 1], (batch, 3, height, width).

    Returns:
        A finding for each rule: "non-zero gradients", "no randomness in the forward pass" and "no optimisation loop in
        the forward pass".
    """
    return [_has_gradients(classifier, images), _is_deterministic(classifier, images), _has_no_loop(classifier, images)]


def _has_gradients(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Finding:
    """The loss is the margin of the predicted class: the cross-entropy of a confident model has no gradient either."""
    check = "non-zero gradients"
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    try:
        _, grad = value_and_gradient(lambda inputs: margin_loss(classifier(inputs), labels), images)
    except RuntimeError as error:  # torch: the output does not depend on the input
        return finding(check, False, f"no gradient reaches the images: {str(error).splitlines()[0]}")
    flat = grad.flatten(1)
    zero = int(((flat == 0).all(1) | ~flat.isfinite().all(1)).sum())
    return finding(check, zero == 0, f"{zero} of {len(images)} images have an all-zero or non-finite gradient")


def _is_deterministic(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Finding:
    with torch.no_grad():
        first, second = classifier(images), classifier(images)
    difference, largest = (first - second).abs().max().item(), first.abs().max().item()
    return finding(
        "no randomness in the forward pass",
        difference <= NOISE * largest,
        f"the logits of the same images differ by {difference:.3g} in two runs, the largest logit is {largest:.3g}",
    )


def _has_no_loop(classifier: Callable[[Tensor], Tensor], images: Tensor) -> Finding:
    """An optimisation either asks for gradients, or runs the same weights again and again."""
    check = "no optimisation loop in the forward pass"
    with torch.no_grad():
        classifier(images)  # what is computed once and kept, such as prompts, is no loop
        with _autograd_calls() as calls, _runs(classifier) as runs:
            classifier(images)
    if calls:
        said = ", ".join(f"{name} {times} times" for name, times in calls.items())
        return finding(check, False, f"one forward pass calls {said}")
    name, times = max(runs.items(), key=lambda each: each[1], default=("", 0))
    detail = f"one forward pass calls autograd 0 times and runs no weight more than {times} times"
    if times > 1:
        return finding(check, False, f"one forward pass runs {name} {times} times")
    return finding(check, True, detail if runs else "one forward pass calls autograd 0 times")


@contextlib.contextmanager
def _autograd_calls() -> Iterator[Counter[str]]:
    """Count the calls of autograd and of optimizers while the block runs, whatever name they are called by."""
    watched: dict[Any, str] = {
        torch.autograd.grad.__code__: "torch.autograd.grad",
        torch.autograd.backward.__code__: "torch.autograd.backward",
    }
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and (name := watched.get(frame.f_code)):
            calls[name] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def _runs(classifier: Callable[[Tensor], Tensor]) -> Iterator[Counter[str]]:
    """Count how often each module that holds weights runs while the block runs."""
    runs: Counter[str] = Counter()
    modules = dict(classifier.named_modules()) if isinstance(classifier, nn.Module) else {}
    handles = [
        module.register_forward_pre_hook(lambda _module, _given, name=name: runs.update([name]))
        for name, module in modules.items()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()
