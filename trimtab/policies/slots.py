"""Storage for keys and values that only ever grows: what has been written is never overwritten.

Whoever holds the newest rows of a storage writes behind them without a copy; whoever holds older ones gets a storage of
its own. Which rows and slots mean what is the business of ``cache.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Slots:
    """Storage for the keys and values of a stack of rows.

    Args:
        tensors: keys and values in turn, each (lanes, H, capacity, D).
        rows: lanes that have been written.
        width: slots that have been written.
        poisoned: whether a NaN may have been written, a tensor that nobody has waited for; None for certainly not.
    """

    def __init__(self, tensors: list[Tensor], rows: int, width: int, poisoned: Tensor | None) -> None:
        self.tensors, self.rows, self.width, self.poisoned = tensors, rows, width, poisoned

    @staticmethod
    def holding(tensors: Iterable[Tensor], *, lanes: int, room: int, poisoned: Tensor | None = None) -> Slots:
        """Copy tensors of shape (N, H, W, D), one after another, into a storage with lanes and room to grow."""
        rows = width = 0
        storage = []
        for tensor in tensors:
            rows, width = tensor.shape[0], tensor.shape[2]
            larger = tensor.new_empty((max(lanes, rows), tensor.shape[1], width + room, tensor.shape[3]))
            larger[:rows, :, :width] = tensor
            storage.append(larger)
        return Slots(storage, rows, width, poisoned)

    @property
    def lanes(self) -> int:
        """How many rows there is room for."""
        return self.tensors[0].shape[0]

    @property
    def device(self) -> torch.device:
        """Where the storage is."""
        return self.tensors[0].device

    def poison(self, broken: Tensor | None) -> None:
        """Take note of whether what was written last holds a NaN."""
        if broken is not None:
            self.poisoned = broken if self.poisoned is None else self.poisoned | broken

    def may_grow(self, rows: int, width: int, to_rows: int, to_width: int) -> bool:
        """Return whether rows that end here are the newest ones, and there is room behind them."""
        tensor = self.tensors[0]
        newest = (self.rows, self.width) == (rows, width)
        fits = to_rows <= tensor.shape[0] and to_width <= tensor.shape[2]
        # Storage made in inference mode cannot be written outside it.
        return newest and fits and (torch.is_inference_mode_enabled() or not tensor.is_inference())


def room(width: int) -> int:
    """Return how many slots a storage gets beyond those in use, so that the copies add up to a constant factor."""
    return min(max(32, width // 2), 512)
