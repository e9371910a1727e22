"""Key-value caches as values: rows can be picked, shortened, extended and appended, and a state once made stays valid.

Rows are aligned to the right. A slot that holds no token of its row (left of a short prompt, or where a token has been
rolled back) is masked. Appending does not copy: the storage has room to grow, and whoever holds the newest rows of a
storage writes behind them; whoever holds older ones gets a storage of its own. Nothing that is visible to any rows is
ever overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each (N, H, W, D)."""


class Slots:
    """Storage for the keys and values of a stack of rows.

    Args:
        tensors: keys and values in turn, each (lanes, H, capacity, D).
        rows: lanes that have been written.
        width: slots that have been written.
    """

    def __init__(self, tensors: list[Tensor], rows: int, width: int) -> None:
        self.tensors, self.rows, self.width = tensors, rows, width
        self.poisoned: Tensor | None = None
        """Whether a NaN may have been written, a tensor that nobody has waited for; None for certainly not."""

    @staticmethod
    def holding(tensors: Sequence[Tensor], *, lanes: int, room: int) -> Slots:
        """Copy tensors of shape (N, H, W, D) into a storage with some lanes and this much room to grow."""
        rows, width = tensors[0].shape[0], tensors[0].shape[2]
        storage = []
        for tensor in tensors:
            larger = tensor.new_empty((max(lanes, rows), tensor.shape[1], width + room, tensor.shape[3]))
            larger[:rows, :, :width] = tensor
            storage.append(larger)
        return Slots(storage, rows, width)

    def may_grow(self, rows: int, width: int, to_rows: int, to_width: int) -> bool:
        """Return whether rows that end here are the newest ones, and there is room behind them."""
        tensor = self.tensors[0]
        newest = (self.rows, self.width) == (rows, width)
        fits = to_rows <= tensor.shape[0] and to_width <= tensor.shape[2]
        # Storage made in inference mode cannot be written outside it.
        return newest and fits and (torch.is_inference_mode_enabled() or not tensor.is_inference())


