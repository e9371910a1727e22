"""What a vector changes: its norm by layer and kind of module."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trimtab.policies.vector import Vector
from trimtab.vectors.mask import layer_of
from trimtab.vectors.whole import whole


@dataclass(frozen=True)
class Norm:
    """How much a vector changes one tensor.

    Args:
        name: of the tensor.
        layer: its layer, or None for what belongs to none.
        kind: the last part of its module's name, such as "q_proj"; of a bias, with ".bias".
        norm: Frobenius norm of the difference.
        size: number of values.
        rank: of its low-rank factors, or None for a plain difference.
    """

    name: str
    layer: int | None
    kind: str
    norm: float
    size: int
    rank: int | None

    @property
    def rms(self) -> float:
        """Root of the mean square: what a single value is changed by, so that tensors of all sizes compare."""
        return self.norm / math.sqrt(self.size)


def norms(vector: Vector) -> list[Norm]:
    """Measure every tensor of a vector, one in memory at a time.

    Args:
        vector: any.

    Returns:
        One entry a tensor, by name.

    Example:
        >>> import torch
        >>> from trimtab.policies.vector import Origin
        >>> vector = Vector({}, {"model.layers.3.mlp.up_proj.weight": torch.tensor([[3.0, 4.0]])}, Origin("", ""))
        >>> norms(vector)[0]
        Norm(name='model.layers.3.mlp.up_proj.weight', layer=3, kind='up_proj', norm=5.0, size=2, rank=None)
    """
    tensors, found = whole(vector), []
    for name in tensors:
        module = name.rpartition(".")[0]
        factors = vector.low_rank.get(module) if name.endswith(".weight") and name not in vector.dense else None
        difference = tensors[name]
        kind = module.rpartition(".")[2] + ("" if name.endswith(".weight") else f".{name.rpartition('.')[2]}")
        norm = float(difference.double().square().sum().sqrt())
        rank = None if factors is None else factors.rank
        found.append(Norm(name, layer_of(module), kind, norm, difference.numel(), rank))
    return found
