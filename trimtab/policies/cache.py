"""Key-value caches as values: rows can be picked, shortened, extended and appended, and a state once made stays valid.

Rows are aligned to the right. A slot that holds no token of its row (left of a short prompt, or where a token has been
rolled back) is masked. Appending does not copy, see ``slots.py``; nor does forking a long prompt, see ``shared.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.shared import Shared, pays
from trimtab.policies.slots import Slots, room
from trimtab.policies.transfer import to_device

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each (N, H, W, D)."""

_SPARE = 16
"""Masked slots that are never worth a copy."""


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of tokens, of which the last W slots are their own.

    Args:
        lengths: tokens of each row, shape (N,), on the CPU.
        width: W.
        mask: which of them hold a token, shape (N, W); None when all do.
        slots: keys and values; None for models whose state is not a key-value cache.
        tokens: token ids, shape (N, W), any in masked slots; only kept where there are no slots.
        lean: whether the lean pass reads them. It can mask slots between tokens and read shared ones; others cannot.
        shared: slots before these that rows have in common.
    """

    lengths: Tensor
    width: int
    mask: Tensor | None
    slots: Slots | None
    tokens: Tensor | None
    lean: bool = False
    shared: Shared | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def layers(self) -> Layers:
        """Each layer's keys and values in the rows' own slots, each (N, H, W, D)."""
        views = self._views()
        return list(zip(views[::2], views[1::2], strict=True))

    @property
    def extent(self) -> int:
        """Slots of a row, shared ones included."""
        return self.width if self.shared is None else self.shared.width + self.width

    @property
    def seen(self) -> Tensor | None:
        """Which slots hold a token, shared ones included, shape (N, extent); None when all do."""
        if self.shared is None:
            return self.mask
        if self.mask is None and self.shared.mask is None:
            return None
        return torch.cat([self.shared.seen, self._full_mask()], 1)

    @staticmethod
    def of_layers(layers: Sequence[tuple[Tensor, Tensor]], like: Rows) -> Rows:
        """Return rows like the given ones over tensors that a model has made."""
        tensors = [tensor for layer in layers for tensor in layer]
        return replace(like, slots=Slots(tensors, len(like), like.width, None), tokens=None)

    def longer(self, block: int) -> Rows:
        """Count ``block`` more tokens in each row; their slots are for the caller to add."""
        mask = None if self.mask is None else F.pad(self.mask, (0, block), value=True)
        return replace(self, lengths=self.lengths + block, width=self.width + block, mask=mask)

    def grown(self, block: int) -> Rows:
        """Return the rows with ``block`` more slots each, whose keys and values the caller writes."""
        slots, width = self._slots, self.width + block
        if not slots.may_grow(len(self), self.width, len(self), width):
            slots = self._holding(self._views(), lanes=len(self), more=block + room(self.width))
        slots.width = width
        return replace(self.longer(block), slots=slots)

    def select(self, index: Tensor) -> Rows:
        """Keep these rows, in this order."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        if self.lean and self.shared is None and pays(index, self.width):
            return self._forked(index)
        mask = None if self.mask is None else self.mask[index.to(self.mask.device)]
        tokens = None if self.tokens is None else self.tokens[index.to(self.tokens.device)]
        slots = None if self.slots is None else self._picked(self.slots, index)
        shared = None if self.shared is None else self.shared.select(index)
        picked = replace(self, lengths=self.lengths[index], mask=mask, slots=slots, tokens=tokens, shared=shared)
        if shared is not None and not pays(shared.lane, shared.width):
            picked = picked._alone()
        return picked._compact() if picked._sparse() else picked

    def rollback(self, dropped: Tensor) -> Rows:
        """Forget the last ``dropped[n]`` tokens of each row: their slots are masked, and dropped when many are."""
        if not bool(dropped.any()):
            return self
        if self.shared is not None and bool((dropped > self._own).any()):
            return self._alone().rollback(dropped)
        mask = self._full_mask()
        from_end = mask.flip(1).cumsum(1).flip(1)  # 1 for a row's last token, 2 for the one before it
        mask = mask & (from_end > to_device(dropped, mask.device)[:, None])
        shorter = replace(self, lengths=self.lengths - dropped, mask=mask)
        # A masked slot has no weight, but 0 times NaN is NaN: what broke a dropped token must not stay.
        dense = not self.lean or shorter._sparse() or self._poisoned()
        return shorter._compact() if dense else shorter

    def join(self, other: Rows) -> Rows:
        """Append rows; the narrower side is padded on the left."""
        if self.shared is not None or other.shared is not None:
            # Rows that share nothing may begin with a prompt that the others share.
            a, b = (rows._forked(torch.arange(len(rows))) if rows.shared is None else rows for rows in (self, other))
            assert a.shared is not None and b.shared is not None
            if (shared := a.shared.join(b.shared)) is not None:
                return a._joined(b, shared)
        return self._alone(lanes=len(self) + len(other))._joined(other._alone(), None)

    def _joined(self, other: Rows, shared: Shared | None) -> Rows:
        """Append rows and their own slots."""
        width = max(self.width, other.width)
        a, b = self._widened(width), other._widened(width)
        lengths = torch.cat([self.lengths, other.lengths])
        mask = None if a.mask is None and b.mask is None else torch.cat([a._full_mask(), b._full_mask()])
        both = replace(a, lengths=lengths, mask=mask, shared=shared)
        if a.tokens is not None and b.tokens is not None:
            return replace(both, tokens=torch.cat([a.tokens, b.tokens]))
        slots = a._slots
        if not slots.may_grow(len(a), width, len(lengths), width):
            slots = a._holding(a._views(), lanes=len(lengths), more=room(width))
        for mine, theirs in zip(slots.tensors, b._views(), strict=True):
            mine[len(a) : len(lengths), :, :width] = theirs
        slots.rows = len(lengths)
        slots.poison(b._slots.poisoned)
        return replace(both, slots=slots)

    def _forked(self, index: Tensor) -> Rows:
        """Return picked rows that have all slots so far in common, and none of their own."""
        whole: ref[object] = ref(self)
        origins = tuple((whole, i) for i in range(len(self)))
        everything = Shared(self._views(), self.mask, self.lengths, origins, torch.arange(len(self)))
        nothing = (view[:1, :, :0].expand(len(index), -1, -1, -1) for view in self._views())
        slots = self._holding(nothing, lanes=len(index), more=room(self.width))
        lengths, shared = self.lengths[index], everything.select(index)
        return replace(self, lengths=lengths, width=0, mask=None, slots=slots, shared=shared)

    def _alone(self, lanes: int = 0) -> Rows:
        """Give every row slots of its own for what it shares, with lanes for more rows."""
        if self.shared is None:
            return self
        tensors = (torch.cat(pair, 2) for pair in zip(self.shared.copies(), self._views(), strict=True))
        slots = self._holding(tensors, lanes=lanes, more=room(self.extent))
        return replace(self, width=self.extent, mask=self.seen, slots=slots, shared=None)

    def _picked(self, slots: Slots, index: Tensor) -> Slots:
        """Copy the slots of some rows. Lanes that become free are kept for newcomers, as many as there are rows."""
        there = index.to(slots.device)
        # One row that is forked is written once; others are gathered first.
        views = (view.expand(len(index), -1, -1, -1) if len(self) == 1 else view[there] for view in self._views())
        return self._holding(views, lanes=min(slots.lanes, 2 * len(index)), more=room(self.width))

    def _widened(self, width: int) -> Rows:
        """Add masked slots on the left. They hold zeros: a masked slot has no weight, but 0 times NaN is NaN."""
        extra = width - self.width
        if not extra:
            return self
        mask = F.pad(self._full_mask(), (extra, 0), value=False)
        if self.slots is None:
            assert self.tokens is not None
            return replace(self, width=width, mask=mask, tokens=F.pad(self.tokens, (extra, 0)))
        tensors = [F.pad(view, (0, 0, extra, 0)) for view in self._views()]
        return replace(self, width=width, mask=mask, slots=Slots(tensors, len(self), width, self.slots.poisoned))

    def _sparse(self) -> bool:
        """Return whether enough slots are masked in every row to be worth a copy."""
        return self.mask is not None and self.width - int(self._own.max()) > max(_SPARE, self.width // 4)

    def _compact(self) -> Rows:
        """Align to the right again, in as few slots as the longest row needs."""
        own, mask = self._own, self._full_mask()
        longest = int(own.max())
        order = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, self.width - longest :]
        mask = torch.arange(longest, device=mask.device) >= (longest - to_device(own, mask.device))[:, None]
        kept = None if bool((own == longest).all()) else mask
        if self.slots is None:
            assert self.tokens is not None
            return replace(self, width=longest, mask=kept, tokens=self.tokens.gather(1, order) * mask)
        wide, hidden = order[:, None, :, None], ~mask[:, None, :, None]
        tensors = [
            view.gather(2, wide.expand(-1, view.shape[1], -1, view.shape[3])).masked_fill(hidden, 0)
            for view in self._views()
        ]
        slots = Slots.holding(tensors, lanes=min(self.slots.lanes, 2 * len(self)), room=room(longest))
        if self._poisoned():
            slots.poison(torch.stack([tensor.isnan().any() for tensor in tensors]).any())
        return replace(self, width=longest, mask=kept, slots=slots)

    @property
    def _own(self) -> Tensor:
        """Tokens in each row's own slots, (N,)."""
        return self.lengths if self.shared is None else self.lengths - self.shared.lengths[self.shared.lane]

    @property
    def _slots(self) -> Slots:
        assert self.slots is not None
        return self.slots

    def _holding(self, tensors: Iterable[Tensor], *, lanes: int, more: int) -> Slots:
        """Copy tensors made from these rows' slots into a storage of their own."""
        return Slots.holding(tensors, lanes=lanes, room=more, poisoned=self._slots.poisoned)

    def _poisoned(self) -> bool:
        return self.slots is not None and self.slots.poisoned is not None and bool(self.slots.poisoned)

    def _views(self) -> list[Tensor]:
        return [tensor[: len(self), :, : self.width] for tensor in self._slots.tensors]

    def _full_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        there = self.tokens if self.slots is None else self.slots
        assert there is not None
        return torch.ones((len(self), self.width), dtype=torch.bool, device=there.device)
