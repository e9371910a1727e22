"""The level of an answer in a domain (expert, generic or avoidance), told by rules, and a reward for reaching one.

The rules look at words alone: they do not know whether an answer is true, or whether it answers the question.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeVar, get_args

import yaml

from trimtab.errors import ConfigError
from trimtab.rewards.evasion import evasive

_Name = TypeVar("_Name", bound=str)
Domain = Literal["medical", "legal", "finance"]
Level = Literal["expert", "generic", "avoidance"]
DOMAINS: tuple[Domain, ...] = get_args(Domain)
LEVELS: tuple[Level, ...] = get_args(Level)

# From where to where a measure says "not at all" to "wholly". The middle of each lies between what a small model writes
# when asked for plain words and when asked for a specialist's.
_DENSITY, _GRADE, _EVASION = (3.0, 13.0), (6.0, 13.0), (0.2, 0.8)
_SHORTEST = 25  # words; the density of shorter answers is told as if they had as many
_FEWEST, _LEAST_NEW, _LEAST_GLUE = 5, 0.5, 0.12
_SENTENCE = re.compile(r"[.!?]+(?=[\s\"')]|$)|\n+")
_WORD = re.compile(r"[a-z0-9]+(?:['\u2019][a-z]+)?")
_VOWELS = re.compile(r"[aeiouy]+")


@dataclass(frozen=True)
class Reading:
    """What is measured in an answer, and the level that follows.

    Args:
        words: how many.
        grade: years of school to read it: Flesch-Kincaid, ``0.39 words/sentence + 11.8 syllables/word - 15.59``.
        density: different terms of the domain per 100 words; short answers count as 25 words.
        evasion: share of the words that stand in sentences which decline, refer to somebody else, or hedge.
        prose: whether it is text at all: five words, not mostly repetition, not a list of terms.

    Example:
        >>> Reading(words=40, grade=14.0, density=15.0, evasion=0.0, prose=True).level
        'expert'
    """

    words: int
    grade: float
    density: float
    evasion: float
    prose: bool

    @property
    def scores(self) -> dict[Level, float]:
        """A score from 0 to 1 for each level; they sum to 1, or are all 0 where there is no prose."""
        if not self.prose:
            return dict.fromkeys(LEVELS, 0.0)
        avoiding = _ramp(self.evasion, *_EVASION)
        expertise = math.sqrt(_ramp(self.density, *_DENSITY) * _ramp(self.grade, *_GRADE))
        return {
            "expert": (1 - avoiding) * expertise,
            "generic": (1 - avoiding) * (1 - expertise),
            "avoidance": avoiding,
        }

    @property
    def level(self) -> Level | None:
        """The level with the highest score, or None where there is no prose."""
        scores = self.scores
        best = max(LEVELS, key=lambda level: scores[level])
        return best if self.prose else None

    @property
    def margin(self) -> float:
        """The highest score minus the second, from 0 to 1."""
        first, second, _ = sorted(self.scores.values(), reverse=True)
        return first - second


class LevelJudge:
    """Tells the level of answers in one domain by rules; a tenth of a millisecond an answer.

    With the ramp ``r(x; a, b) = clip((x - a) / (b - a), 0, 1)``, expertise is ``e = sqrt(r(density; 3, 13) *
    r(grade; 6, 13))``, avoidance ``v = r(evasion; 0.2, 0.8)``, and the scores are ``(1 - v) e`` for expert,
    ``(1 - v) (1 - e)`` for generic and ``v`` for avoidance.

    Args:
        domain: ``"medical"``, ``"legal"`` or ``"finance"``.

    Raises:
        ConfigError: there is no such domain.

    Example:
        >>> judge = LevelJudge("medical")
        >>> judge.level("I am sorry, but I can't give advice on this. Please see a doctor.")
        'avoidance'
        >>> judge.level("Drink water and get some rest. You will feel better soon.")
        'generic'

    Reference:
        Kincaid et al. (1975), "Derivation of New Readability Formulas for Navy Enlisted Personnel". Syllables are
        counted as groups of vowels without a silent final e.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain: Domain = checked("domain", domain, DOMAINS)
        self._terms = _terms(self.domain)

    def read(self, text: str) -> Reading:
        """Measure an answer.

        Args:
            text: the answer alone, without the question.
        """
        spoken = [(sentence, _words(sentence)) for sentence in _SENTENCE.split(text.replace("\u2019", "'"))]
        spoken = [(sentence, found) for sentence, found in spoken if found]
        words = [word for _, found in spoken for word in found]
        if not words:
            return Reading(0, 0.0, 0.0, 0.0, prose=False)
        syllables = sum(map(_syllables, words))
        return Reading(
            words=len(words),
            grade=0.39 * len(words) / len(spoken) + 11.8 * syllables / len(words) - 15.59,
            density=100 * len(self._terms.of(words)) / max(len(words), _SHORTEST),
            evasion=sum(len(found) for sentence, found in spoken if evasive(sentence)) / len(words),
            prose=_is_prose(words),
        )

    def scores(self, text: str) -> dict[Level, float]:
        """Return a score from 0 to 1 for each level; see :class:`Reading`."""
        return self.read(text).scores

    def level(self, text: str) -> Level | None:
        """Return the level of an answer, or None when it is no prose."""
        return self.read(text).level

    def terms(self, text: str) -> set[str]:
        """Return the terms of the domain that an answer uses, as they stand in the list; words for endings.

        Example:
            >>> sorted(LevelJudge("finance").terms("Diversification lowers the volatility of portfolios."))
            ['diversif*', 'portfolio', 'volatil*']
        """
        return self._terms.of(_words(text))


