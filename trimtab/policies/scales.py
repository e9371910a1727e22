"""How strongly each row uses each adapter of its trunk: 1 for a guide's own, a vector's coefficient, 0 for others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.knob import Exponent, KnobValues

Loads = Mapping[str, Exponent]
"""Adapter name to its strength in a leaf."""


@dataclass(frozen=True, eq=False)
class Scales:
    """The strengths of A adapters in N rows.

    Args:
        names: the adapters, in order.
        values: shape (N, A), float32, on the CPU.
    """

    names: tuple[str, ...]
    values: Tensor

    @staticmethod
    def of(leaves: Sequence[Loads], count: int, knobs: KnobValues) -> Scales:
        """Make the scales of K leaves for some sequences, the K rows of a sequence next to each other.

        An adapter that no row uses is left out, so that rows whose vectors are all at 0 are the base, bit for bit.

        Args:
            leaves: what each leaf uses.
            count: number of sequences.
            knobs: the sequences' knob values.
        """
        names = sorted({name for loads in leaves for name in loads})
        values = torch.zeros((count, len(leaves), len(names)))
        for place, loads in enumerate(leaves):
            for name, strength in loads.items():
                values[:, place, names.index(name)] = torch.as_tensor(strength.values(knobs))
        used = values.any(0).any(0) if names else torch.zeros(0, dtype=torch.bool)
        kept = [name for name, each in zip(names, used.tolist(), strict=True) if each]
        return Scales(tuple(kept), values[..., used].flatten(0, 1))

    def select(self, rows: Tensor) -> Scales:
        """Keep these rows, in this order."""
        if torch.equal(rows, torch.arange(len(self.values))):
            return self
        return Scales(self.names, self.values[rows])

    def join(self, other: Scales) -> Scales:
        """Append rows."""
        names = tuple(sorted({*self.names, *other.names}))
        return Scales(names, torch.cat([self.over(names), other.over(names)]))

    def over(self, names: Sequence[str]) -> Tensor:
        """Return the strengths of these adapters, 0 where a row does not know one; shape (N, len(names))."""
        values = torch.zeros((len(self.values), len(names)))
        values[:, [names.index(name) for name in self.names]] = self.values
        return values
