"""Storage for keys and values that only ever grows: up to a row's end nothing is ever overwritten.

Whoever holds the newest rows of a storage writes behind them without a copy; whoever holds older ones gets a storage of
its own. Which rows and slots mean what is the business of ``cache.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.transfer import to_device

CHUNK = 128
"""Slots that are attended to in one piece, and the unit in which prompts are shared."""

_GRAIN = 16
"""Less than a chunk comes in multiples of this: a vector of the processor, so that a row's end is in the same lane."""


class Slots:
    """Storage for the keys and values of a stack of rows. Slots that nobody wrote to hold zeros.

    Args:
        tensors: keys and values in turn, each (lanes, H, capacity, D).
        ends: slots that have been written in each of the first lanes, (N,), on the CPU.
        poisoned: whether a NaN may have been written, a tensor that nobody has waited for; None for certainly not.
    """

    def __init__(self, tensors: list[Tensor], ends: Tensor, poisoned: Tensor | None) -> None:
        self.tensors, self.ends, self.poisoned = tensors, ends, poisoned

    @staticmethod
    def holding(
        tensors: Iterable[Tensor], ends: Tensor, *, lanes: int, room: int, poisoned: Tensor | None = None
    ) -> Slots:
        """Copy tensors of shape (N, H, W, D), one after another, into a storage with lanes and room to grow."""
        storage = []
        for tensor in tensors:
            rows, heads, width, size = tensor.shape
            larger = tensor.new_zeros((max(lanes, rows), heads, whole_chunks(width + room), size))
            larger[:rows, :, :width] = tensor
            storage.append(larger)
        return Slots(storage, ends, poisoned)

    @property
    def lanes(self) -> int:
        """How many rows there is room for."""
        return self.tensors[0].shape[0]

    @property
    def capacity(self) -> int:
        """How many slots a row there is room for."""
        return self.tensors[0].shape[2]

    @property
    def device(self) -> torch.device:
        """Where the storage is."""
        return self.tensors[0].device

    def poison(self, broken: Tensor | None) -> None:
        """Take note of whether what was written last holds a NaN."""
        if broken is not None:
            self.poisoned = broken if self.poisoned is None else self.poisoned | broken

    def may_grow(self, ends: Tensor, rows: int, width: int) -> bool:
        """Return whether rows that end here are the newest ones, and there is room for so many rows and slots."""
        fits = rows <= self.lanes and width <= self.capacity
        # Storage made in inference mode cannot be written outside it.
        writable = torch.is_inference_mode_enabled() or not self.tensors[0].is_inference()
        return fits and writable and torch.equal(self.ends, ends)


def picked(tensors: Iterable[Tensor], rows: Tensor, places: Tensor, ends: Tensor) -> Iterable[Tensor]:
    """Yield the given slots of the given rows, (M, H, W, D) to (N, H, w, D), zeros where a row has ended.

    Args:
        tensors: keys and values in turn.
        rows: which row each new one comes from, (N,), on the CPU.
        places: which slot each of its slots comes from, (N, w), any past its end.
        ends: how many it has, (N,), on the CPU.
    """
    there = beyond = None
    for tensor in tensors:
        if there is None or beyond is None:  # the same for all of them
            slots = places.to(tensor.device).clamp(max=tensor.shape[2] - 1)
            there = to_device(rows, tensor.device)[:, None], slice(None), slots
            beyond = ~within(ends, places.shape[1], tensor.device)[:, None, :, None]
        yield tensor[there].transpose(1, 2).masked_fill(beyond, 0)


def within(ends: Tensor, width: int, device: torch.device) -> Tensor:
    """Return which of the first slots come before the end of each row, (N,) to (N, width)."""
    return torch.arange(width, device=device) < to_device(ends, device)[:, None]


def widened(tensor: Tensor, width: int, *, dim: int) -> Tensor:
    """Add zeros at the end of a dimension."""
    extra = width - tensor.shape[dim]
    return F.pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (0, extra)) if extra else tensor


def whole_grains(width: int) -> int:
    """Round slots up so that kernels add them up in the same order whatever their number."""
    return -(-width // _GRAIN) * _GRAIN


def whole_chunks(width: int) -> int:
    """Round slots up so that they can be attended to: whole chunks, or part of a single one."""
    return whole_grains(width) if width <= CHUNK else -(-width // CHUNK) * CHUNK


def room(width: int) -> int:
    """Return how many slots a storage gets beyond those in use, so that the copies add up to a constant factor."""
    return min(max(32, width // 2), 512)
