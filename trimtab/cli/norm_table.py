"""The norms of a vector as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from trimtab.vectors.inspect import Norm


def norm_table(norms: Sequence[Norm]) -> Table:
    """Return a table with a row a layer and a column a kind of module; what belongs to no layer comes last.

    Args:
        norms: of a vector's tensors.
    """
    kinds = list(dict.fromkeys(each.kind for each in norms if each.layer is not None))
    table = Table("layer", *(_short(kind) for kind in kinds), title="Frobenius norm of the change")
    for layer in sorted({each.layer for each in norms if each.layer is not None}):
        own = {each.kind: each.norm for each in norms if each.layer == layer}
        table.add_row(str(layer), *(f"{own[kind]:.3g}" if kind in own else "" for kind in kinds))
    for each in norms:
        if each.layer is None:
            table.add_row(each.kind, f"{each.norm:.3g}")
    return table


def _short(kind: str) -> str:
    """Leave out what the names of most modules end in, so that all columns fit."""
    name, dot, rest = kind.partition(".")
    return name.removesuffix("_proj").removesuffix("_layernorm") + dot + rest
