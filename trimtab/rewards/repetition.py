"""A reward against repeating oneself."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError
from trimtab.rewards.text import words


@dataclass(frozen=True)
class Repetition:
    """The share of a completion's n-grams that are not repetitions: ``r = |different n-grams| / |n-grams|``.

    A completion of fewer than n words repeats nothing and gets 1.

    Args:
        n: the length of the n-grams, in words (punctuation marks are words).

    Raises:
        ConfigError: ``n`` is not a positive whole number.

    Example:
        >>> Repetition(n=1)(["a"], ["so good so good"])
        [0.5]
    """

    n: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise ConfigError(given=f"n={self.n!r}", expected="a whole number from 1", hint="n=3")

    @property
    def name(self) -> str:
        """The reward with its n."""
        return f"repetition({self.n})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself."""
        return frozenset({self.name})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return a share from 0 (exclusive) to 1 for each completion."""
        return [self._distinct(words(text)) for text in completions]

    def _distinct(self, tokens: list[str]) -> float:
        """The share of different n-grams of one text."""
        grams = [tuple(tokens[i : i + self.n]) for i in range(len(tokens) - self.n + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0