@dataclass(frozen=True)
class Rows:
    """N rows of tokens, W slots wide.

    Args:
        lengths: tokens of each row, shape (N,), on the CPU.
        width: W.
        mask: which slots hold a token, shape (N, W); None when all do.
        slots: keys and values; None for models whose state is not a key-value cache.
        tokens: token ids, shape (N, W), 0 in masked slots; only kept where there are no slots.
        holes: whether masked slots may lie between tokens: the lean pass masks any slot, others only padding.
    """

    lengths: Tensor
    width: int
    mask: Tensor | None
    slots: Slots | None
    tokens: Tensor | None
    holes: bool = False

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def layers(self) -> Layers:
        """Keys and values of each layer, each (N, H, W, D)."""
        assert self.slots is not None
        views = [tensor[: len(self), :, : self.width] for tensor in self.slots.tensors]
        return list(zip(views[::2], views[1::2], strict=True))

    @staticmethod
    def of_layers(layers: Sequence[tuple[Tensor, Tensor]], like: Rows) -> Rows:
        """Return rows like the given ones over tensors that a model has made."""
        tensors = [tensor for layer in layers for tensor in layer]
        return replace(like, slots=Slots(tensors, len(like), like.width), tokens=None)

    def grown(self, block: int) -> Rows:
        """Return the rows with ``block`` more slots each, whose keys and values the caller writes."""
        lengths, width = self.lengths + block, self.width + block
        mask = None if self.mask is None else F.pad(self.mask, (0, block), value=True)
        slots = self.slots
        assert slots is not None
        if not slots.may_grow(len(self), self.width, len(self), width):
            slots = self._copied(lanes=len(self), room=block + _room(self.width))
        slots.width = width
        return replace(self, lengths=lengths, width=width, mask=mask, slots=slots)

    def select(self, index: Tensor) -> Rows:
        """Keep these rows, in this order."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        mask = None if self.mask is None else self.mask[index.to(self.mask.device)]
        tokens = None if self.tokens is None else self.tokens[index.to(self.tokens.device)]
        slots = None
        if self.slots is not None:
            # Lanes that become free are kept for newcomers, as many as there are rows left.
            lanes = min(self.slots.tensors[0].shape[0], 2 * len(index))
            there = index.to(self.slots.tensors[0].device)
            # One row that is forked is written once; others are gathered first.
            views = (view.expand(len(index), -1, -1, -1) if len(self) == 1 else view[there] for view in self._views())
            slots = Slots.holding(list(views), lanes=lanes, room=_room(self.width))
            slots.poisoned = self.slots.poisoned
        picked = replace(self, lengths=self.lengths[index], mask=mask, slots=slots, tokens=tokens)
        return picked._compact() if picked._sparse() else picked

    def rollback(self, dropped: Tensor) -> Rows:
        """Forget the last ``dropped[n]`` tokens of each row: their slots are masked, and dropped when many are."""
        if not bool(dropped.any()):
            return self
        device = self._device()
        mask = self._full_mask()
        from_end = mask.flip(1).cumsum(1).flip(1)  # 1 for a row's last token, 2 for the one before it
        mask = mask & (from_end > dropped.to(device)[:, None])
        shorter = replace(self, lengths=self.lengths - dropped, mask=mask)
        # A masked slot has no weight, but 0 times NaN is NaN: what broke a dropped token must not stay.
        dense = not self.holes or shorter._sparse() or self._poisoned()
        return shorter._compact() if dense else shorter

    def join(self, other: Rows) -> Rows:
        """Append rows; the narrower side is padded on the left."""
        width = max(self.width, other.width)
        a, b = self._widened(width), other._widened(width)
        lengths = torch.cat([self.lengths, other.lengths])
        mask = None if a.mask is None and b.mask is None else torch.cat([a._full_mask(), b._full_mask()])
        if a.tokens is not None and b.tokens is not None:
            return replace(a, lengths=lengths, mask=mask, tokens=torch.cat([a.tokens, b.tokens]))
        assert a.slots is not None
        if not a.slots.may_grow(len(a), width, len(lengths), width):
            a = replace(a, slots=a._copied(lanes=len(lengths), room=_room(width)))
        assert a.slots is not None
        for mine, theirs in zip(a.slots.tensors, b._views(), strict=True):
            mine[len(a) : len(lengths), :, :width] = theirs
        a.slots.rows = len(lengths)
        if b.slots is not None:
            a.slots.poisoned = _either(a.slots.poisoned, b.slots.poisoned)
        return replace(a, lengths=lengths, mask=mask)

    def _widened(self, width: int) -> Rows:
        """Add masked slots on the left. They hold zeros: a masked slot has no weight, but 0 times NaN is NaN."""
        extra = width - self.width
        if not extra:
            return self
        mask = F.pad(self._full_mask(), (extra, 0), value=False)
        if self.slots is None:
            assert self.tokens is not None
            return replace(self, width=width, mask=mask, tokens=F.pad(self.tokens, (extra, 0)))
        padded = Slots([F.pad(view, (0, 0, extra, 0)) for view in self._views()], len(self), width)
        padded.poisoned = self.slots.poisoned
        return replace(self, width=width, mask=mask, slots=padded)

    def _sparse(self) -> bool:
        """Return whether enough slots are masked in every row to be worth a copy."""
        return self.mask is not None and self.width - int(self.lengths.max()) > max(_SPARE, self.width // 4)

    def _compact(self) -> Rows:
        """Align to the right again, in as few slots as the longest row needs."""
        longest = int(self.lengths.max())
        device = self._device()
        assert self.mask is not None
        order = self.mask.to(torch.uint8).argsort(dim=1, stable=True)[:, self.width - longest :]
        mask = torch.arange(longest, device=device) >= (longest - self.lengths.to(device))[:, None]
        kept = None if bool((self.lengths == longest).all()) else mask
        if self.slots is None:
            assert self.tokens is not None
            return replace(self, width=longest, mask=kept, tokens=self.tokens.gather(1, order) * mask)
        wide = order[:, None, :, None]
        hidden = ~mask[:, None, :, None]
        tensors = [
            view.gather(2, wide.expand(-1, view.shape[1], -1, view.shape[3])).masked_fill(hidden, 0)
            for view in self._views()
        ]
        lanes = min(self.slots.tensors[0].shape[0], 2 * len(self))
        return replace(self, width=longest, mask=kept, slots=Slots.holding(tensors, lanes=lanes, room=_room(longest)))

    def _copied(self, *, lanes: int, room: int) -> Slots:
        """Return a storage of these rows' own."""
        assert self.slots is not None
        copied = Slots.holding(self._views(), lanes=lanes, room=room)
        copied.poisoned = self.slots.poisoned
        return copied

    def _poisoned(self) -> bool:
        return self.slots is not None and self.slots.poisoned is not None and bool(self.slots.poisoned)

    def _views(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in layer]

    def _device(self) -> torch.device:
        return self.slots.tensors[0].device if self.slots is not None else self._tokens_device()

    def _tokens_device(self) -> torch.device:
        assert self.tokens is not None
        return self.tokens.device

    def _full_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones((len(self), self.width), dtype=torch.bool, device=self._device())


_SPARE = 16
"""Masked slots that are never worth a copy."""


def _either(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a | b


def _room(width: int) -> int:
    """How many slots a storage gets beyond those in use, so that the copies add up to a constant factor."""
    return min(max(32, width // 2), 512)
