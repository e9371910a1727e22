"""A reward for saying given words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Keywords:
    """The share of the given words or phrases that a completion contains.

    ``r = |{k in words : k occurs in the completion}| / |words|``, whole words, upper and lower case alike.

    Args:
        words: words or phrases, at least one.

    Raises:
        ConfigError: no words, or an empty one.

    Example:
        >>> Keywords(("sun", "sea"))(["We saw"], [" the Sun, and seals"])
        [0.5]
    """

    words: Sequence[str]

    def __post_init__(self) -> None:
        listed = isinstance(self.words, list | tuple) and len(self.words) > 0
        if not listed or not all(isinstance(word, str) and word.strip() for word in self.words):
            raise ConfigError(
                given=f"words={self.words!r}", expected="a list of words or phrases", hint='words=["sun", "sea"]'
            )
        object.__setattr__(self, "words", tuple(self.words))

    @property
    def name(self) -> str:
        """The reward with its words."""
        return f"keywords({', '.join(self.words)})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself."""
        return frozenset({self.name})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return a share from 0 to 1 for each completion."""
        # \b would ask for a word character inside the keyword, and "C++" ends without one.
        patterns = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE) for word in self.words]
        return [sum(bool(p.search(text)) for p in patterns) / len(patterns) for text in completions]
