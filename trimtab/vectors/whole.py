"""A vector as plain differences, one tensor at a time, whatever form it is kept in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from trimtab.errors import ModelError
from trimtab.policies.vector import Vector


@dataclass(frozen=True, eq=False)
class Whole(Mapping[str, Tensor]):
    """The differences of a vector by tensor name; low-rank factors are multiplied out when they are asked for.

    Args:
        vector: whose.

    Example:
        >>> import torch
        >>> from trimtab.policies.vector import LowRank, Origin
        >>> ones = LowRank(torch.ones(1, 2), torch.ones(2, 1))
        >>> Whole(Vector({"lin": ones}, {"lin.weight": torch.eye(2)}, Origin("", "")))["lin.weight"].tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """

    vector: Vector

    def __getitem__(self, name: str) -> Tensor:
        factors = self.vector.low_rank.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if factors is None:
            return self.vector.dense[name]
        if name not in self.vector.dense:
            return factors.dense()
        plain, product = self.vector.dense[name], factors.dense()
        if plain.shape != product.shape:
            raise ModelError(
                given=f"{name!r} of {self.vector} with factors of {tuple(product.shape)} and a difference of "
                f"{tuple(plain.shape)}",
                expected="both of one shape",
                hint="layers that keep their weights transposed, as GPT-2's, cannot be added up in two forms",
            )
        return plain + product

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({f"{module}.weight" for module in self.vector.low_rank} | set(self.vector.dense)))

    def __len__(self) -> int:
        return len({f"{module}.weight" for module in self.vector.low_rank} | set(self.vector.dense))
