"""Texts that begin alike, several to a sequence: what they share in front is computed once, and padding hardly at all.

A causal text encoder gives a token the same hidden state whatever follows it. So the prompts of a hundred classes can
share their template: one row holds the template's tokens and behind them, in slots of equal length, what is different
in each prompt. Position ids and a mask in which a slot sees the template and itself make the model's own forward give
every token what it would have had in a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORTH_IT = 0.8  # of the tokens without sharing: above it the larger mask costs what the tokens save


@dataclass(frozen=True)
class SharedPrefix:
    """Where each token of some texts stands in rows that share a prefix.

    Example:
        >>> shared = SharedPrefix.of(torch.tensor([[5, 7, 1, 9], [5, 7, 2, 9], [5, 7, 3, 9]]), torch.tensor([3] * 3), 9)
        >>> shared.pack(torch.tensor([[5, 7, 1, 9], [5, 7, 2, 9], [5, 7, 3, 9]]))
        tensor([[5, 7, 1, 9, 2, 9, 3, 9]])
    """

    prefix: int  # tokens that all texts share
    slot: int  # tokens of the longest rest
    slots: int  # rests in a row
    texts: int

    @classmethod
    def of(cls, input_ids: Tensor, ends: Tensor, context: int) -> SharedPrefix | None:
        """How the texts fit together; None where that would not save enough.

        Args:
            input_ids: (texts, length), padded on the right.
            ends: position of the token at which each text is pooled, (texts,).
            context: the most tokens of a row.
        """
        texts = len(input_ids)
        longest = int(ends.max()) + 1
        differs = (input_ids != input_ids[:1]).any(0).nonzero()
        prefix = min(int(differs[0]) if len(differs) else longest, int(ends.min()))  # every rest has its end
        slot = longest - prefix
        slots = min((context - prefix) // slot, texts)
        shared = cls(prefix=prefix, slot=slot, slots=slots, texts=texts)
        return shared if shared.rows * shared.length <= WORTH_IT * texts * longest else None

    @property
    def rows(self) -> int:
        return -(-self.texts // self.slots)

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prefix + self.slots * self.slot

    def pack(self, input_ids: Tensor) -> Tensor:
        """(texts, length) to (rows, row length); what is left of the last row repeats the first text."""
        rests = input_ids[:, self.prefix : self.prefix + self.slot]
        missing = self.rows * self.slots - self.texts
        rests = torch.cat([rests, rests[:1].expand(missing, -1)]).reshape(self.rows, -1)
        return torch.cat([input_ids[:1, : self.prefix].expand(self.rows, -1), rests], dim=1)

    def positions(self, device: torch.device) -> Tensor:
        """Position ids of a row, (1, row length)."""
        rest = torch.arange(self.prefix, self.prefix + self.slot, device=device).repeat(self.slots)
        return torch.cat([torch.arange(self.prefix, device=device), rest]).unsqueeze(0)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What is added to attention scores, (1, 1, row length, row length): 0 where a token sees another, else the
        lowest number of `dtype`."""
        slot_of = torch.arange(self.slots, device=device).repeat_interleave(self.slot)
        slot_of = torch.cat([slot_of.new_full((self.prefix,), -1), slot_of])
        own = (slot_of.unsqueeze(1) == slot_of) | (slot_of == -1)
        seen = own.tril()  # the prefix stands before all slots
        mask = torch.zeros(self.length, self.length, dtype=dtype, device=device)
        return mask.masked_fill(~seen, torch.finfo(dtype).min).view(1, 1, self.length, self.length)

    def places(self, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the token at which each text is pooled, (texts,) each."""
        index = torch.arange(self.texts, device=ends.device)
        return index // self.slots, index % self.slots * self.slot + ends
