"""The search of one prompt: what has been proposed for it, what goes on, and what has been found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab.decoding.answer import Answer
from trimtab.decoding.generate import to_answer
from trimtab.decoding.ledger import Owner
from trimtab.decoding.request import Row, Settings
from trimtab.decoding.sampling import seed_of
from trimtab.decoding.shape import Candidate, Shape
from trimtab.decoding.trace import Node, Trace
from trimtab.errors import RewardError, TrimtabError
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class Found:
    """What a search found for one prompt.

    Args:
        hypotheses: finished answers with their scores, best first.
        trace: what was proposed, scored and kept.
        kl: where tokens were chosen among candidates, the exact KL of each choice to the reference, in nats: of the
            distribution that the token was drawn from, with value, cuts and temperature. An answer's own costs are
            those of the policy.
    """

    hypotheses: tuple[tuple[Answer, float], ...]
    trace: Trace
    kl: tuple[float, ...] = ()

    @property
    def best(self) -> Answer:
        """The answer with the highest score."""
        return self.hypotheses[0][0]

    @property
    def way(self) -> tuple[Node, ...]:
        """The chunks of the best answer, from the first to the last."""
        nodes, score = self.trace.nodes, self.hypotheses[0][1]
        ends = [node for node in nodes if node.finish not in (None, "error") and node.score == score]
        node = max(ends, key=lambda node: node.kept > 0, default=None)
        way: list[Node] = []
        while node is not None:
            way.append(node)
            node = None if node.parent is None else nodes[node.parent]
        return tuple(reversed(way))


@dataclass(frozen=True)
class Proposal:
    """A chunk that was proposed.

    Args:
        parent: the chunk it continues, None at the start.
        text: of the chunk.
        tokens: number of its tokens.
        score: of the answer so far.
        before: its score without the chunk.
        length: tokens of the answer so far.
        row: the whole answer, if it ends here.
    """

    parent: int | None
    text: str
    tokens: int
    score: float
    before: float
    length: int
    row: Row | None


class Hunt:
    """The search of one prompt so far.

    Args:
        owner: of its first row.
        shape: of the search.
    """

    def __init__(self, owner: Owner, shape: Shape) -> None:
        request, settings = owner.request, owner.settings
        self.nodes: list[Node] = []
        self._shape, self._depth, self._longest = shape, 0, settings.max_new_tokens
        self._first: float | None = None
        self._ended: dict[int, tuple[Row, float]] = {}  # finished answers and their scores, by chunk
        self._held: list[int] = []  # those that hold a place among the beams, some more than once
        self._error: TrimtabError | None = None
        key = seed_of(settings.seed, request.prompt, request.occurrence, shape.rows)  # no row has this number
        self._random = np.random.Generator(np.random.Philox(key))

    def keep(self, proposed: Sequence[Proposal]) -> list[int]:
        """Take note of what was proposed; return which of the proposals go on, some of them more than once."""
        first = len(self.nodes)
        for place, each in enumerate(proposed):
            finish = None if each.row is None else each.row.finish
            score, number = each.score, first + place
            self.nodes.append(Node(number, each.parent, self._depth, each.text, each.tokens, score, 0, finish))
            if each.row is not None and each.row.error is not None:
                self._error = each.row.error
            elif each.row is not None and not math.isnan(score):
                self._ended[number] = (each.row, score)
        self._depth += 1
        numbers = [*self._held, *(first + i for i, each in enumerate(proposed) if _eligible(each))]
        if self._first is None:
            self._first = next((each.score for each in proposed if _eligible(each)), None)
        candidates = [self._candidate(number, proposed, first) for number in numbers]
        picked = self._shape.keep.pick(candidates, self._shape.beams, self._random) if candidates else []
        kept = [numbers[i] for i in picked]
        for number in kept:
            self.nodes[number] = replace(self.nodes[number], kept=self.nodes[number].kept + 1)
        self._held = [number for number in kept if number in self._ended]
        if self._shape.rejects:
            self._ended = {number: self._ended[number] for number in self._held}
        return [number - first for number in kept if number not in self._ended]

    def _candidate(self, number: int, proposed: Sequence[Proposal], first: int) -> Candidate:
        """Return a new chunk as a candidate, or an answer that ended before: a beam of its own that gains nothing."""
        if number < first:
            score = self._ended[number][1]
            return Candidate(score, score, -1 - number, finished=True)
        each = proposed[number - first]
        parent, finished = -1 if each.parent is None else each.parent, each.row is not None
        assert self._first is not None
        progress = 1.0 if finished else each.length / self._longest
        return Candidate(each.score, each.before, parent, finished, self._first, progress)

    def found(self, prompt: str, vocabulary: Vocabulary, settings: Settings) -> Found:
        """Return what was found, best first."""
        if not self._ended:
            raise self._error or RewardError(
                given=f"a value that could score nothing that was proposed for {prompt!r}",
                expected="a number for at least one answer",
                hint="the warnings above say what failed",
            )
        ordered = sorted(self._ended.values(), key=lambda each: -each[1])
        answers = tuple((to_answer(row, prompt, vocabulary, settings), score) for row, score in ordered)
        return Found(answers, Trace(tuple(self.nodes)))


def _eligible(each: Proposal) -> bool:
    return not math.isnan(each.score) and (each.row is None or each.row.error is None)
