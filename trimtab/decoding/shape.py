"""How wide, how long and how strict a search is: its settings as a value; named methods are functions that return one.

Every method is the same loop: propose chunks, score, keep, repeat. Which candidates are kept is a rule of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Candidate:
    """What may be kept at a boundary.

    Args:
        score: of the answer so far.
        before: its score at the boundary before, 0 at the first.
        parent: number of the beam it came from.
        finished: whether it ends here.
    """

    score: float
    before: float
    parent: int
    finished: bool


@dataclass(frozen=True)
class Best:
    """Keep the best W of all candidates, finished answers among them; a beam may take every place.

    Args:
        per_parent: keep the best of each beam instead, which keeps beams apart.
    """

    per_parent: bool = False

    def pick(self, candidates: Sequence[Candidate], beams: int, random: np.random.Generator) -> list[int]:
        """Return which candidates are kept, best first; of equals the earlier one."""
        order = sorted(range(len(candidates)), key=lambda i: -candidates[i].score)
        if not self.per_parent:
            return order[:beams]
        parents = dict.fromkeys(each.parent for each in candidates)
        return [next(i for i in order if candidates[i].parent == parent) for parent in parents][:beams]


@dataclass(frozen=True)
class Resample:
    """Draw W candidates with weights ``exp((V_now - V_before) / temperature)``: sequential Monte Carlo.

    Args:
        temperature: of the weights, in units of the value.

    Reference: Zhao et al. (2024), Probabilistic Inference in Language Models via Twisted Sequential Monte Carlo.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                given=f"temperature={self.temperature} of a resampling", expected="a number above 0", hint="raise it"
            )

    def pick(self, candidates: Sequence[Candidate], beams: int, random: np.random.Generator) -> list[int]:
        """Return which candidates are kept, some of them more than once."""
        gains = np.array([(each.score - each.before) / self.temperature for each in candidates])
        weights = np.exp(gains - gains.max())
        # One number for all places, evenly spread: the same expectation as separate draws, with less noise.
        places = (random.random() + np.arange(beams)) / beams
        ends = np.cumsum(weights) / weights.sum()
        return [min(int(i), len(ends) - 1) for i in np.searchsorted(ends, places, side="right")]


@dataclass(frozen=True)
class Cut:
    """Drop a share of the unfinished candidates at every boundary, and keep finished answers.

    Args:
        share: how many are dropped, from 0 up to but not including 1.

    Reference: Sun et al. (2024), Fast Best-of-N Decoding via Speculative Rejection.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(given=f"share={self.share}", expected="from 0 up to but not including 1", hint="lower it")

    def pick(self, candidates: Sequence[Candidate], beams: int, random: np.random.Generator) -> list[int]:
        """Return which candidates are kept, best first."""
        order = sorted(range(len(candidates)), key=lambda i: -candidates[i].score)
        alive = [i for i in order if not candidates[i].finished]
        return alive[: math.ceil(len(alive) * (1 - self.share))]


Keep = Best | Resample | Cut


@dataclass(frozen=True)
class Shape:
    """The settings of a search.

    Args:
        beams: hypotheses that are kept, W.
        branches: continuations of each, K; W * K rows run at once.
        chunk: tokens between two boundaries, L; None for whole answers.
        keep: who is kept at a boundary.

    Raises:
        ConfigError: a number is below 1.
    """

    beams: int = 4
    branches: int = 4
    chunk: int | None = 5
    keep: Keep = field(default_factory=Best)

    def __post_init__(self) -> None:
        for name, number in (("beams", self.beams), ("branches", self.branches), ("chunk", self.chunk)):
            if number is not None and number < 1:
                raise ConfigError(given=f"{name}={number}", expected="at least 1", hint=f"raise {name}")

    @property
    def rows(self) -> int:
        """Rows of one prompt that run at once, W * K."""
        return self.beams * self.branches


def best_of_n(n: int) -> Shape:
    """Sample n answers and keep the best.

    Its KL to the policy is at most ``log n - (n - 1) / n`` nats.

    Reference: Beirami et al. (2024), Theoretical Guarantees on the Best-of-n Alignment Policy, for the bound.
    """
    return Shape(beams=1, branches=n, chunk=None)


def chunk_beam(beams: int = 4, branches: int = 4, chunk: int = 5) -> Shape:
    """Keep the W best of W * K partial answers after every L tokens.

    Reference: Zhou et al. (2024), Weak-to-Strong Search; with a guided policy and an explicit value it is Liu et al.
    (2024), Integrated Value Guidance.
    """
    return Shape(beams, branches, chunk)


def blockwise(branches: int = 8, chunk: int = 16) -> Shape:
    """Keep the best of K blocks, again and again.

    Reference: Mudgal et al. (2024), Controlled Decoding.
    """
    return Shape(1, branches, chunk)


def speculative_rejection(n: int = 16, chunk: int = 16, share: float = 0.5) -> Shape:
    """Begin with n answers and drop a share of them, the worst, after every chunk.

    Reference: Sun et al. (2024), Fast Best-of-N Decoding via Speculative Rejection, which drops when memory is full.
    """
    return Shape(n, 1, chunk, Cut(share))


def smc(particles: int = 16, chunk: int = 5, temperature: float = 1.0) -> Shape:
    """Resample answers in proportion to what the last chunk gained.

    With the value ``V`` its answers follow ``policy(y) exp(V(y) / temperature)`` as the number of particles grows.

    Reference: Zhao et al. (2024), Probabilistic Inference in Language Models via Twisted Sequential Monte Carlo.
    """
    return Shape(particles, 1, chunk, Resample(temperature))
