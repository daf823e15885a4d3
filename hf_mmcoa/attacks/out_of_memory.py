"""An attack that does not fit into memory is repeated on half as many images at a time, and says so once."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor


class HalvingOnOutOfMemory:
    """Runs an attack with as many images at a time as memory allows, and remembers how many that were.

    The loss of an attack is one value per image, so how many are attacked at a time changes no result, provided that
    the attack draws its random start for all of them before it splits them.

    Example:
        >>> halving = HalvingOnOutOfMemory()
        >>> images = torch.ones(4, 3, 2, 2)
        >>> halving(lambda size: torch.cat([part / 2 for part in images.split(size)]), len(images)).shape
        torch.Size([4, 3, 2, 2])
    """

    def __init__(self) -> None:
        self.batch_size: int | None = None
        """What memory allowed, once an attack did not fit; None before that."""

    def __call__(
        self, attack: Callable[[int], Tensor], batch_size: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack, with half as many images at a time as long as memory does not suffice.

        Args:
            attack: attacks all images, so many at a time as it is told. It is called anew after a failure, and what
                else than its result it keeps (a list of iterates) it must clear at its start.
            batch_size: how many at a time to begin with, at least 1.
            generator: what the attack draws from; set back before each new trial, so that it draws the same.

        Returns:
            What the attack returns.

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
            # Not inside `except`: the error's traceback keeps alive what filled the memory.
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
                    "does so from the start, and silently.",
                    UserWarning,
                    stacklevel=2,
                )
            self.batch_size = size


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory did not suffice, an accelerator's or the machine's."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
