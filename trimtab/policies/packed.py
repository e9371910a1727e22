"""Frozen linear maps, laid out the way the processor reads them fastest.

On CPUs oneDNN multiplies a few rows by a weight two to three times faster when the weight has been reordered once. The
reordered copy takes the weight's memory a second time, so it is only made where there is plenty. Elsewhere, and on
other devices, the weight is used as it is.
"""

from __future__ import annotations

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.company import in_company

_MEMORY_SHARE = 0.5
"""Largest share of the free memory that reordered copies of one model may take."""


class Packed:
    """A frozen linear map ``x -> x W' + b`` of one or several weights stacked along their outputs.

    Args:
        weights: matrices (out_i, in) that read the same input.
        biases: their biases, each (out_i,) or all None.
        reorder: whether to make a reordered copy, see :func:`can_reorder`.
    """

    def __init__(self, weights: list[Tensor], biases: list[Tensor | None], *, reorder: bool) -> None:
        self._parts = list(zip(weights, biases, strict=True))
        self._reordered: tuple[Tensor, Tensor | None] | None = None
        if reorder:
            present = [bias for bias in biases if bias is not None]
            bias = torch.cat(present) if len(present) == len(biases) else None
            self._reordered = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights), 1), bias
            self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """Map rows, (M, in) to (M, out)."""
        if self._reordered is not None:
            weight, bias = self._reordered
            rows = in_company(x, reordered=True)
            mapped: Tensor = self._multiply(rows, weight, bias, "none", [], "")
            return mapped if rows is x else mapped[: x.shape[0]]
        rows = in_company(x)
        outputs = [F.linear(rows, weight, bias)[: len(x)] for weight, bias in self._parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def can_reorder(weight: Tensor, total_bytes: int) -> bool:
    """Return whether weights like this one can be reordered, and there is memory for copies of this size.

    Args:
        weight: one of the weights.
        total_bytes: of all copies together.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        known = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    else:
        known = weight.dtype == torch.float32
    return known and total_bytes < _MEMORY_SHARE * psutil.virtual_memory().available
