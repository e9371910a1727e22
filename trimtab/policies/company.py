"""Rows of zeros for products of few rows.

Libraries multiply a few rows by a matrix in other ways than many rows, which add up in another order. With at least so
many rows a row's product is the same, bit for bit, however many others there are: it does not matter whether a request
runs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_FEW, _FEW_REORDERED = 16, 4
"""Rows from which on a row's product is always the same, for MKL and for weights that oneDNN has reordered.

Measured for 1 to 2048 rows: 12 and 2 would do, but oneDNN multiplies 4 rows as fast as 1, and 2 more slowly.
"""


def in_company(x: Tensor, *, reordered: bool = False) -> Tensor:
    """Add rows of zeros to a matrix of few, (M, d), on a CPU; the caller drops what becomes of them.

    Args:
        x: the matrix.
        reordered: whether it will be multiplied by a weight that oneDNN has reordered.
    """
    missing = (_FEW_REORDERED if reordered else _FEW) - len(x)
    return F.pad(x, (0, 0, 0, missing)) if missing > 0 and x.device.type == "cpu" else x


def multiplied(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x times a matrix, (M, d) times (d, e)."""
    return torch.mm(in_company(x), matrix)[: len(x)]
