"""Key-value caches as values: rows can be picked, shortened, extended and appended, and a state once made stays valid.

All rows begin at the first slot and each ends at a place of its own, so where a token is does not depend on other rows:
what is computed for a row has the same bits whatever it is computed with. A token that is rolled back leaves a hole.
Appending does not copy, see ``slots.py``; nor does forking a long prompt, see ``shared.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import ref

import torch
from torch import Tensor

from trimtab.policies.shared import Shared, pays
from trimtab.policies.slots import CHUNK, Slots, picked, room, widened, within
from trimtab.policies.transfer import to_device

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each (N, H, W, D)."""

_SPARE = 16
"""Holes that are never worth a copy."""


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of tokens, in slots that they share and slots of their own after them.

    Args:
        lengths: tokens of each row, shape (N,), on the CPU.
        ends: its own slots, holes included, shape (N,), on the CPU.
        holes: which of them have lost their token, shape (N, any width); None for no holes.
        slots: keys and values.
        shared: slots before these that rows have in common.
    """

    lengths: Tensor
    ends: Tensor
    holes: Tensor | None
    slots: Slots
    shared: Shared | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def width(self) -> int:
        """Own slots of the longest row."""
        return int(self.ends.max())

    @cached_property
    def even(self) -> bool:
        """Whether every row has a token in every slot up to the width, and they share nothing."""
        return self.shared is None and self.holes is None and bool((self.ends == self.width).all())

    def layers(self, width: int) -> Layers:
        """Return each layer's keys and values in the first of the rows' own slots, each (N, H, width, D)."""
        views = [tensor[: len(self), :, :width] for tensor in self.slots.tensors]
        return list(zip(views[::2], views[1::2], strict=True))

    def seen(self, width: int) -> Tensor:
        """Return which of the first own slots hold a token of their row, shape (N, width)."""
        seen = within(self.ends, width, self.slots.device)
        return seen if self.holes is None else seen & ~self._holes_to(width)

    def grown(self, block: int) -> Rows:
        """Return the rows with ``block`` more tokens each, whose keys and values the caller writes."""
        ends, slots = self.ends + block, self.slots
        if not slots.may_grow(self.ends, len(self), self.width + block):
            slots = self._copied(lanes=len(self), more=block + room(self.width))
        slots.ends = ends
        return replace(self, lengths=self.lengths + block, ends=ends, slots=slots)

    def select(self, index: Tensor) -> Rows:
        """Keep these rows, in this order."""
        if torch.equal(index, torch.arange(len(self))):
            return self
        if self.shared is None and pays(index, int(self.lengths[index].max()) // CHUNK * CHUNK):
            return self._forked(index)
        holes = None if self.holes is None else self.holes[index.to(self.holes.device)]
        shared = None if self.shared is None else self.shared.select(index)
        kept = replace(
            self,
            lengths=self.lengths[index],
            ends=self.ends[index],
            holes=holes,
            slots=self._picked(index),
            shared=shared,
        )
        if shared is not None and not pays(shared.lane, shared.width):
            kept = kept._alone()
        return kept._compact() if kept._sparse() else kept

    def rollback(self, dropped: Tensor) -> Rows:
        """Forget the last ``dropped[n]`` tokens of each row: they leave holes, which are closed when there are many."""
        if not bool(dropped.any()):
            return self
        if self.shared is not None and bool((dropped > self._own).any()):
            return self._alone().rollback(dropped)
        seen = self.seen(self.width)
        from_end = seen.flip(1).cumsum(1).flip(1)  # 1 for a row's last token, 2 for the one before it
        holes = self._holes_to(self.width) | seen & (from_end <= to_device(dropped, seen.device)[:, None])
        shorter = replace(self, lengths=self.lengths - dropped, holes=holes)
        # A hole has no weight, but 0 times NaN is NaN: what broke a dropped token must not stay.
        return shorter._compact() if shorter._sparse() or self._poisoned() else shorter

    def join(self, other: Rows) -> Rows:
        """Append rows."""
        if self.shared is not None or other.shared is not None:
            # Rows that share nothing may begin with a prompt that the others share.
            a, b = (rows._forked(torch.arange(len(rows))) if rows.shared is None else rows for rows in (self, other))
            assert a.shared is not None and b.shared is not None
            if (shared := a.shared.join(b.shared)) is not None:
                return a._joined(b, shared)
        return self._alone(lanes=len(self) + len(other))._joined(other._alone(), None)

    def _joined(self, other: Rows, shared: Shared | None) -> Rows:
        """Append rows and their own slots."""
        ends, lengths = torch.cat([self.ends, other.ends]), torch.cat([self.lengths, other.lengths])
        width, slots = max(self.width, other.width), self.slots
        if not slots.may_grow(self.ends, len(ends), width):
            slots = self._copied(lanes=len(ends), more=width - self.width + room(width))
        for mine, theirs in zip(slots.tensors, other._views(), strict=True):
            mine[len(self) : len(ends), :, : other.width] = theirs
        slots.ends = ends
        slots.poison(other.slots.poisoned)
        holes = None
        if self.holes is not None or other.holes is not None:
            holes = torch.cat([self._holes_to(width), other._holes_to(width)])
        return Rows(lengths, ends, holes, slots, shared)

    def _forked(self, index: Tensor) -> Rows:
        """Return picked rows that have their whole chunks so far in common, and the rest in slots of their own."""
        if self.holes is not None:
            return self._compact()._forked(index)
        chunks = self.ends // CHUNK
        common, everyone = int(chunks.max()) * CHUNK, torch.arange(len(self))
        me: ref[object] = ref(self)
        origins = tuple((me, i) for i in range(len(self)))
        prompts = [tensor[: len(self), :, :common] for tensor in self.slots.tensors]
        if bool((chunks * CHUNK < common).any()):  # what is behind a prompt's chunks is not its own for good
            prompts = list(picked(prompts, everyone, torch.arange(common).expand(len(self), -1), chunks * CHUNK))
        shared = Shared(prompts, chunks, origins, everyone).select(index)
        first, ends = chunks[index] * CHUNK, (self.ends - chunks * CHUNK)[index]
        places = first[:, None] + torch.arange(int(ends.max()))
        slots = self._holding(picked(self.slots.tensors, index, places, ends), ends, lanes=len(index))
        return Rows(self.lengths[index], ends, None, slots, shared)

    def _alone(self, lanes: int = 0) -> Rows:
        """Give every row slots of its own for what it shares, with lanes for more rows."""
        if self.shared is None:
            return self
        if self.holes is not None:
            return self._compact()._alone(lanes)
        before, common = self.shared.before, self.shared.width
        ends = before + self.ends
        order = torch.arange(int(ends.max()))
        places = torch.where(order < before[:, None], order, order + common - before[:, None])
        both = (torch.cat([theirs, mine], 2) for theirs, mine in zip(self.shared.copies(), self._views(), strict=True))
        slots = self._holding(picked(both, torch.arange(len(self)), places, ends), ends, lanes=lanes)
        return Rows(self.lengths, ends, None, slots)

    def _picked(self, index: Tensor) -> Slots:
        """Copy the slots of some rows. Lanes that become free are kept for newcomers, as many as there are rows."""
        ends, there = self.ends[index], index.to(self.slots.device)
        views = (view[:, :, : int(ends.max())] for view in self._views())
        # One row that is forked is written once; others are gathered first.
        rows = (view.expand(len(index), -1, -1, -1) if len(self) == 1 else view[there] for view in views)
        return self._holding(rows, ends, lanes=min(self.slots.lanes, 2 * len(index)))

    def _copied(self, *, lanes: int, more: int) -> Slots:
        """Copy all slots into a storage with lanes and slots to spare."""
        return Slots.holding(self._views(), self.ends, lanes=lanes, room=more, poisoned=self.slots.poisoned)

    def _views(self) -> Iterable[Tensor]:
        """Yield the rows' own slots, (N, H, W, D), zeros behind their ends where newer rows may have written NaN."""
        views = (tensor[: len(self), :, : self.width] for tensor in self.slots.tensors)
        if not self._poisoned():
            return views
        beyond = ~within(self.ends, self.width, self.slots.device)[:, None, :, None]
        return (view.masked_fill(beyond, 0) for view in views)

    def _holding(self, tensors: Iterable[Tensor], ends: Tensor, *, lanes: int) -> Slots:
        """Copy tensors made from these rows' slots into a storage of their own."""
        more = room(int(ends.max()))
        return Slots.holding(tensors, ends, lanes=lanes, room=more, poisoned=self.slots.poisoned)

    def _sparse(self) -> bool:
        """Return whether there are enough holes in every row to be worth a copy."""
        return self.holes is not None and self.width - int(self._own.max()) > max(_SPARE, self.width // 4)

    def _compact(self) -> Rows:
        """Close all holes."""
        own = self._own
        order = (~self.seen(self.width)).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(own.max())]
        tensors = list(picked(self.slots.tensors, torch.arange(len(self)), order, own))
        slots = Slots.holding(tensors, own, lanes=min(self.slots.lanes, 2 * len(self)), room=room(order.shape[1]))
        if self._poisoned():
            slots.poison(torch.stack([tensor.isnan().any() for tensor in tensors]).any())
        return replace(self, ends=own, holes=None, slots=slots)

    def _holes_to(self, width: int) -> Tensor:
        """Return which of the first own slots are holes, shape (N, width)."""
        if self.holes is None:
            return torch.zeros((len(self), width), dtype=torch.bool, device=self.slots.device)
        return widened(self.holes, width, dim=1)[:, :width]

    @property
    def _own(self) -> Tensor:
        """Tokens in each row's own slots, (N,)."""
        return self.lengths if self.shared is None else self.lengths - self.shared.before

    def _poisoned(self) -> bool:
        return self.slots.poisoned is not None and bool(self.slots.poisoned)
