"""Train and evaluate a grid of data sets, shots, objectives and seeds, cell by cell, into one table."""

from .grid import run_protocol
from .plan import plan_protocol
from .protocol import Cell, Data, Protocol
from .reading import read_protocol

__all__ = ["Cell", "Data", "Protocol", "plan_protocol", "read_protocol", "run_protocol"]
