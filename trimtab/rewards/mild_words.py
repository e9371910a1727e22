"""A scorer of harsh language by degrees: words that people rated as negative, from VADER's lexicon."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import ConfigError
from trimtab.rewards.extras import extra
from trimtab.rewards.text import Scope, scoped

_HARSH = -1.5
_LOWEST = -4.0
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


@dataclass(frozen=True)
class MildWords:
    """``r = 1 / (1 + sum of h(w))`` over a completion's words, with ``h(w) = -valence(w) / 4`` for harsh ones, else 0.

    A word is harsh that ten people rated -1.5 or less on a scale from -4 to 4: insults and swearing, but also "war" and
    "dead". Where a list of bad words is silent about most answers, this tells nearly all of them apart.

    Args:
        valences: word in lower case to its mean rating, from -4 to 4.
        scope: ``"completion"`` scores the continuation alone, ``"text"`` the prompt and the continuation.

    Raises:
        ConfigError: no word is harsh, or there is no such scope.

    Reference:
        Hutto and Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text";
        its ratings alone, without its rules for negation and emphasis.

    Example:
        >>> MildWords({"idiot": -2.0, "sad": -1.0})(["a", "b"], ["You idiot, IDIOT!", "How sad"])
        [0.5, 1.0]
    """

    valences: Mapping[str, float]
    scope: Scope = "completion"

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])
        if not any(valence <= _HARSH for valence in self.valences.values()):
            raise ConfigError(
                given=f"{len(self.valences)} words, none of them rated {_HARSH:g} or less",
                expected="words with ratings from -4 to 4, some of them harsh",
                hint="MildWords.load()",
            )

    @classmethod
    def load(cls, scope: Scope = "completion") -> "MildWords":
        """Return the scorer with VADER's lexicon of 7,500 words.

        Args:
            scope: what is scored.

        Raises:
            ConfigError: vaderSentiment is not installed.
        """
        return cls(extra("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer().lexicon, scope)

    @property
    def name(self) -> str:
        """The scorer with its scope, if that is not the default."""
        return "mild-words" if self.scope == "completion" else f"mild-words({self.scope})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself and the lexicon."""
        return frozenset({"mild-words", "vader"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return a number from 0 (exclusive) to 1 for each completion."""
        return [1 / (1 + self._harshness(text)) for text in scoped(self.scope, prompts, completions)]

    def _harshness(self, text: str) -> float:
        """Return the sum over the words of a text; the harshest possible word counts 1."""
        found = (self.valences.get(word, 0.0) for word in _WORD.findall(text.lower().replace("\u2019", "'")))
        return sum(valence / _LOWEST for valence in found if valence <= _HARSH)
