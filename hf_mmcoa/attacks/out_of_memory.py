"""Repeat an attack that does not fit into memory on half as many images at a time, with one warning."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor


class HalvingOnOutOfMemory:
    """Run an attack on as many images at a time as memory allows, and remember that number.

    The loss of an attack has one value per image, so the number of images attacked at a time does not change the
    result, provided that the attack draws the random start of all images before it splits them.

    Example:
        >>> halving = HalvingOnOutOfMemory()
        >>> images = torch.ones(4, 3, 2, 2)
        >>> halving(lambda size: torch.cat([part / 2 for part in images.split(size)]), len(images)).shape
        torch.Size([4, 3, 2, 2])
    """

    def __init__(self) -> None:
        self.batch_size: int | None = None
        """Number of images that memory allowed, after an attack did not fit; None before."""

    def __call__(
        self, attack: Callable[[int], Tensor], batch_size: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack, halving the number of images at a time until they fit into memory.

        Args:
            attack: attacks all images, as many at a time as its argument says. It is called again after a failure, so
                it must clear at its start anything that it stores beside its result, such as a list of iterates.
            batch_size: number of images at a time in the first trial, at least 1.
            generator: generator that the attack draws from; reset before each new trial, so that all draw the same.

        Returns:
            The result of the attack.

        Raises:
            torch.OutOfMemoryError: if not even one image at a time fits.
        """
        drawn = generator.get_state() if generator is not None else None
        size = min(batch_size, self.batch_size or batch_size)
        while True:
            try:
                return attack(size)
            except RuntimeError as error:  # an OutOfMemoryError is one
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise torch.OutOfMemoryError(
                        "the attack does not fit into memory even with one image at a time. Train in bf16, or take "
                        f"a smaller model or a larger device. {error}"
                    ) from error
            # Not inside `except`: the traceback keeps alive the tensors that filled the memory.
            size = -(-size // 2)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if generator is not None and drawn is not None:
                generator.set_state(drawn)
            if self.batch_size is None:
                warnings.warn(
                    f"the attack of {batch_size} images at a time does not fit into memory: it is repeated with "
                    f"{size}, and with half of that as often as needed, to the same result. `attack_batch_size={size}` "
                    "does so from the start, and silently, in training; in evaluation a smaller `batch_size`.",
                    UserWarning,
                    stacklevel=2,
                )
            self.batch_size = size


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error says that the memory of an accelerator or of the host is exhausted."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
