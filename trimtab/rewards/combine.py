"""Rewards made of rewards: weighted sums and products.

Every part is called through the guard, so that an error names the part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError
from trimtab.rewards.reward import Reward, as_reward
from trimtab.rewards.score import score


@dataclass(frozen=True)
class Sum:
    """A weighted sum of rewards: ``r = sum_i w_i * r_i``.

    Args:
        parts: the rewards, at least one.
        weights: one finite number a part; all 1 if left out.

    Raises:
        ConfigError: there are no parts, one is not a reward, or the weights do not fit.

    Example:
        >>> from trimtab.rewards import Length, Regex
        >>> Sum((Length(2), Regex("film")), weights=(1.0, -0.5))(["a"], ["the film"])
        [0.5]
    """

    parts: tuple[Reward, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        weights = tuple(self.weights) or (1.0,) * len(self.parts)
        if not self.parts or len(weights) != len(self.parts) or not all(map(_is_finite, weights)):
            raise ConfigError(
                given=f"{len(self.parts)} rewards with weights {weights}",
                expected="at least one reward, and one finite weight for each",
                hint="Sum((sentiment, repetition), weights=(1.0, 0.3))",
            )
        object.__setattr__(self, "parts", tuple(as_reward(part) for part in self.parts))
        object.__setattr__(self, "weights", weights)

    @property
    def name(self) -> str:
        """The names of the parts with their weights."""
        return " + ".join(f"{weight:g}*{part.name}" for part, weight in zip(self.parts, self.weights, strict=True))

    @property
    def origins(self) -> frozenset[str]:
        """Everything in the parts."""
        return frozenset().union(*(part.origins for part in self.parts))

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the sum for each completion."""
        scores = [score(part, prompts, completions, columns) for part in self.parts]
        return [sum(w * r for w, r in zip(self.weights, row, strict=True)) for row in zip(*scores, strict=True)]


@dataclass(frozen=True)
class Product:
    """A product of rewards, ``r = prod_i r_i``: for scores from 0 to 1, all of which have to be good.

    Args:
        parts: the rewards, at least one.

    Raises:
        ConfigError: there are no parts, or one is not a reward.

    Example:
        >>> from trimtab.rewards import Length, Repetition
        >>> Product((Length(4), Repetition(1)))(["a"], ["very very good"])
        [0.5]
    """

    parts: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError(
                given="a product of no rewards", expected="at least one", hint="Product((sentiment, repetition))"
            )
        object.__setattr__(self, "parts", tuple(as_reward(part) for part in self.parts))

    @property
    def name(self) -> str:
        """The names of the parts."""
        return " * ".join(f"({part.name})" if isinstance(part, Sum) else part.name for part in self.parts)

    @property
    def origins(self) -> frozenset[str]:
        """Everything in the parts."""
        return frozenset().union(*(part.origins for part in self.parts))

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the product for each completion."""
        scores = [score(part, prompts, completions, columns) for part in self.parts]
        return [math.prod(row) for row in zip(*scores, strict=True)]


def _is_finite(weight: object) -> bool:
    """Whether a weight, perhaps out of a config file, is a finite number."""
    return isinstance(weight, int | float) and math.isfinite(weight)
