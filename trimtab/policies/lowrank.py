"""LoRA adapters of one trunk side by side, so that rows with different adapters pass through it in one forward.

For the projections that read one input (queries, keys and values; gate and up) the factors of all adapters are stacked:

    y += ((x A') * gates) B'        A: (R, in), B: (out, R), gates: (rows, R)

R is the sum of the ranks, and a row's gates are its adapters' scales where they own a column and 0 elsewhere, so a row
without adapter gets exactly 0 added. The factors are kept and multiplied in float32: they are small, and small float32
products are faster on CPUs than bfloat16 ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

Point = Sequence[Any]
"""Projections that read the same input."""


@dataclass(frozen=True)
class Factors:
    """The stacked factors at one point: A' (in, R), B' (R, out), and which adapter owns each of the R columns."""

    down: Tensor
    up: Tensor
    owners: tuple[int, ...]


class LowRank:
    """The factors of some adapters at every point of a trunk, copied once and renewed when they have changed.

    Args:
        points: for each point of the trunk its projections, in the order of their outputs.
        adapters: names of the adapters.
    """

    def __init__(self, points: Sequence[Point], adapters: Sequence[str]) -> None:
        self.adapters = tuple(adapters)
        self._sources = [
            tensor for point in points for module in point for name in adapters for tensor in _tensors(module, name)
        ]
        self._versions = self._now()
        with torch.no_grad():
            self.factors = [_stack(point, self.adapters) for point in points]

    def stale(self) -> bool:
        """Return whether an adapter has been changed since the factors were copied."""
        return self._versions != self._now()

    def gates(self, rows: Sequence[str | None], repeats: int, device: torch.device) -> dict[tuple[int, ...], Tensor]:
        """Return, for each way columns are owned, which of them each row uses.

        Args:
            rows: the adapter of each row, or None.
            repeats: how many inputs each row has, next to each other.
            device: where the gates go.

        Returns:
            A (rows * repeats, R) tensor for each distinct tuple of owners; none where all rows use every column.
        """
        found = {}
        uses = torch.tensor([[row == name for name in self.adapters] for row in rows], dtype=torch.float32)
        for owners in {each.owners for each in self.factors if each is not None}:
            gate = uses[:, list(owners)]
            if not bool((gate == 1).all()):
                found[owners] = gate.repeat_interleave(repeats, 0).to(device)
        return found

    def _now(self) -> tuple[int, ...]:
        return tuple(tensor._version for tensor in self._sources)


def apply(factors: Factors | None, y: Tensor, x: Tensor, gates: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Add the low-rank part to y, in place.

    Args:
        factors: of the point, or None where no adapter acts.
        y: what the frozen projections gave, (M, out).
        x: what they were given, (M, in).
        gates: of :meth:`LowRank.gates`.
    """
    if factors is None:
        return y
    low = torch.mm(x.float(), factors.down)
    gate = gates.get(factors.owners)
    if gate is not None:
        low = low * gate
    return y.add_(torch.mm(low, factors.up))


def fusable(module: nn.Module, adapter: str) -> bool:
    """Return whether an adapter's part of a module is the plain low-rank formula."""
    if not isinstance(module, LoraLinear):
        return False
    plain = adapter not in module.lora_variant and not module.lora_bias.get(adapter, False)
    return plain and not module.fan_in_fan_out and not module.merged


def _tensors(module: nn.Module, name: str) -> list[Tensor]:
    """Return the two factors of an adapter on a module, or nothing."""
    if not isinstance(module, LoraLinear) or name not in module.lora_A:
        return []
    return [module.lora_A[name].weight, module.lora_B[name].weight]


def _stack(point: Point, adapters: Sequence[str]) -> Factors | None:
    """Concatenate the factors of every adapter on every projection of a point."""
    widths = [module.weight.shape[0] for module in point]
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    owners: list[int] = []
    for place, module in enumerate(point):
        for number, name in enumerate(adapters):
            if not (tensors := _tensors(module, name)):
                continue
            assert isinstance(module, LoraLinear)
            down, up = (tensor.detach().float() for tensor in tensors)
            downs.append(down)
            before, after = sum(widths[:place]), sum(widths[place + 1 :])
            ups.append(torch.nn.functional.pad(up * module.scaling[name], (0, 0, before, after)))
            owners += [number] * down.shape[0]
    if not downs:
        return None
    return Factors(torch.cat(downs).t().contiguous(), torch.cat(ups, 1).t().contiguous(), tuple(owners))
