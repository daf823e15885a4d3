"""Rows of several texts with a common beginning, so that the text encoder computes that beginning only once.

A causal text encoder gives a token the same hidden state whatever follows it. So the prompts of a hundred classes can
share the tokens of their template: one row holds the template once, and after it, in slots of equal length, the rest of
each prompt. Position ids, and a mask in which each slot sees the template and itself, make the model's own forward give
every token the hidden state that it would have in a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORTH_IT = 0.8  # share of the tokens without packing; above it, the larger mask costs more time than packing saves


@dataclass(frozen=True)
class SharedPrefix:
    """The place of each token of some texts in rows that share a prefix.

    Example:
        >>> shared = SharedPrefix.of(torch.tensor([[5, 7, 1, 9], [5, 7, 2, 9], [5, 7, 3, 9]]), torch.tensor([3] * 3), 9)
        >>> shared.pack(torch.tensor([[5, 7, 1, 9], [5, 7, 2, 9], [5, 7, 3, 9]]))
        tensor([[5, 7, 1, 9, 2, 9, 3, 9]])
    """

    prefix: int  # number of tokens that all texts share
    slot: int  # number of tokens of a slot: those of the longest rest
    slots: int  # number of slots in a row
    texts: int

    @classmethod
    def of(cls, input_ids: Tensor, ends: Tensor, context: int) -> SharedPrefix | None:
        """Return how the texts are packed into rows, or None if packing would not save enough.

        Args:
            input_ids: token ids, (texts, length), padded on the right.
            ends: position of the token at which each text is pooled, (texts,).
            context: largest number of tokens of a row.
        """
        texts = len(input_ids)
        common = (input_ids == input_ids[:1]).all(0).long().cumprod(0).sum()
        longest, shortest, prefix = torch.stack([ends.max() + 1, ends.min(), common]).tolist()  # the host waits once
        prefix = min(prefix, shortest)  # a rest keeps its end
        slot = longest - prefix
        slots = min((context - prefix) // slot, texts)
        shared = cls(prefix=prefix, slot=slot, slots=slots, texts=texts)
        return shared if shared.rows * shared.length <= WORTH_IT * texts * longest else None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return -(-self.texts // self.slots)

    @property
    def length(self) -> int:
        """Return the number of tokens of a row."""
        return self.prefix + self.slots * self.slot

    def pack(self, input_ids: Tensor) -> Tensor:
        """Map token ids, (texts, length), to (rows, row length); free slots of the last row repeat the first text."""
        rests = input_ids[:, self.prefix : self.prefix + self.slot]
        missing = self.rows * self.slots - self.texts
        rests = torch.cat([rests, rests[:1].expand(missing, -1)]).reshape(self.rows, -1)
        return torch.cat([input_ids[:1, : self.prefix].expand(self.rows, -1), rests], dim=1)

    def positions(self, device: torch.device) -> Tensor:
        """Return the position ids of a row, (1, row length)."""
        rest = torch.arange(self.prefix, self.prefix + self.slot, device=device).repeat(self.slots)
        return torch.cat([torch.arange(self.prefix, device=device), rest]).unsqueeze(0)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the mask that is added to attention scores, (1, 1, row length, row length).

        It is 0 where a token may see another one, and the lowest number of `dtype` elsewhere.
        """
        slot_of = torch.arange(self.slots, device=device).repeat_interleave(self.slot)
        slot_of = torch.cat([slot_of.new_full((self.prefix,), -1), slot_of])
        own = (slot_of.unsqueeze(1) == slot_of) | (slot_of == -1)
        seen = own.tril()  # causal; the prefix comes before all slots
        mask = torch.zeros(self.length, self.length, dtype=dtype, device=device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min).view(1, 1, self.length, self.length)

    def places(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row and the column of the token at which each text is pooled, (texts,) each."""
        index = torch.arange(self.texts, device=ends.device)
        return index // self.slots, index % self.slots * self.slot + ends
