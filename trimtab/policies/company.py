"""Rows of zeros that keep company: with enough rows, a row's numbers are the same whatever the others are.

Libraries multiply a few rows by a matrix in other ways than many rows, which add up in another order; and torch splits
a large tensor among threads wherever it happens to, and computes exponentials where a part ends in another way than
elsewhere. Both make a request's answer depend on whether it runs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_FEW, _FEW_REORDERED = 16, 4
"""Rows from which on a row's product is always the same, for MKL and for weights that oneDNN has reordered.

Measured for 1 to 3000 rows: 12 and 2 would do, but oneDNN multiplies 4 rows as fast as 1, and 2 more slowly.
"""

_PORTION = 32768
"""Elements that torch gives a thread at least."""


def rows_for(count: int, width: int, device: torch.device) -> int:
    """Return how many rows so many tokens are computed with: enough, and as many for each thread.

    Args:
        count: of the tokens.
        width: elements a row of the widest tensor whose elements are looked at one by one.
        device: where they are; elsewhere than on a CPU no rows are added.
    """
    if device.type != "cpu":
        return count
    rows, threads = max(count, _FEW_REORDERED), torch.get_num_threads()
    while extra := -rows % min(threads, -(-rows * width // _PORTION)):
        rows += extra
    return rows


def filled(x: Tensor, rows: int) -> Tensor:
    """Add rows of zeros to a matrix, (M, d), up to a number of rows; the caller drops what becomes of them."""
    missing = rows - x.shape[0]  # len() of a tensor takes a microsecond
    return F.pad(x, (0, 0, 0, missing)) if missing > 0 else x


def in_company(x: Tensor, *, reordered: bool = False) -> Tensor:
    """Add rows of zeros to a matrix of few, (M, d), that will be multiplied on a CPU; the caller drops their products.

    Args:
        x: the matrix.
        reordered: whether it will be multiplied by a weight that oneDNN has reordered.
    """
    return filled(x, _FEW_REORDERED if reordered else _FEW) if x.device.type == "cpu" else x


def multiplied(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x times a matrix, (M, d) times (d, e)."""
    return torch.mm(in_company(x), matrix)[: x.shape[0]]
