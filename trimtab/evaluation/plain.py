"""Results as plain values that every reader of JSON takes: what is not finite has no number there.

Six digits are kept: every token of every answer has its numbers in a file of results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return mappings, sequences and scalars, numbers with six digits, and None in the place of NaN and infinities.

    Args:
        value: such as ``asdict`` returns.

    Example:
        >>> plain({"BLEU": math.nan, "log_probs": (-4.0, -1 / 3)})
        {'BLEU': None, 'log_probs': [-4.0, -0.333333]}
    """
    match value:
        case float():
            return float(f"{value:.6g}") if math.isfinite(value) else None
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value
