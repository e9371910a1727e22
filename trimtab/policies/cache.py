"""Key-value caches as values: rows can be picked, shortened and appended, and nothing is ever changed in place.

Rows are aligned to the right: a row shorter than the widest one has masked slots on its left. Tensors are
(N rows, H heads, W slots, D); the mask is (N, W), True where a slot holds a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """N rows of tokens and, layer by layer, their keys and values.

    Args:
        tokens: token ids, shape (N, W), 0 in masked slots.
        mask: which slots hold a token, shape (N, W).
        layers: keys and values of each layer, each (N, H, W, D); None for models whose state is not a key-value cache,
            which are run over the whole prefix again.
        padded: whether any slot is masked; known without looking at the device.
    """

    tokens: Tensor
    mask: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...] | None
    padded: bool

    def select(self, index: Tensor) -> Rows:
        """Keep these rows, in this order."""
        index = index.to(self.mask.device)
        layers = self.layers and tuple((keys[index], values[index]) for keys, values in self.layers)
        return Rows(self.tokens[index], self.mask[index], layers, self.padded)

    def rollback(self, dropped: Tensor) -> Rows:
        """Forget the last ``dropped[n]`` tokens of each row and align to the right again."""
        dropped = dropped.to(self.mask.device)
        width = self.mask.shape[1] - int(dropped.min())
        slots = torch.arange(width, device=self.mask.device) + (self.mask.shape[1] - width)
        source = slots - dropped[:, None]  # the slot that each kept slot comes from
        mask = self.mask.gather(1, source.clamp(min=0)) & (source >= 0)
        return self._gather(source.clamp(min=0), mask).trim()

    def join(self, other: Rows) -> Rows:
        """Append rows; the narrower side is padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        a, b = self.widen(width), other.widen(width)
        layers = (
            None
            if a.layers is None or b.layers is None
            else tuple(
                (torch.cat([k, k2]), torch.cat([v, v2])) for (k, v), (k2, v2) in zip(a.layers, b.layers, strict=True)
            )
        )
        return Rows(torch.cat([a.tokens, b.tokens]), torch.cat([a.mask, b.mask]), layers, a.padded or b.padded)

    def widen(self, width: int) -> Rows:
        """Add masked slots on the left."""
        extra = width - self.mask.shape[1]
        if not extra:
            return self
        pad = torch.nn.functional.pad
        layers = self.layers and tuple(
            (pad(keys, (0, 0, extra, 0)), pad(values, (0, 0, extra, 0))) for keys, values in self.layers
        )
        return Rows(pad(self.tokens, (extra, 0)), pad(self.mask, (extra, 0)), layers, True)

    def trim(self) -> Rows:
        """Drop slots that are masked in every row."""
        if not self.padded:
            return self
        empty = int((~self.mask.any(0)).sum())
        layers = self.layers and tuple((keys[:, :, empty:], values[:, :, empty:]) for keys, values in self.layers)
        mask = self.mask[:, empty:]
        return Rows(self.tokens[:, empty:], mask, layers, not bool(mask.all()))

    def _gather(self, source: Tensor, mask: Tensor) -> Rows:
        """Pick slot ``source[n, w]`` of each row."""
        wide = source[:, None, :, None]
        layers = self.layers and tuple(
            (
                keys.gather(2, wide.expand(-1, keys.shape[1], -1, keys.shape[3])),
                values.gather(2, wide.expand(-1, values.shape[1], -1, values.shape[3])),
            )
            for keys, values in self.layers
        )
        return Rows(self.tokens.gather(1, source), mask, layers, True)
