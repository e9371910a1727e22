"""What an experiment with preference vectors measures, as checked values that are kept as JSON.

A combination is a level for every domain; an attempt is one way's try at one combination, on questions that neither
training nor the search for coefficients has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.training.settings import Section
from trimtab.vectors.preference import Preference


class Asked(Section):
    """What became of questions that were asked at every level.

    Args:
        asked: questions.
        kept: those with an answer of every level.
        reached: level to the share that got one, of those still in the race.
        seconds: of asking.
    """

    asked: int
    kept: int
    reached: dict[str, float]
    seconds: float


class Trained(Section):
    """A training run.

    Args:
        seconds: wall-clock, loading included.
        measured: on data held out from training.
    """

    seconds: float
    measured: dict[str, float]


class Measured(Section):
    """Preferences at one point.

    Args:
        at: knob to value.
        found: what is preferred there.
    """

    at: dict[str, float]
    found: Preference


class Curves(Section):
    """Preferences over the coefficient of one vector at a time.

    Args:
        points: vector to its points, in the order of the coefficient; all have the point 0.
        seconds: of measuring.
    """

    points: dict[str, tuple[Measured, ...]]
    seconds: float

    def base(self) -> Preference:
        """Return what is preferred where every coefficient is 0."""
        return next(each.found for points in self.points.values() for each in points if not any(each.at.values()))

    def at(self, vector: str, amount: float) -> Preference:
        """Return what is preferred at a coefficient that was measured."""
        return next(each.found for each in self.points[vector] if each.at[vector] == amount)


class Attempt(Section):
    """One way's try at one combination.

    Args:
        target: domain to the wanted level.
        at: knob to value, where there are knobs.
        found: what is preferred.
    """

    target: dict[str, str]
    at: dict[str, float]
    found: Preference

    @property
    def reached(self) -> bool:
        """Whether in every domain no level is preferred more often than the wanted one."""
        return self.found.reaches(self.target)

    @property
    def accuracy(self) -> float:
        """The share of the questions whose answer of the wanted level is the likeliest, mean of the domains."""
        return sum(self.found.shares[domain][level] for domain, level in self.target.items()) / len(self.target)


class Way(Section):
    """A way to combinations.

    Args:
        attempts: one a combination.
        preparing: seconds before it can be used for all of them: searching coefficients, or training.
        measuring: seconds of the attempts.
        prompt_tokens: what is read before an answer, mean of the questions.
        searched: how many combinations were reached on the questions that coefficients were chosen by; None where
            there is nothing to choose.
    """

    attempts: tuple[Attempt, ...]
    preparing: float
    measuring: float
    prompt_tokens: float
    searched: int | None = None

    @property
    def reached(self) -> int:
        """How many combinations were reached."""
        return sum(each.reached for each in self.attempts)

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the attempts."""
        return sum(each.accuracy for each in self.attempts) / len(self.attempts)


class Transfer(Section):
    """Vectors of the base on a sibling.

    Args:
        sibling: how it was made.
        curves: over one coefficient at a time.
        way: the combinations at the coefficients that were found on the base.
    """

    sibling: Trained
    curves: Curves
    way: Way


class Speed(Section):
    """Seconds of measuring some points of the search in two manners.

    Args:
        points: how many.
        together: all in common batches, nothing merged.
        merging: one after another: adding the vectors to the weights and writing them.
        reloading: reading them.
        measuring: asking the questions.
        difference: largest difference of mean leads between the manners, nats a token.
    """

    points: int
    together: float
    merging: float
    reloading: float
    measuring: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times faster it is together."""
        return (self.merging + self.reloading + self.measuring) / self.together


class Answered(Section):
    """Generated answers to questions of a domain, and their levels as the judge tells them.

    Args:
        domain: of the questions.
        writer: who wrote them: "prompt" or "examples" with the level that was asked for, or "vector".
        wanted: the level that was asked for; of vectors, the coefficient.
        levels: the level of each answer, or None where it is no prose.
        texts: the answers.
        kl: mean KL to the base, nats a token.
    """

    domain: str
    writer: str
    wanted: str
    levels: tuple[str | None, ...]
    texts: tuple[str, ...]
    kl: float

    def share(self, level: str | None) -> float:
        """Return the share of the answers of a level."""
        return sum(each == level for each in self.levels) / len(self.levels)


class Generated(Section):
    """All generated answers.

    Args:
        answered: by domain and writer.
        seconds: of generating.
    """

    answered: tuple[Answered, ...]
    seconds: float


class LevelResults(Section):
    """Everything that the experiment measured.

    Args:
        settings: of the experiment.
        questions: domain to the number of unseen questions behind every share.
        data: domain and split to what became of the questions.
        vectors: domain to the training of its vector.
        joint: the training of each adapter for one combination, in the order of the attempts of the way "joint".
        curves: over one coefficient at a time.
        dera: the same on the side of logits.
        ways: name to a way to the combinations.
        transfer: to a sibling.
        speed: of the search.
        generated: answers.
    """

    settings: dict[str, Any]
    questions: dict[str, int]
    data: dict[str, Asked]
    vectors: dict[str, Trained]
    joint: tuple[Trained, ...]
    curves: Curves
    dera: Curves
    ways: dict[str, Way]
    transfer: Transfer
    speed: Speed
    generated: Generated


def leakage(curves: Curves, amount: float, level: str) -> dict[str, dict[str, float]]:
    """Return by how much each vector changes each domain's share of a level, against the base.

    Args:
        curves: with that coefficient.
        amount: the coefficient.
        level: whose share.

    Returns:
        Vector to domain to the change.
    """
    base = curves.base()
    return {
        vector: {
            domain: shares[level] - base.shares[domain][level]
            for domain, shares in curves.at(vector, amount).shares.items()
        }
        for vector in curves.points
    }


def combination_name(target: Mapping[str, str], domains: Sequence[str]) -> str:
    """Return the first letters of a combination's levels.

    Example:
        >>> combination_name({"legal": "generic", "medical": "expert"}, ["medical", "legal"])
        'EG'
    """
    return "".join(target[domain][0].upper() for domain in domains)
