"""How wide, how long and how strict a search is: its settings as a value; named methods are functions that return one.

Every method is the same loop: propose chunks, score, keep, repeat. Which candidates are kept is a rule of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trimtab.decoding.boundary import Boundary, Tokens, Uncertain
from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Candidate:
    """What may be kept at a boundary.

    Args:
        score: of the answer so far.
        before: its score at the boundary before, 0 at the first.
        parent: number of the beam it came from.
        finished: whether it ends here.
        first: score of the first chunk that was proposed in the search.
        progress: how much of the longest answer is written, from 0 to 1; 1 where it ends.
    """

    score: float
    before: float
    parent: int
    finished: bool
    first: float = 0.0
    progress: float = 1.0


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


@dataclass(frozen=True)
class Accept:
    """Keep the first candidate that passes a test, or the best where none does; answers that are not kept are rejected.

    A candidate passes with probability ``min(1, exp((V - threshold_t) / temperature))``. The threshold rises with the
    answer's length from the score of the first chunk to its full height, and a finished answer is held to the full one:
    ``threshold_t = min(threshold, first + (threshold - first) t)``.

    Args:
        threshold: full height, in units of the value.
        temperature: of the test; 0 lets candidates pass that reach the threshold, and no others.

    Raises:
        ConfigError: the threshold is not finite, or the temperature not a number of at least 0.

    Reference: Li et al. (2025), Cascade Reward Sampling; :func:`rejection` says where it deviates.
    """

    threshold: float
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and 0 <= self.temperature < math.inf):
            raise ConfigError(
                given=f"threshold={self.threshold}, temperature={self.temperature} of a rejection",
                expected="a finite threshold, and a temperature of at least 0",
                hint="pick a threshold among the scores of some plain samples",
            )

    def pick(self, candidates: Sequence[Candidate], beams: int, random: np.random.Generator) -> list[int]:
        """Return the one that is kept."""
        lows = self.temperature * np.log1p(-random.random(len(candidates)))  # log of a uniform number is below x
        passed = (i for i, each in enumerate(candidates) if lows[i] <= each.score - self._threshold(each))
        best = max(range(len(candidates)), key=lambda i: candidates[i].score)
        return [next(passed, best)]

    def _threshold(self, each: Candidate) -> float:
        return min(self.threshold, each.first + (self.threshold - each.first) * each.progress)


Keep = Best | Resample | Cut | Accept


@dataclass(frozen=True)
class Shape:
    """The settings of a search.

    Args:
        beams: hypotheses that are kept, W.
        branches: continuations of each, K; W * K rows run at once.
        chunk: where a chunk ends: after L tokens, or at one of the boundaries of
            :mod:`~trimtab.decoding.boundary`; None for whole answers.
        keep: who is kept at a boundary.
        likelihood: weight of the answer's log-probability under the policy, which is added to the value.

    Raises:
        ConfigError: a number is below 1, the weight below 0, or answers are to be accepted on several beams.
    """

    beams: int = 4
    branches: int = 4
    chunk: int | Boundary | None = 5
    keep: Keep = field(default_factory=Best)
    likelihood: float = 0.0

    def __post_init__(self) -> None:
        for name, number in (("beams", self.beams), ("branches", self.branches), ("chunk", self.chunk)):
            if isinstance(number, int) and number < 1:
                raise ConfigError(given=f"{name}={number}", expected="at least 1", hint=f"raise {name}")
        if not isinstance(self.chunk, int | Boundary | None):
            raise ConfigError(
                given=f"chunk={self.chunk!r}",
                expected="a number of tokens, a boundary, or None for whole answers",
                hint="lines(), sentences(), Texts((...)), or Uncertain()",
            )
        if not 0 <= self.likelihood < math.inf:
            raise ConfigError(given=f"likelihood={self.likelihood}", expected="a number of at least 0", hint="raise it")
        if self.rejects and self.beams != 1:
            raise ConfigError(
                given=f"beams={self.beams} where answers are accepted or rejected",
                expected="one beam",
                hint="raise branches, which are the tries",
            )

    @property
    def rows(self) -> int:
        """Rows of one prompt that run at once, W * K."""
        return self.beams * self.branches

    @property
    def boundary(self) -> Boundary | None:
        """Where a chunk ends, None for whole answers."""
        return Tokens(self.chunk) if isinstance(self.chunk, int) else self.chunk

    @property
    def rejects(self) -> bool:
        """Whether finished answers that are not kept are no hypotheses."""
        return isinstance(self.keep, Accept)


def best_of_n(n: int) -> Shape:
    """Sample n answers and keep the best.

    Its KL to the policy is at most ``log n - (n - 1) / n`` nats.

    Reference: Beirami et al. (2024), Theoretical Guarantees on the Best-of-n Alignment Policy, for the bound.
    """
    return Shape(beams=1, branches=n, chunk=None)


def chunk_beam(beams: int = 4, branches: int = 4, chunk: int | Boundary = 5) -> Shape:
    """Keep the W best of W * K partial answers after every chunk.

    Reference: Zhou et al. (2024), Weak-to-Strong Search; with a guided policy and an explicit value it is Liu et al.
    (2024), Integrated Value Guidance.
    """
    return Shape(beams, branches, chunk)


def blockwise(branches: int = 8, chunk: int | Boundary = 16) -> Shape:
    """Keep the best of K blocks, again and again.

    Reference: Mudgal et al. (2024), Controlled Decoding.
    """
    return Shape(1, branches, chunk)


def deal(beams: int = 3, branches: int = 5, chunk: int | Boundary = 10, likelihood: float = 1.0) -> Shape:
    """Keep the W best chunks by the value plus a weight times the log-probability: ``V(y) + likelihood log pi(y)``.

    Reference: Huang et al. (2024), DeAL: Decoding-time Alignment for Large Language Models. It scores a token by
    looking ahead from it and keeps the token alone; here the whole chunk is kept. It weighs the value instead, by what
    is ``1 / likelihood`` here.
    """
    return Shape(beams, branches, chunk, likelihood=likelihood)


def rejection(
    threshold: float,
    tries: int = 8,
    chunk: int | Boundary | None = Uncertain(),  # noqa: B008 -- a frozen value
    temperature: float = 0.5,
) -> Shape:
    """Accept or reject a chunk at a time against a threshold that rises to its full height; see :class:`Accept`.

    The answer that is found is the one that was accepted, not the best that was seen. With ``chunk=None`` it is plain
    rejection of whole answers: where something passes, an answer's probability is in proportion to
    ``policy(y) min(1, exp((V(y) - threshold) / temperature))``.

    Args:
        threshold: in units of the value.
        tries: chunks that are proposed before the best of them is taken.
        chunk: where chunks end; by default where the next token is uncertain.
        temperature: of the test; 0 accepts what reaches the threshold.

    Reference: Li et al. (2025), Cascade Reward Sampling (CARDS). There chunks are drawn one after another; here all
    tries are drawn at once: the first that passes has the same distribution, and those after it are drawn in vain.
    There the threshold starts at the reward of the bare prompt, here at the score of the first chunk; and here a
    finished answer is held to its full height however short it is.
    """
    return Shape(1, tries, chunk, Accept(threshold, temperature))


def speculative_rejection(n: int = 16, chunk: int | Boundary = 16, share: float = 0.5) -> Shape:
    """Begin with n answers and drop a share of them, the worst, after every chunk.

    Reference: Sun et al. (2024), Fast Best-of-N Decoding via Speculative Rejection, which drops when memory is full.
    """
    return Shape(n, 1, chunk, Cut(share))


def smc(particles: int = 16, chunk: int | Boundary = 5, temperature: float = 1.0) -> Shape:
    """Resample answers in proportion to what the last chunk gained.

    With the value ``V`` its answers follow ``policy(y) exp(V(y) / temperature)`` as the number of particles grows.

    Reference: Zhao et al. (2024), Probabilistic Inference in Language Models via Twisted Sequential Monte Carlo.
    """
    return Shape(particles, 1, chunk, Resample(temperature))
