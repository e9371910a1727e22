"""A reward for matching a pattern."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Regex:
    """1 for a completion in which a regular expression is found, 0 for the others.

    Args:
        pattern: a regular expression of Python's ``re``; write ``(?i)`` in front to ignore case.

    Raises:
        ConfigError: the pattern is not a regular expression.

    Example:
        >>> Regex(r"\\d+ euros?")(["a", "b"], [" costs 5 euros", " is free"])
        [1.0, 0.0]
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(
                given=f"pattern={self.pattern!r} ({error})",
                expected="a regular expression of Python's re module",
                hint="escape characters that are meant literally with a backslash",
            ) from error

    @property
    def name(self) -> str:
        """The reward with its pattern."""
        return f"regex({self.pattern})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself."""
        return frozenset({self.name})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return 0 or 1 for each completion."""
        pattern = re.compile(self.pattern)
        return [float(pattern.search(text) is not None) for text in completions]
