"""LoRA adapters of one trunk side by side, so that rows with different adapters pass through it in one forward.

For the P projections that read one input (queries, keys and values; gate and up) all adapters' factors are stacked:

    [y, z] = x [W, A]'        y_p += (z_p * gates) B_p'        A: (P R, in), gates: (rows, R), B_p: (out_p, R)

R is the sum of the adapters' ranks, and a row's gates are its adapter's strength where that owns a column and 0
elsewhere, so a row without adapter gets exactly 0 added. A goes through the same matmul as the frozen weight, unless it
changes often; B is multiplied in float32, because small float32 products are faster on CPUs than bfloat16 ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from trimtab.policies.company import filled, in_company, multiplied
from trimtab.policies.ragged import Ragged
from trimtab.policies.scales import Scales

Point = Sequence[Any]
"""Projections that read the same input."""

Gates = dict[tuple[int, ...], Tensor]
"""For each way columns are owned, how strongly each fed token uses them, (M, P * R)."""


@dataclass(frozen=True)
class Factors:
    """The stacked factors at one point.

    Args:
        down: A, shape (P * R, in), the projections one after another.
        up: B in chunks of equal width, shape (C, R, width).
        projection: which projection each chunk belongs to, shape (C,).
        owners: which adapter owns each of the P * R columns.
        beside: whether A is multiplied together with the frozen weight, or apart.
    """

    down: Tensor
    up: Tensor
    projection: Tensor
    owners: tuple[int, ...]
    beside: bool

    @staticmethod
    def of(point: Point, adapters: Sequence[str], *, beside: bool) -> Factors | None:
        """Stack the factors of some adapters at a point; None where none of them acts."""
        ranks = [max(_rank(module, name) for module in point) for name in adapters]
        if not sum(ranks):
            return None
        width = math.gcd(*(module.weight.shape[0] for module in point))
        device = point[0].weight.device
        downs = torch.zeros((len(point), sum(ranks), point[0].weight.shape[1]), device=device)
        ups: list[Tensor] = []
        projection: list[int] = []
        for place, module in enumerate(point):
            up = torch.zeros((sum(ranks), module.weight.shape[0]), device=device)
            for number, name in enumerate(adapters):
                if rank := _rank(module, name):
                    start = sum(ranks[:number])
                    downs[place, start : start + rank] = module.lora_A[name].weight.detach()
                    up[start : start + rank] = module.lora_B[name].weight.detach().t() * module.scaling[name]
            ups += torch.split(up, width, dim=1)
            projection += [place] * (up.shape[1] // width)
        owners = tuple(number for number, rank in enumerate(ranks) for _ in range(rank)) * len(point)
        return Factors(downs.flatten(0, 1), torch.stack(ups), torch.tensor(projection, device=device), owners, beside)

    def frozen(self, mapped: Tensor) -> Tensor:
        """Return what the frozen weights gave, (M, out)."""
        return mapped[:, : -len(self.down)] if self.beside else mapped

    def split(self, mapped: Tensor, x: Tensor, gates: Gates) -> tuple[Tensor, Tensor]:
        """Return what the frozen weights gave, (M, out), and the gated low-rank part, (M, P * R), float32."""
        low = mapped[:, -len(self.down) :] if self.beside else multiplied(x.float(), self.down.t())
        return self.frozen(mapped), low * gates[self.owners]

    def add(self, mapped: Tensor, x: Tensor, gates: Gates) -> Tensor:
        """Add the low-rank part to the outputs of the projections, (M, out), in place."""
        y, low = self.split(mapped, x, gates)
        chunks, ranks, width = self.up.shape
        low = in_company(low)
        lows = low.view(len(low), -1, ranks).transpose(0, 1)
        if chunks != len(lows):
            lows = lows[self.projection]
        y.view(len(y), chunks, width).transpose(0, 1).add_(torch.bmm(lows, self.up)[:, : len(y)])
        return y

    def add_to(self, total: Tensor, mapped: Tensor, x: Tensor, gates: Gates) -> None:
        """Add the output of a single projection, low-rank part included, to a float32 total, (M, out)."""
        y, low = self.split(mapped, x, gates)
        total.add_(y).add_(multiplied(low, self.up[0]))


@dataclass(frozen=True)
class Use:
    """How strongly M fed tokens use A adapters.

    Args:
        amounts: shape (M, A), float32.
        columns: the same for columns of factors.
    """

    amounts: Tensor
    columns: Gates

    @staticmethod
    def of(factors: Sequence[Factors | None], adapters: Sequence[str], scales: Scales, block: int, like: Tensor) -> Use:
        """Return how strongly each fed token uses each adapter.

        Args:
            factors: at every point.
            adapters: whose factors are stacked.
            scales: of the rows.
            block: tokens fed to each row.
            like: a tensor where the tokens are.
        """
        amounts = scales.over(adapters).repeat_interleave(block, 0).to(like.device)
        owned = dict.fromkeys(each.owners for each in factors if each is not None)
        return Use(amounts, {owners: amounts[:, list(owners)] for owners in owned})

    def packed(self, prompts: Ragged) -> Use:
        """Return the same for the tokens of prompts, without those of padding."""
        return Use(
            prompts.packed(self.amounts), {owners: prompts.packed(each) for owners, each in self.columns.items()}
        )

    def filled(self, rows: int) -> Use:
        """Return the same with tokens that use nothing, up to so many."""
        if len(self.amounts) == rows:
            return self
        return Use(filled(self.amounts, rows), {owners: filled(each, rows) for owners, each in self.columns.items()})


def fusable(module: Any, adapter: str) -> bool:
    """Return whether an adapter's part of a module is the plain low-rank formula."""
    if not isinstance(module, LoraLinear):
        return False
    plain = adapter not in module.lora_variant and not module.lora_bias.get(adapter, False)
    return plain and not module.fan_in_fan_out and not module.merged


def tensors(points: Sequence[Point], adapters: Sequence[str]) -> list[Tensor]:
    """Return the factors themselves, to see whether they have been changed."""
    return [
        factor[name].weight
        for point in points
        for module in point
        if isinstance(module, LoraLinear)
        for factor in (module.lora_A, module.lora_B)
        for name in adapters
        if name in factor
    ]


def trace(tensor: Tensor) -> tuple[object, ...]:
    """Return what changes when a tensor is replaced, moved, or changed in place."""
    return id(tensor), tensor.data_ptr(), tensor.dtype, 0 if tensor.is_inference() else tensor._version


def strengths(points: Sequence[Point], adapters: Sequence[str]) -> list[float]:
    """Return the scales of the adapters on every module."""
    modules = (module for point in points for module in point if isinstance(module, LoraLinear))
    return [float(module.scaling[name]) for module in modules for name in adapters if name in module.scaling]


def _rank(module: Any, name: str) -> int:
    """Return the rank of an adapter on a module, 0 where it does not act."""
    acts = isinstance(module, LoraLinear) and name in module.lora_A
    return int(module.lora_A[name].weight.shape[0]) if acts else 0
