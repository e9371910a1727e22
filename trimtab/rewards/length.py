"""A reward for answers of a given length."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Length:
    """How near a completion is to a length in words: ``r = max(0, 1 - |n - target| / target)``.

    Args:
        target: the length at which the reward is 1, in words separated by white space.

    Raises:
        ConfigError: ``target`` is not a positive whole number.

    Example:
        >>> Length(target=4)(["a", "b"], ["one two three", "one " * 8])
        [0.75, 0.0]
    """

    target: int

    def __post_init__(self) -> None:
        if not isinstance(self.target, int) or self.target < 1:
            raise ConfigError(given=f"target={self.target!r}", expected="a number of words from 1", hint="target=20")

    @property
    def name(self) -> str:
        """The reward with its target."""
        return f"length({self.target})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself."""
        return frozenset({self.name})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return a number from 0 to 1 for each completion."""
        return [max(0.0, 1 - abs(len(text.split()) - self.target) / self.target) for text in completions]
