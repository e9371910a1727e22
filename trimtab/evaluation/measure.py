"""What is reported of answers: a number over prompts, made of a total and a count that every prompt gives.

The same definition serves the value, its interval and its paired test. It does not know policies or tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.decoding.answer import Answer
from trimtab.evaluation.bootstrap import Tally, Transform
from trimtab.evaluation.metrics import distinct_n, log_ratio_pairs, repetition

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Group:
    """One policy's answers to one prompt.

    Args:
        columns: of the prompt's row, the prompt itself under ``"prompt"``.
        answers: n of them.
        scores: scorer to its score of each answer; None where it had none.
        chosen: whether something else than the policy had a hand in the tokens, so that their KL is not known: a
            search, keywords, or, where KL would be estimated, the settings of sampling.
    """

    columns: Mapping[str, object]
    answers: tuple[Answer, ...]
    scores: Mapping[str, tuple[float | None, ...]]
    chosen: bool = False

    @property
    def texts(self) -> list[str]:
        """The answers alone."""
        return [answer.text for answer in self.answers]

    def scored(self, scorer: str) -> list[float]:
        """Return the scores of the answers that have one."""
        return [score for score in self.scores[scorer] if score is not None]


@dataclass(frozen=True)
class Measure:
    """A number over prompts, ``sum of totals / sum of counts``.

    Args:
        name: of the number.
        note: how to read it.
        tally: total and count of one prompt; (0, 0) where it does not apply.
        better: which way is better, or neither.
        exponential: whether the number is ``exp`` of the ratio.
        digits: behind the point, where it is shown.
    """

    name: str
    note: str
    tally: Callable[[Group], Tally]
    better: Better = "neither"
    exponential: bool = False
    digits: int = 3

    @property
    def transform(self) -> Transform:
        """What is done to the ratio."""
        return np.exp if self.exponential else np.asarray


@dataclass(frozen=True)
class Overall:
    """A number of all answers together, which is no sum over prompts and has no interval.

    Args:
        name: of the number.
        note: how to read it.
        value: of all prompts with their answers.
        better: which way is better, or neither.
        digits: behind the point, where it is shown.
    """

    name: str
    note: str
    value: Callable[[Sequence[Group]], float]
    better: Better = "neither"
    digits: int = 3


def mean_score(scorer: str, note: str = "mean score", better: Better = "higher") -> Measure:
    """Return the mean of a scorer over answers.

    Example:
        >>> mean_score("rt").tally(Group({}, (), {"rt": (0.5, 1.0, None)}))
        (1.5, 2)
    """
    return Measure(scorer, note, lambda group: (sum(group.scored(scorer)), len(group.scored(scorer))), better)


def _kl(group: Group) -> Tally:
    if group.chosen:  # what chose is not in the KL of what proposed
        return (0, 0)
    return (sum(sum(answer.kl) for answer in group.answers), sum(len(answer.kl) for answer in group.answers))


KL = Measure("KL", "to the base, nats a token, exact; not known where a search or keywords chose", _kl)


def _log_ratio(group: Group) -> Tally:
    if group.chosen:
        return (0, 0)
    pairs = [pair for answer in group.answers for pair in log_ratio_pairs(answer)]
    return (sum(own - reference for own, reference in pairs), len(pairs))


ESTIMATED_KL = Measure(
    "KL, estimated",
    "to the base, nats a token: an estimate, the mean of log pi(y) - log pi_base(y) over the sampled tokens; not known "
    "where a search chose, or where a temperature, a cut or a shortest length did",
    _log_ratio,
)

PERPLEXITY = Measure(
    "perplexity",
    "of the answers under the base",
    lambda group: (
        -sum(sum(answer.reference_log_probs) for answer in group.answers),
        sum(len(answer.reference_log_probs) for answer in group.answers),
    ),
    "lower",
    exponential=True,
    digits=1,
)

REPETITION = Measure(
    "repetition",
    "share of repeated word triples in an answer",
    lambda group: (repetition(group.texts, 3) * len(group.answers), len(group.answers)),
    "lower",
)

LENGTH = Measure(
    "tokens",
    "an answer",
    lambda group: (sum(len(answer.token_ids) for answer in group.answers), len(group.answers)),
    digits=1,
)


def distinct(n: int) -> Measure:
    """Return distinct-n over the answers to a prompt, averaged over prompts.

    Example:
        >>> distinct(2).name
        'distinct-2'
    """
    note = f"share of different word {n}-grams among the answers to a prompt"
    return Measure(f"distinct-{n}", note, lambda group: (distinct_n(group.texts, n), 1), "higher")
