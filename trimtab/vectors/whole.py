"""A vector as plain differences, one tensor at a time, whatever form it is kept in."""

from __future__ import annotations

from torch import Tensor

from trimtab.errors import ModelError
from trimtab.policies.lazy import LazyTensors
from trimtab.policies.vector import Vector


def whole(vector: Vector) -> LazyTensors:
    """Return the differences of a vector by tensor name; low-rank factors are multiplied out when they are asked for.

    Args:
        vector: whose.

    Example:
        >>> import torch
        >>> from trimtab.policies.vector import LowRank, Origin
        >>> ones = LowRank(torch.ones(1, 2), torch.ones(2, 1))
        >>> whole(Vector({"lin": ones}, {"lin.weight": torch.eye(2)}, Origin("", "")))["lin.weight"].tolist()
        [[2.0, 1.0], [1.0, 2.0]]
    """

    def difference(name: str) -> Tensor:
        factors = vector.low_rank.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if factors is None:
            return vector.dense[name]
        if name not in vector.dense:
            return factors.dense()
        plain, product = vector.dense[name], factors.dense()
        if plain.shape != product.shape:
            raise ModelError(
                given=f"{name!r} of {vector} with factors of {tuple(product.shape)} and a difference of "
                f"{tuple(plain.shape)}",
                expected="both of one shape",
                hint="layers that keep their weights transposed, as GPT-2's, cannot be added up in two forms",
            )
        return plain + product

    return LazyTensors(sorted({f"{module}.weight" for module in vector.low_rank} | set(vector.dense)), difference)
