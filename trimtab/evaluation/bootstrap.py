"""How far a mean over prompts may be from the truth: bootstrap intervals, of a mean and of a paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as ``mean [low, high]``."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Return the percentile interval of a mean: quantiles of the means of samples drawn with replacement.

    For two methods on the same prompts pass the differences, prompt by prompt: what prompts have in common drops out.

    Args:
        values: one a prompt.
        level: probability that the interval covers the mean.
        draws: number of samples.
        seed: of the samples.

    Raises:
        ConfigError: there are no values.

    Example:
        >>> print(bootstrap([0.0, 1.0] * 50))
        0.500 [0.400, 0.600]

    Reference: Efron (1979), Bootstrap Methods: Another Look at the Jackknife.
    """
    if not values:
        raise ConfigError(given="no values", expected="at least one to take a mean of", hint="evaluate more prompts")
    numbers = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(numbers), (draws, len(numbers)))
    means = numbers[picks].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high))
