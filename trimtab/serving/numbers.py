"""Numbers as JSON has them: it knows no infinity, which impossible tokens have, and no NaN."""

from __future__ import annotations

import math
from typing import Any

IMPOSSIBLE = -9999.0
"""What OpenAI's API tells instead of the log-probability of a token that is all but impossible."""


def told(log_prob: float) -> float:
    """Return a log-probability as OpenAI's fields have it.

    Example:
        >>> told(-1.5), told(-math.inf)
        (-1.5, -9999.0)
    """
    return log_prob if math.isfinite(log_prob) else IMPOSSIBLE


def finite(value: Any) -> Any:
    """Return plain values with null in the place of every number that is not finite.

    Example:
        >>> finite({"kl": math.inf, "all": [1.0, math.nan, "a"]})
        {'kl': None, 'all': [1.0, None, 'a']}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
