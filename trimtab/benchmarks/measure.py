"""One number of a benchmark: two medians, their ratio, how far it spreads, and what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from trimtab.benchmarks.timing import ratio_of_medians, spread


@dataclass(frozen=True)
class Asked:
    """What is asked of a ratio.

    Example:
        >>> Asked("<=", 1.35).holds(1.2), str(Asked("<=", 1.35))
        (True, '<= 1.35')
    """

    sense: Literal["<=", ">="]
    bound: float

    def holds(self, ratio: float) -> bool:
        """Return whether a ratio is what was asked."""
        return ratio <= self.bound if self.sense == "<=" else ratio >= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}"


def at_most(bound: float) -> Asked:
    """Ask for a ratio that is not above a bound."""
    return Asked("<=", bound)


def at_least(bound: float) -> Asked:
    """Ask for a ratio that is not below a bound."""
    return Asked(">=", bound)


@dataclass(frozen=True)
class Measure:
    """One number of a suite.

    Args:
        name: what is compared with what.
        ours: median of the first side.
        theirs: median of the second side.
        unit: of both, such as "ms a step".
        ratio: ``ours / theirs`` unless the name says otherwise.
        spread: smallest and largest ratio of a single round.
        asked: what the ratio should be; None where the number only helps to read the others.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    spread: tuple[float, float]
    asked: Asked | None = None

    @property
    def bound(self) -> float | None:
        """The number that the ratio is held against."""
        return None if self.asked is None else self.asked.bound

    @property
    def holds(self) -> bool | None:
        """Whether the ratio is what was asked; None where nothing was."""
        return None if self.asked is None else self.asked.holds(self.ratio)

    @classmethod
    def of_times(
        cls,
        name: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        asked: Asked | None = None,
        *,
        unit: str = "ms a step",
    ) -> Measure:
        """Compare seconds of two sides, round by round; smaller is better, medians are shown in milliseconds.

        Example:
            >>> Measure.of_times("a over b", [0.002, 0.003, 0.003], [0.002, 0.002, 0.002], at_most(1.35)).holds
            False
        """
        medians = (1e3 * median(ours), 1e3 * median(theirs))
        return cls(name, *medians, unit, ratio_of_medians(ours, theirs), spread(ours, theirs), asked)

    @classmethod
    def of_rates(
        cls, name: str, ours: Sequence[float], theirs: Sequence[float], tokens: int, asked: Asked | None = None
    ) -> Measure:
        """Compare tokens per second of two sides; larger is better.

        Args:
            name: what is compared with what.
            ours: seconds of the first side, one number a round.
            theirs: seconds of the second side.
            tokens: that each of them generates.
            asked: of the ratio of the rates.

        Example:
            >>> Measure.of_rates("a over b", [0.5], [1.0], tokens=64, asked=at_least(1.6)).ratio
            2.0
        """
        rates = [[tokens / spent for spent in side] for side in (ours, theirs)]
        medians = (median(rates[0]), median(rates[1]))
        return cls(name, *medians, "tokens/s", ratio_of_medians(*rates), spread(*rates), asked)

    @classmethod
    def of_share(cls, name: str, whole: Sequence[float], part: Sequence[float], asked: Asked | None = None) -> Measure:
        """Say which share of one side's time the other side does not take: ``1 - part / whole``.

        Example:
            >>> Measure.of_share("the rest", [4.0, 4.0], [3.0, 3.0]).ratio
            0.25
        """
        low, high = spread(part, whole)
        ratio = 1.0 - ratio_of_medians(part, whole)
        medians = (1e3 * median(whole), 1e3 * median(part))
        return cls(name, *medians, "ms a step", ratio, (1.0 - high, 1.0 - low), asked)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "ours": self.ours,
            "theirs": self.theirs,
            "unit": self.unit,
            "ratio": self.ratio,
            "spread": list(self.spread),
            "asked": None if self.asked is None else str(self.asked),
            "bound": self.bound,
            "holds": self.holds,
        }
