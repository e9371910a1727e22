"""Measuring preferences of levels over coefficients of vectors, on the side of weights and on the side of logits.

Everything here is by the likelihood of stored answers; nothing is trained and nothing sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from trimtab.errors import ConfigError
from trimtab.evaluation.level_results import Attempt, Curves, Measured
from trimtab.policies.base import Policy
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.recipes import dera
from trimtab.policies.vector import Vector
from trimtab.rewards.level import LEVELS, Domain, Level
from trimtab.tasks.levels import Triple
from trimtab.vectors.preference import Point, Question, preferences
from trimtab.vectors.search import Target

Vectors = Mapping[str, Vector]
"""Domain to its vector."""


@dataclass(frozen=True)
class Held:
    """Held-out questions.

    Args:
        search: domain to those that coefficients are chosen by.
        final: domain to those that everything is measured on.
    """

    search: Mapping[Domain, Sequence[Triple]]
    final: Mapping[Domain, Sequence[Triple]]

    @staticmethod
    def split(triples: Mapping[Domain, Sequence[Triple]], search: int, final: int) -> Held:
        """Divide the questions of every domain.

        Args:
            triples: domain to all there are.
            search: how many of a domain are for the search.
            final: how many of the others, at most, are for the rest.

        Raises:
            ConfigError: a domain has too few.
        """
        for domain, each in triples.items():
            if len(each) <= search:
                raise ConfigError(
                    given=f"{len(each)} held-out questions of the domain {domain} with an answer of every level",
                    expected=f"more than the {search} that coefficients are chosen by",
                    hint="raise data.test, or lower questions.search",
                )
        return Held(
            {domain: each[:search] for domain, each in triples.items()},
            {domain: each[search : search + final] for domain, each in triples.items()},
        )


def questions(triples: Mapping[Domain, Sequence[Triple]], lm: LM, shown: Callable[[str], str] = str) -> list[Question]:
    """Return triples as questions whose answers are compared.

    Args:
        triples: by domain.
        lm: whose tokens they become.
        shown: turns a query into the prompt; views put what they show around the query itself.
    """
    vocabulary = lm.vocabulary
    return [
        Question(
            domain,
            tuple(vocabulary.encode(shown(each.query))),
            {level: tuple(vocabulary.encode_answer(each.answer(level))) for level in LEVELS},
        )
        for domain, own in triples.items()
        for each in own
    ]


def steered(base: LM, vectors: Vectors, reach: float) -> LM:
    """Return a model with a knob for each vector, named after its domain, from -reach to reach."""
    return reduce(lambda lm, domain: lm + Knob(domain, 0.0, min=-reach, max=reach) * vectors[domain], vectors, base)


def realigned(base: LM, vectors: Vectors, reach: float) -> Policy:
    """Return the same knobs on the side of logits, ``base * prod_d ((base + v_d) / base)^lambda_d``.

    Reference: Liu et al. (2024), Decoding-time Realignment of Language Models; with one vector this is theirs.
    Deviation: several aligned models, whose log-ratios add up.
    """
    policy: Policy = base
    for domain, vector in vectors.items():
        policy = policy * ((base + vector) / base) ** Knob(domain, 0.0, min=-reach, max=reach)
    return policy


def curves(base: LM, vectors: Vectors, asked: Sequence[Question], amounts: Sequence[float]) -> Curves:
    """Measure every domain over the coefficient of each vector, all in common batches.

    Args:
        base: what the vectors are added to.
        vectors: by domain.
        asked: questions of all domains.
        amounts: the coefficients; 0 is measured too.
    """
    started, policy = time.perf_counter(), steered(base, vectors, reach(amounts))
    zero = dict.fromkeys(vectors, 0.0)
    points = [{**zero, domain: amount} for domain in vectors for amount in sorted({*amounts, 0.0})]
    return _curves(vectors, measured(policy, asked, points), started)


def dera_curves(base: LM, vectors: Vectors, asked: Sequence[Question], amounts: Sequence[float]) -> Curves:
    """Measure the same on the side of logits, where the base and each aligned model are mixed token by token."""
    started, found, most = time.perf_counter(), list[Measured](), reach(amounts)
    for domain, vector in vectors.items():
        policy = dera(base, base + vector, Knob(domain, 0.0, min=-most, max=most))
        found += measured(policy, asked, [{domain: amount} for amount in sorted({*amounts, 0.0})])
    return _curves(vectors, found, started)


def attempts(
    policy: Policy, asked: Sequence[Question], wanted: Sequence[tuple[Target, Point]]
) -> tuple[tuple[Attempt, ...], float]:
    """Try combinations at given points, each point once; returns the attempts and the seconds that they took."""
    started = time.perf_counter()
    found = measured(policy, asked, [point for _, point in wanted])
    tried = tuple(
        Attempt(target=dict(target), at=each.at, found=each.found)
        for (target, _), each in zip(wanted, found, strict=True)
    )
    return tried, time.perf_counter() - started


def measured(policy: Policy, asked: Sequence[Question], points: Sequence[Point]) -> list[Measured]:
    """Measure what a policy prefers at some points; a point that comes twice is measured once."""
    different = {tuple(sorted(point.items())): dict(point) for point in points}
    found = dict(zip(different, preferences(policy, asked, list(different.values())), strict=True))
    return [Measured(at=dict(point), found=found[tuple(sorted(point.items()))]) for point in points]


def plain(target: Mapping[Domain, Level]) -> dict[str, str]:
    """Return a combination as a target."""
    return {str(domain): str(level) for domain, level in target.items()}


def reach(amounts: Sequence[float]) -> float:
    """Return the largest size of a coefficient, 1 at least."""
    return max(1.0, *map(abs, amounts))


def prompt_tokens(asked: Sequence[Question], extra: Sequence[int] = (0,)) -> float:
    """Return how many tokens are read before an answer, the mean of questions plus the mean of what views add."""
    return sum(len(each.prompt) for each in asked) / len(asked) + sum(extra) / len(extra)


def _curves(vectors: Vectors, found: Sequence[Measured], started: float) -> Curves:
    """Hand every vector its share of the points, which are equally many for each."""
    count = len(found) // len(vectors)
    points = {domain: tuple(found[place * count : (place + 1) * count]) for place, domain in enumerate(vectors)}
    return Curves(points=points, seconds=time.perf_counter() - started)
