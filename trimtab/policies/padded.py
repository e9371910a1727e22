"""What ``transformers`` keeps of rows, as a value: rows can be picked, shortened and appended.

Its models want one rectangle: rows end at the same slot, and short ones are padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.cache import Layers
from trimtab.policies.transfer import to_device


@dataclass(frozen=True, eq=False)
class Padded:
    """N rows of tokens, aligned to the right.

    Args:
        lengths: tokens of each row, shape (N,), on the CPU.
        width: slots of a row, W.
        mask: which of them hold a token, shape (N, W); None when all do.
        layers: keys and values of each layer; empty for models whose state is not a key-value cache.
        tokens: token ids, shape (N, W), any in masked slots; only kept where there are no layers.
    """

    lengths: Tensor
    width: int
    mask: Tensor | None
    layers: Layers
    tokens: Tensor | None

    def __len__(self) -> int:
        return len(self.lengths)

    def longer(self, block: int) -> Padded:
        """Count ``block`` more tokens in each row; their slots are for the caller to add."""
        mask = None if self.mask is None else F.pad(self.mask, (0, block), value=True)
        return replace(self, lengths=self.lengths + block, width=self.width + block, mask=mask)

    def select(self, index: Tensor) -> Padded:
        """Keep these rows, in this order."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        lengths = self.lengths[index]
        width = int(lengths.max())
        mask = None if self.mask is None else self.mask[index.to(self.mask.device), self.width - width :]
        kept = None if bool((lengths == width).all()) else mask
        picked = self._each(lambda slots: slots[index.to(slots.device)].narrow(-2, self.width - width, width))
        return replace(picked, lengths=lengths, width=width, mask=kept)

    def rollback(self, dropped: Tensor) -> Padded:
        """Forget the last ``dropped[n]`` tokens of each row."""
        if not bool(dropped.any()):
            return self
        lengths = self.lengths - dropped
        width = int(lengths.max())
        moved = to_device(dropped, self._device)[:, None]
        places = torch.arange(self.width - width, self.width, device=self._device) - moved
        mask = places >= self.width - to_device(self.lengths, self._device)[:, None]

        def shift(slots: Tensor) -> Tensor:
            # What is masked holds zeros: it has no weight, but 0 times NaN is NaN.
            there = torch.where(mask, places, 0).view(len(self), *[1] * (slots.dim() - 3), width, 1)
            hidden = ~mask.view(there.shape)
            return slots.gather(-2, there.expand(*slots.shape[:-2], width, slots.shape[-1])).masked_fill(hidden, 0)

        kept = None if bool((lengths == width).all()) else mask
        return replace(self._each(shift), lengths=lengths, width=width, mask=kept)

    def join(self, other: Padded) -> Padded:
        """Append rows; the narrower side is padded on the left."""
        width = max(self.width, other.width)
        a, b = self._widened(width), other._widened(width)
        lengths = torch.cat([self.lengths, other.lengths])
        mask = None if a.mask is None and b.mask is None else torch.cat([a._full_mask(), b._full_mask()])
        layers = [
            (torch.cat([mine[0], theirs[0]]), torch.cat([mine[1], theirs[1]]))
            for mine, theirs in zip(a.layers, b.layers, strict=True)
        ]
        tokens = None if a.tokens is None or b.tokens is None else torch.cat([a.tokens, b.tokens])
        return Padded(lengths, width, mask, layers, tokens)

    def _widened(self, width: int) -> Padded:
        """Add masked slots on the left. They hold zeros: a masked slot has no weight, but 0 times NaN is NaN."""
        extra = width - self.width
        if not extra:
            return self
        mask = F.pad(self._full_mask(), (extra, 0), value=False)
        return replace(self._each(lambda slots: F.pad(slots, (0, 0, extra, 0))), width=width, mask=mask)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Padded:
        """Change keys, values and tokens, whose slots are the dimension before the last."""
        layers = [(change(keys), change(values)) for keys, values in self.layers]
        tokens = None if self.tokens is None else change(self.tokens.unsqueeze(-1)).squeeze(-1)
        return replace(self, layers=layers, tokens=tokens)

    @property
    def _device(self) -> torch.device:
        there = self.layers[0][0] if self.tokens is None else self.tokens
        return there.device

    def _full_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones((len(self), self.width), dtype=torch.bool, device=self._device)
