"""Slots that several rows have in common: a prompt that was prefilled once and forked into many rows is held once.

A row sees its prompt's slots first and its own after them. Besides the copies this saves reading the prompt's keys and
values once a row, since the queries of all rows of a prompt are multiplied with them in one go. Only whole chunks are
shared, so that a row's chunks are the same ones whether it shares them or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import ref

import torch
from torch import Tensor

from trimtab.policies.slots import CHUNK, widened, within

_WORTH = 2048
"""Slots that must be saved for sharing to be faster than copies, as measured on a CPU for 2 to 32 rows."""


Origin = tuple[ref[object], int]
"""What a prompt was forked from, and which row of it. Equal origins are the same prompt; nothing is kept alive."""


def pays(lane: Tensor, width: int) -> bool:
    """Return whether sharing is faster than copies: enough of them are saved, and prompts have about as many rows each.

    Args:
        lane: number of the prompt that each row begins with, (N,), on the CPU.
        width: slots of the longest prompt.
    """
    counts = lane.bincount()
    rows, prompts = len(lane), int((counts > 0).sum())
    return (rows - prompts) * width >= _WORTH and prompts * int(counts.max()) <= 2 * rows


@dataclass(frozen=True)
class Shared:
    """M prompts that N rows begin with.

    Args:
        tensors: keys and values in turn, each (M, H, P, D).
        chunks: whole chunks of each prompt, (M,), on the CPU.
        origins: of the prompts.
        lane: which of the prompts each row begins with, (N,), on the CPU.
    """

    tensors: list[Tensor]
    chunks: Tensor
    origins: tuple[Origin, ...]
    lane: Tensor

    @property
    def width(self) -> int:
        """P, the slots of the longest prompt."""
        return self.tensors[0].shape[2]

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, each (M, H, P, D)."""
        return list(zip(self.tensors[::2], self.tensors[1::2], strict=True))

    @cached_property
    def before(self) -> Tensor:
        """Shared tokens of each row, (N,), on the CPU."""
        return self.chunks[self.lane] * CHUNK

    def select(self, index: Tensor) -> Shared:
        """Keep these rows, in this order, and the prompts that they begin with."""
        used, lane = torch.unique(self.lane[index], return_inverse=True)
        if len(used) == len(self.chunks):
            return replace(self, lane=lane)
        there, chunks = used.to(self.tensors[0].device), self.chunks[used]
        width = int(chunks.max()) * CHUNK
        origins = tuple(self.origins[i] for i in used.tolist())
        return Shared([tensor[:, :, :width][there] for tensor in self.tensors], chunks, origins, lane)

    def join(self, other: Shared) -> Shared | None:
        """Append rows, those of the same prompts to them; None where that does not pay."""
        origins = list(self.origins)
        origins += [origin for origin in other.origins if origin not in origins]
        moved = torch.tensor([origins.index(origin) for origin in other.origins])
        lane, width = torch.cat([self.lane, moved[other.lane]]), max(self.width, other.width)
        if not pays(lane, width):
            return None
        new = moved >= len(self.origins)
        if not bool(new.any()):
            return replace(self, lane=lane)
        there = new.to(self.tensors[0].device)
        tensors = [
            torch.cat([widened(each, width, dim=2) for each in (mine, theirs[there])])
            for mine, theirs in zip(self.tensors, other.tensors, strict=True)
        ]
        return Shared(tensors, torch.cat([self.chunks, other.chunks[new]]), tuple(origins), lane)

    def copies(self) -> Iterator[Tensor]:
        """Yield the slots of every row, keys and values in turn, each (N, H, P, D)."""
        there = self._places[1]
        return (tensor[there] for tensor in self.tensors)

    @cached_property
    def seen(self) -> Tensor:
        """Which slots of its prompt each row sees, (N, P)."""
        return within(self.before, self.width, self.tensors[0].device)

    def gather(self, x: Tensor) -> Tensor:
        """Put what belongs to rows, (N, H, G, D), together by prompt, (M, H, C G, D), C the most rows of a prompt."""
        if len(self.chunks) == 1:
            return x.transpose(0, 1).reshape(1, x.shape[1], -1, x.shape[3])
        members = self._places[0]
        by_prompt = x[members].transpose(1, 2)  # (M, H, C, G, D)
        return by_prompt.reshape(len(members), x.shape[1], -1, x.shape[3])

    def scatter(self, x: Tensor) -> Tensor:
        """Undo :meth:`gather`: (M, H, C G, D) to (N, H, G, D)."""
        split = x.view(x.shape[0], x.shape[1], self._most, -1, x.shape[3])
        if len(self.chunks) == 1:
            return split[0].transpose(0, 1)
        return split.transpose(1, 2)[self._places[1:]]

    @cached_property
    def _most(self) -> int:
        return int(self.lane.bincount().max())

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of each prompt, (M, C), 0 where it has fewer, and each row's prompt and place there, (N,)."""
        order = self.lane.argsort(stable=True)
        counts = self.lane.bincount(minlength=len(self.chunks))
        place = torch.empty_like(self.lane)
        place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[self.lane[order]]
        members = torch.zeros((len(counts), self._most), dtype=torch.long)
        members[self.lane, place] = torch.arange(len(order))
        device = self.tensors[0].device
        return members.to(device), self.lane.to(device), place.to(device)
