"""Train and evaluate a grid of data sets, shots, objectives and seeds, cell by cell, into one table."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .cell import Cell, Data
    from .grid import run_protocol
    from .plan import plan_protocol
    from .protocol import Protocol
    from .reading import read_protocol
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".cell": ["Cell", "Data"],
            ".grid": ["run_protocol"],
            ".plan": ["plan_protocol"],
            ".protocol": ["Protocol"],
            ".reading": ["read_protocol"],
        },
    )

__all__ = ["Cell", "Data", "Protocol", "plan_protocol", "read_protocol", "run_protocol"]