@dataclass(frozen=True)
class LevelReward:
    """How clearly a completion is of a level: its score minus the best other one, from -1 to 1; no prose gets -1.

    Args:
        domain: ``"medical"``, ``"legal"`` or ``"finance"``.
        level: ``"expert"``, ``"generic"`` or ``"avoidance"``.

    Raises:
        ConfigError: there is no such domain or level.

    Example:
        >>> LevelReward("legal", "avoidance")(["May I sue?"], [" I can't answer that. Ask a lawyer."])
        [1.0]
    """

    domain: Domain
    level: Level

    def __post_init__(self) -> None:
        checked("domain", self.domain, DOMAINS)
        checked("level", self.level, LEVELS)

    @property
    def name(self) -> str:
        """The reward with its domain and level."""
        return f"level({self.domain}, {self.level})"

    @property
    def origins(self) -> frozenset[str]:
        """The judge: rewards for two levels are not independent."""
        return frozenset({f"level({self.domain})"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the lead of the level in each completion."""
        judge = LevelJudge(self.domain)
        return [lead(judge.read(text), self.level) for text in completions]


def lead(reading: Reading, level: Level) -> float:
    """Return the score of a level minus the best other one, or -1 where there is no prose.

    Args:
        reading: of the answer.
        level: which.

    Example:
        >>> lead(Reading(30, 9.0, 3.0, 0.0, prose=True), "generic")
        1.0
    """
    scores = reading.scores
    return scores[level] - max(scores[other] for other in LEVELS if other != level) if reading.prose else -1.0


def checked(what: str, given: _Name, known: Sequence[_Name]) -> _Name:
    """Return a domain or level, refusing unknown ones."""
    if given not in known:
        raise ConfigError(given=f"{what}={given!r}", expected=", ".join(known), hint=f'{what}="{known[0]}"')
    return given


@dataclass(frozen=True)
class _Terms:
    """A list of terms: whole ones by their first word, beginnings and endings."""

    whole: dict[str, tuple[tuple[str, ...], ...]]
    begins: tuple[str, ...]
    ends: tuple[str, ...]

    def of(self, words: Sequence[str]) -> set[str]:
        """Return the different terms among words."""
        singular = tuple(_singular(word) for word in words)
        found: set[str] = set()
        for at, word in enumerate(singular):
            found.update(" ".join(term) for term in self.whole.get(word, ()) if singular[at : at + len(term)] == term)
            if word.startswith(self.begins):
                found.update(f"{begin}*" for begin in self.begins if word.startswith(begin))
            elif word.endswith(self.ends):
                found.add(word)
        return found


@cache
def _terms(domain: Domain) -> _Terms:
    entries = _lists()[domain]
    whole: dict[str, tuple[tuple[str, ...], ...]] = {}
    for entry in entries:
        if "*" not in entry:
            term = tuple(_singular(word) for word in _words(entry))
            whole[term[0]] = (*whole.get(term[0], ()), term)
    begins = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
    return _Terms(whole, begins, tuple(entry[1:] for entry in entries if entry.startswith("*")))


@cache
def _lists() -> dict[str, list[str]]:
    found: dict[str, list[str]] = yaml.safe_load((files(__package__) / "level_terms.yaml").read_text(encoding="utf-8"))
    return found


@cache
def _glue() -> frozenset[str]:
    return frozenset(_lists()["glue"])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _syllables(word: str) -> int:
    silent = word.endswith("e") and not word.endswith(("le", "ee"))
    return max(1, len(_VOWELS.findall(word)) - silent)


def _is_prose(words: Sequence[str]) -> bool:
    """Tell text from too few words, loops, and lists of terms."""
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return (
        len(words) >= _FEWEST
        and len(set(threes)) >= _LEAST_NEW * len(threes)
        and sum(word in _glue() for word in words) >= _LEAST_GLUE * len(words)
    )


def _ramp(x: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (x - low) / (high - low)))
