"""Sums between two logs: the objective's terms, and what the attacks did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from torch import Tensor


class LoggedSums:
    """Terms are averaged over batches, figures over samples, both over all processes."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._terms: dict[str, Any] = {}
        self._batches = 0
        self._figures: dict[str, Any] = {}  # of each figure (sum, count), (2,)

    def add(self, terms: Mapping[str, Tensor], figures: Mapping[str, Tensor]) -> None:
        """Add one batch.

        Args:
            terms: of the objective, scalars.
            figures: of `tracking.attack_figures`: sum and count, (2,).
        """
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0) + term.detach()
        self._batches += 1
        for name, figure in figures.items():
            self._figures[name] = self._figures.get(name, 0) + figure

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return all means since the last call, and begin anew."""
        found = {
            name: accelerator.reduce(total / self._batches, reduction="mean").item()
            for name, total in self._terms.items()
        }
        for name, figure in self._figures.items():
            total, count = accelerator.reduce(figure, reduction="sum").tolist()
            if count:
                found[name] = total / count
        self._clear()
        return found
